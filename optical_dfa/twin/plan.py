"""Frames from which everything that can be told of a bench can be told, and showing them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optical_dfa.devices import Bench, ProjectionDevice, RecordingBench, SyncedBench
from optical_dfa.emulator import BenchInfo, FrameStamp
from optical_dfa.measure import BlockHadamard
from optical_dfa.measure.probes import full_weight
from optical_dfa.run_errors import InputError
from optical_dfa.twin.observed import Exchange, Observed, Source, observed

STREAM = (1 << 64) - 2
"""Stream of the frames, on an emulated bench: no device shows any in it."""

STEPS = np.arange(4) * (math.pi / 2)

DARK_FRAMES = 64

PROBE_EVERY = 16
"""Patterns from one look at the probe, which tells how the phase drifts, to the next."""

ALONE = 64
"""Most patterns that are shown once without the reference arm, which tells how well light interferes."""

LOOKS = 24
"""Looks at the probe while the medium is watched, at times in geometric progression."""

REQUEST = 256
"""Frames of a request, about."""

TRIAL = 8
"""Patterns, each side of each probe, of which none may saturate a pixel."""

Progress = Callable[[int, int], None]
Frames = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64], bool]
"""Patterns (frames, inputs), their phases, reference arm open or not."""


@dataclass(frozen=True)
class Plan:
    """What is shown."""

    repeats: int = 8
    """Times that each pattern is shown in four steps; from the scatter between them comes the noise."""
    watch_s: float = 0.0
    """How long the medium is watched afterwards, seconds of the bench; 0: not at all."""

    def __post_init__(self) -> None:
        whole = isinstance(self.repeats, int) and not isinstance(self.repeats, bool)
        if not whole or self.repeats < 2:
            raise InputError(f"repeats must be an int, 2 or more: noise is what differs; got {self.repeats!r}")
        if not 0 <= self.watch_s < math.inf:
            raise InputError(f"watch_s must be seconds ≥ 0; got {self.watch_s!r}")


def show_plan(
    device: ProjectionDevice,
    plan: Plan = Plan(),
    *,
    pause: Callable[[float], None] | None = None,
    progress: Progress | None = None,
) -> Observed:
    """Show a plan on the bench of an open device.

    Shown are dark frames; both sides of Hadamard probes, of as many inputs as do not saturate the camera, and a pattern
    without features, each in four steps, `repeats` times over; a probe among them; patterns without the reference
    arm; and, for `watch_s`, the probe at growing distances.

    Args:
        device: open, with frames and a phase modulator.
        plan: what to show.
        pause: waits so many seconds, for a bench whose time passes by itself, as `time.sleep` does. None: the time of a
            frame is what its stamp says, as on an emulated bench.
        progress: told (frames shown, frames in all).

    Raises:
        InputError: a device without frames, or a bench that this plan cannot read.
        DeviceError: the device failed.
    """
    exchanges: list[Exchange] = []
    benches: list[Bench] = []

    def look(bench: Bench) -> Bench:
        benches.append(bench)
        return bench

    if not device.wrap_bench(look):
        raise InputError(f"device {device.info.name!r} shows no frames: a twin is made of a device with a bench")
    bench = RecordingBench(benches[0], lambda meta, arrays: exchanges.append((meta, arrays)))
    check_bench(bench.info)
    marked = device.settings.get("integrity") == "marks" or bool(device.settings["readout"].get("sync_every"))
    shown: Bench = SyncedBench(bench, repeats=3) if marked else bench
    frame_time_s = bench.frame_time_us * 1e-6
    rounds = _rounds(shown, device.info.n_inputs, plan)
    exchanges.clear()  # of the trial
    total = sum(len(frames[0]) for frames in rounds) + len(STEPS) * LOOKS * bool(plan.watch_s)
    done = 0
    for frames in rounds:
        _show(shown, frames, done, done * frame_time_s)
        done += len(frames[0])
        if progress:
            progress(done, total)
    begin_s, before_s, before = done * frame_time_s, 0.0, len(exchanges)
    for after_s in np.geomspace(1e-3, 1, LOOKS) * plan.watch_s if plan.watch_s else ():
        if pause is not None:
            pause(float(after_s) - before_s)
        before_s = float(after_s)
        _show(shown, _stepped(_probe(bench.info.n_frame_inputs, device.info.n_inputs)), done, begin_s + before_s)
        done += len(STEPS)
        if progress:
            progress(done, total)
    settings = device.settings
    source = Source(
        device.info.name, device.fingerprint, settings, *_configured(device), frame_time_us=bench.frame_time_us
    )
    return observed(bench.info, device.info.n_inputs, source, exchanges, watching=len(exchanges) - before)


def check_bench(info: BenchInfo) -> None:
    """Refuse a bench that no twin can be made of.

    Raises:
        InputError: no reference arm that can be stepped, or pixels that are not modes.
    """
    if not (info.has_reference and info.has_phase_modulator):
        raise InputError("a twin needs a reference arm with a phase modulator: fields are found by stepping its phase")
    if info.carrier is not None or info.grain_px > 1:
        raise InputError(
            f"a twin has one speckle mode a pixel and a level reference arm; this bench has a grain of "
            f"{info.grain_px:g} pixels{'' if info.carrier is None else ' and a tilted one'}: use measure-matrix for it"
        )


def _rounds(bench: Bench, n_inputs: int, plan: Plan) -> list[Frames]:
    """All frames but those of the watch, request by request."""
    elements = bench.info.n_frame_inputs
    sides = _sides(_unsaturated(bench, n_inputs), elements)
    none = np.zeros((1, elements), np.uint8)
    probe = _probe(elements, n_inputs)
    rounds: list[Frames] = [(np.repeat(none, DARK_FRAMES, axis=0), np.zeros(DARK_FRAMES), False)]
    per_request = min(PROBE_EVERY, REQUEST // len(STEPS))
    for _ in range(plan.repeats):
        for first in range(0, len(sides), per_request):
            rounds.append(_stepped(np.concatenate([probe, none, sides[first : first + per_request]])))
    alone = np.repeat(sides[np.linspace(0, len(sides) - 1, min(ALONE, len(sides))).astype(np.int64)], 2, axis=0)
    rounds.append((alone, np.zeros(len(alone)), False))
    return rounds


def _sides(probes: BlockHadamard, elements: int) -> npt.NDArray[np.uint8]:
    vectors = probes.vectors(0, probes.n_probes)
    sides = np.zeros((2 * len(vectors), elements), np.uint8)
    sides[0::2, : probes.n_inputs], sides[1::2, : probes.n_inputs] = vectors > 0, vectors < 0
    return sides[sides.any(axis=1)]


def _probe(elements: int, n_inputs: int) -> npt.NDArray[np.uint8]:
    """The pattern that is seen again and again: two features, as bright as usual vectors."""
    probe = np.zeros((1, elements), np.uint8)
    probe[0, : min(2, n_inputs)] = 1
    return probe


def _unsaturated(bench: Bench, n_inputs: int) -> BlockHadamard:
    """Probes of the largest weight of which a trial saturates nothing."""
    weight = full_weight(n_inputs)
    while True:
        probes = BlockHadamard(n_inputs, weight)
        sides = _sides(probes, bench.info.n_frame_inputs)[: 2 * TRIAL]
        patterns, phases, reference = _stepped(sides)
        images = bench.expose(patterns, phases=phases, reference=reference, at=FrameStamp(STREAM, 1 << 40, 0.0))
        clipped = np.mean(images >= bench.info.saturation_dn)
        if weight == 1 or clipped < 1e-4:
            return probes
        weight //= 2


def _stepped(patterns: npt.NDArray[np.uint8]) -> Frames:
    return np.repeat(patterns, len(STEPS), axis=0), np.tile(STEPS, len(patterns)), True


def _show(bench: Bench, frames: Frames, first: int, time_s: float) -> None:
    patterns, phases, reference = frames
    bench.expose(patterns, phases=phases, reference=reference, at=FrameStamp(STREAM, first, time_s))


def _configured(device: ProjectionDevice) -> tuple[float, float]:
    """Exposure and reference level of a device with a bench."""
    light = device.settings.get("photometry", device.settings)
    return float(light["exposure_us"]), float(light["reference_e"])
