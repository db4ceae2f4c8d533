"""The bench's own product: random features |T x|², not linear."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.readouts.base import Bench, Reading, count_saturated, real_type
from optical_dfa.devices.readouts.maps import Calibration, Maps, inverse, take_maps
from optical_dfa.emulator import FrameStamp
from optical_dfa.emulator.checks import require


class IntensityFeatures:
    """Speckle intensity |A x|² at every pixel, in electrons: the optical random features of Saade et al. 2016.

    One frame a pattern, the reference arm blocked (Random projections through multiple optical scattering,
    arXiv 1510.06664). The features approximate a kernel: mean |A x|² |A y|² = Is_x Is_y (1 + cos²(x, y)) over pixels.
    They are not linear in x, so this is no projection device, and cannot drive Direct Feedback Alignment.

    Variance of a feature: I + s² + q²/12 + dark.

    Args:
        bench: any bench.
        calibration: maps to take in `calibrate`; without reference frames.
    """

    frames_per_pattern = 1

    def __init__(self, bench: Bench, *, calibration: Calibration = Calibration()) -> None:  # noqa: B008  # frozen
        reference_frames = calibration.reference_frames
        require(reference_frames == 0, "reference_frames", reference_frames, "0: the reference arm is blocked")
        self._bench, self._calibration = bench, calibration
        self.n_outputs = math.prod(bench.info.image_shape)
        self.maps = Maps()

    def calibrate(self, at: FrameStamp) -> int:
        """Take the maps of `calibration`; returns the frames used."""
        self.maps, frames = take_maps(self._bench, self._calibration, at)
        return frames

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """The calibrated maps."""
        return self.maps.state_dict()

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over the maps of `state_dict`."""
        self.maps = Maps.from_state(state, self.n_outputs)

    def read(self, patterns: npt.NDArray[np.uint8], at: FrameStamp) -> Reading:
        """Intensities behind each binary pattern.

        Args:
            patterns: uint8 (patterns, n_frame_inputs), 0 or 1.
            at: stamp of the first frame.

        Returns:
            `amplitude` holds the intensities, (patterns, pixels), electrons; noise may make them negative.
        """
        images = self._bench.expose(patterns, reference=False, at=at)
        real = real_type(images)
        dark = 0.0 if self.maps.dark_dn is None else self.maps.dark_dn.astype(real)
        intensity = (images.reshape(len(patterns), -1) - dark) * real(1 / self._bench.info.gain_dn_per_e)
        if self.maps.flat is not None:
            intensity *= inverse(self.maps.flat)
        saturated = count_saturated(images, self._bench.info.saturation_dn)
        return Reading(intensity.astype(real, copy=False), len(patterns), saturated, images.size)
