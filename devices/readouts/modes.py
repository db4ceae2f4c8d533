"""What the readouts that return modes have in common: phase stepping and off-axis."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.readouts.base import Bench
from optical_dfa.devices.readouts.maps import Calibration, Maps, take_maps
from optical_dfa.emulator import FrameStamp
from optical_dfa.emulator.checks import require
from optical_dfa.emulator.pupil import Pupil


class ModeReadout:
    """Both quadratures of every mode, measured against a reference arm: output o is row o of T. See `Readout`.

    Args:
        bench: one with a reference arm.
        reference_e: level of the reference arm as calibrated, electrons per pixel and exposure.
        pupil: of the images; None: one mode per pixel.
        calibration: maps to take in `calibrate`.
    """

    outputs_per_mode = 2

    def __init__(self, bench: Bench, reference_e: float, pupil: Pupil | None, calibration: Calibration) -> None:
        shape = bench.info.image_shape
        if pupil is not None:
            require(pupil.image_shape == shape, "pupil.image_shape", pupil.image_shape, f"that of the images, {shape}")
        require(0 < reference_e < math.inf, "reference_e", reference_e, "a finite number > 0, electrons")
        self.n_pixels = math.prod(shape)
        self.n_modes = self.n_pixels if pupil is None else pupil.n_modes
        self._bench, self._reference_e, self._calibration = bench, reference_e, calibration
        self._set_maps(Maps())

    @property
    def n_pattern_inputs(self) -> int:
        """Binary elements of a pattern: those of a frame."""
        return self._bench.info.n_frame_inputs

    @property
    def n_outputs(self) -> int:
        """Two quadratures of each mode: 2m and 2m+1."""
        return 2 * self.n_modes

    @property
    def mode_of_output(self) -> npt.NDArray[np.int64]:
        """See `Readout`."""
        return np.arange(self.n_outputs) // 2

    def mix(self, rows: npt.NDArray[Any], outputs: slice = slice(None)) -> npt.NDArray[Any]:
        """Even outputs take the first row of their pair, odd ones the other. See `Readout`."""
        pairs = rows.reshape(-1, 2, rows.shape[1])
        return np.asarray(pairs[np.arange(len(pairs)), np.arange(self.n_outputs)[outputs] % 2])

    def calibrate(self, at: FrameStamp) -> int:
        """Take the maps of `calibration`; returns the frames used."""
        maps, frames = take_maps(self._bench, self._calibration, at)
        self._set_maps(maps)
        return frames

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """The calibrated maps."""
        return self.maps.state_dict()

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over the maps of `state_dict`."""
        self._set_maps(Maps.from_state(state, self.n_pixels))

    def _set_maps(self, maps: Maps) -> None:
        self.maps = maps
