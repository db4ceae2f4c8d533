"""One emulated device, with the exact projection to compare with."""

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.devices import EmulatedDevice, Preset
from optical_dfa.devices.errors import SaturationWarning
from optical_dfa.devices.readouts.maps import Calibration
from optical_dfa.emulator import Camera, FrameStamp
from optical_dfa.emulator.laser import Laser
from optical_dfa.emulator.medium import Medium
from optical_dfa.run_errors import InputError
from optical_dfa.view.theory import Floats

_TRUTH_ENTRIES = 1 << 22
_IMAGES = 1
"""Stream of the images that are only looked at."""


class Sight:
    """A device at time 0.

    Args:
        preset: bench and readout.
        n_inputs, n_outputs: sizes.
        seed: of matrix and noise.

    Raises:
        InputError: a bench that the readout cannot read, or that is too small.
    """

    def __init__(self, preset: Preset, n_inputs: int, n_outputs: int, seed: int) -> None:
        try:
            self._device = EmulatedDevice(n_inputs=n_inputs, n_outputs=n_outputs, seed=seed, preset=preset, stream=0)
        except ValueError as error:
            raise InputError(f"{preset.name}: {error}") from None
        self._start = self._device.state_dict()
        self.info, self.bench = self._device.info, self._device.bench
        self.steps = self.info.frames_per_vector // 2

    def images(self, patterns: npt.NDArray[np.uint8], reference: bool) -> npt.NDArray[Any]:
        """One image of each pattern (patterns, rows, columns), or with the reference arm one of each step."""
        steps = self.steps if reference else 1
        phases = np.tile(np.arange(steps) * (2 * np.pi / steps), len(patterns))
        first = len(patterns) * reference
        frames = patterns.repeat(steps, axis=0)
        return self.bench.expose(frames, phases=phases, reference=reference, at=FrameStamp(_IMAGES, first))

    def project(self, vectors: npt.NDArray[np.int8]) -> Floats:
        """What the device makes of ternary vectors, (vectors, n_outputs); the first frame is at time 0."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SaturationWarning)  # how much is clipped is among the numbers
            with self._device as device:
                device.load_state_dict(self._start)
                return device.project(vectors).astype(np.float64)

    def truth(self, vectors: npt.NDArray[Any]) -> Floats:
        """The exact projection (vectors, n_outputs) at time 0."""
        found = np.empty((len(vectors), self.info.n_outputs))
        step = max(2, _TRUTH_ENTRIES // self.info.n_inputs // 2 * 2)
        for first in range(0, self.info.n_outputs, step):
            rows = slice(first, min(first + step, self.info.n_outputs))
            found[:, rows] = vectors.astype(np.float64) @ self._device.effective_matrix(rows).T.astype(np.float64)
        return found


def perfect_camera(preset: Preset, saturation_e: float = math.inf) -> Preset:
    """The preset with a camera that has no noise, and saturates at so many electrons."""
    perfect = Camera(
        shot_noise=False,
        read_noise_e=0.0,
        full_well_e=saturation_e,
        gain_dn_per_e=preset.bench.camera.gain_dn_per_e,
        adc_bits=None,
        dropped_frames=preset.bench.camera.dropped_frames,
    )
    return replace(preset, bench=replace(preset.bench, camera=perfect))


def is_steady(preset: Preset) -> bool:
    """Nothing but the camera disturbs the projection."""
    bench, laser = preset.bench, preset.bench.laser
    still = Laser(
        tilt_x=laser.tilt_x,
        tilt_y=laser.tilt_y,
        signal_waist=laser.signal_waist,
        reference_waist=laser.reference_waist,
    )
    off = bench.medium == Medium() and laser == still and not bench.camera.dropped_frames
    return off and preset.readout.calibration == Calibration()
