"""Laser, signal arm and reference arm: what changes from frame to frame, what is not as set, how light falls."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.checks import require
from optical_dfa.emulator.hashing import derive_key, hash_words
from optical_dfa.emulator.normals import standard_normals

_INTENSITY = 3  # separates these keys from those of other noise of the bench


@dataclass(frozen=True)
class Laser:
    """Light source, signal arm and reference arm. Defaults: off."""

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    intensity_noise: float = 0.0
    """Relative standard deviation of the power from frame to frame."""
    reference_error: float = 0.0
    """Relative error of the reference level (of its intensity) against the calibrated one."""
    phase_step_error: float = 0.0
    """Relative error of the phase modulator: a step of φ turns the phase by φ · (1 + error)."""
    tilt_x: float = 0.0
    """Fringes of the reference arm across the camera, cycles per pixel along a row."""
    tilt_y: float = 0.0
    """The same along a column."""
    signal_waist: float = math.inf
    """1/e² radius (intensity) of the speckle on the camera, in half widths of the image."""
    reference_waist: float = math.inf
    """The same of the reference arm."""

    def __post_init__(self) -> None:
        noise = self.intensity_noise
        require(0 <= noise < 0.18, "intensity_noise", noise, "from 0 to 0.18: power stays positive")
        for name in ("reference_error", "phase_step_error"):
            value = getattr(self, name)
            require(-1 < value < math.inf, name, value, "a relative error > -1")
        for name in ("tilt_x", "tilt_y"):
            value = getattr(self, name)
            require(-0.5 <= value <= 0.5, name, value, "from -0.5 to 0.5 cycles per pixel")
        for name in ("signal_waist", "reference_waist"):
            value = getattr(self, name)
            require(value > 0, name, value, "half widths > 0, or .inf")

    def power(self, seed: int, stream: int, frame: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
        """Power in each frame relative to the mean, (frames,)."""
        if not self.intensity_noise:
            return np.ones(len(frame))
        words = hash_words(np.zeros(len(frame), np.uint32), derive_key(seed, _INTENSITY, stream, frame))
        return 1 + self.intensity_noise * standard_normals(words).astype(np.float64)

    def signal_profile(self, shape: tuple[int, int]) -> npt.NDArray[np.float32] | None:
        """Amplitude of the speckle over the image, (pixels,), of mean square 1; None: even."""
        return None if self.signal_waist == math.inf else _beam(shape, self.signal_waist).astype(np.float32)

    def reference_profile(
        self, shape: tuple[int, int], real: type[np.float32 | np.float64] = np.float32
    ) -> npt.NDArray[Any] | None:
        """Real and imaginary part of the reference arm over the image, (2, pixels), of mean square 1; None: even."""
        if not (self.tilt_x or self.tilt_y) and self.reference_waist == math.inf:
            return None
        row, column = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
        cycles = self.tilt_x * column + self.tilt_y * row
        angle = 2 * np.pi * (cycles - np.rint(cycles))
        wave = np.stack([np.cos(angle), np.sin(angle)]) * _beam(shape, self.reference_waist)
        return wave.astype(real)


def _beam(shape: tuple[int, int], waist: float) -> npt.NDArray[np.float64]:
    """Amplitude of a Gaussian beam centred on the image, (pixels,), of mean square 1."""
    row, column = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
    half = shape[1] / 2  # the longer side: an image of few outputs is a single row
    y, x = (row + 0.5 - shape[0] / 2) / half, (column + 0.5 - half) / half
    square = (x**2 + y**2) / waist**2
    amplitude = np.exp(square.min() - square)
    beam: npt.NDArray[np.float64] = amplitude / math.sqrt(np.mean(amplitude**2))
    return beam
