"""Fields drawn by their statistics while the piston phase is tracked: probes are few, their images are computed."""

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.base import Fields, Usage
from optical_dfa.devices.readouts.base import later
from optical_dfa.devices.readouts.tracking import PhaseTracker, Track, turn_back
from optical_dfa.emulator import FrameStamp
from optical_dfa.emulator.statistical import StatisticalReadout
from optical_dfa.emulator.statistical_light import STEPS


def draw_tracked(
    statistical: StatisticalReadout,
    tracker: PhaseTracker,
    track: Track,
    vectors: npt.NDArray[np.int8],
    always_lit: bool,
    at: FrameStamp,
    fields: Fields,
) -> tuple[Usage, Track]:
    """Fill fields (vectors, outputs), an even number, of vectors shown from frame `at` on.

    Probes have the frames that `PhaseTracker.read` gives them, and so the same images.

    Args:
        statistical: draws the fields.
        tracker: of the readout.
        track: after what was displayed before.
        vectors: int8 (vectors, inputs).
        always_lit: a dark side is displayed beside a lit one.
        at: stamp of the first frame.
        fields: filled.

    Returns:
        What displaying takes, probes included, and the track behind the vectors.
    """
    lit = np.stack([(vectors > 0).any(axis=1), (vectors < 0).any(axis=1)], axis=1)
    sides = np.where(always_lit & lit.any(axis=1), 2, lit.sum(axis=1))
    displayed = np.flatnonzero(sides)
    probed = displayed[tracker.due(track, len(displayed))]
    pauses = np.zeros(len(vectors), np.int64)
    pauses[probed] = tracker.frames_per_probe
    usage = Usage(**vars(statistical.read(vectors, at, fields, pauses)))
    frames = STEPS * sides + pauses
    begins = np.cumsum(frames) - frames
    readings = [tracker.read_probe(later(at, int(begins[vector]))) for vector in probed]
    for reading in readings:
        usage.add(
            Usage(
                frames=reading.frames, saturated_pixels=reading.saturated_pixels, pixel_readings=reading.pixel_readings
            )
        )
    phases, track = tracker.follow(track, [reading.amplitude[0] for reading in readings], len(displayed))
    turn_back(fields, phases[np.cumsum(pauses > 0)])
    return usage, track
