"""Speckle grain larger than a pixel: the image is band-limited by a pupil, and the modes live in the pupil plane.

A lens pupil of width D at distance z gives grains of d = λz/D on the camera: the field has no spatial frequencies
beyond k_c = 1/(2d) cycles per pixel (Goodman, Speckle Phenomena in Optics, §4). An image of P pixels then holds only
M ≈ π k_c² · P independent modes (circular pupil) or (2 k_c)² · P (square). They are the bins of the image's discrete
Fourier plane inside the pupil, and the image is periodic:

    field(p) = 1/√M · Σ_m mode_m · exp(2πi k_m·p)        so that the mean of |field|² is that of |mode|²
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.checks import require

PupilShape = Literal["circular", "square"]

_INSIDE = 1 + 1e-12  # a bin on the rim is inside, whatever the rounding of its frequency


def pupil_bins(image_shape: tuple[int, int], grain_px: float, pupil: PupilShape = "circular") -> npt.NDArray[np.int64]:
    """Bins of the Fourier plane inside the pupil.

    Args:
        image_shape: rows and columns, pixels.
        grain_px: speckle grain d in pixels, at least 1.
        pupil: `circular`, |k| ≤ 1/(2d), or `square`, |k_x| ≤ 1/(2d) and |k_y| ≤ 1/(2d).

    Returns:
        int64 (modes,), indices into the flattened `numpy.fft.fft2` of an image, increasing. Mode m is entry m.

    Raises:
        ValueError: a grain below 1 pixel, or an unknown pupil.
    """
    require(1 <= grain_px < math.inf, "grain_px", grain_px, "a finite number ≥ 1, pixels")
    require(pupil in get_args(PupilShape), "pupil", pupil, " or ".join(map(repr, get_args(PupilShape))))
    limit = _INSIDE / (2 * grain_px)
    frequencies = [np.abs(np.fft.fftfreq(n)) for n in image_shape]
    rows, columns = (np.flatnonzero(frequency <= limit) for frequency in frequencies)
    bins: npt.NDArray[np.int64] = rows[:, None] * image_shape[1] + columns
    if pupil == "circular":
        bins = bins[frequencies[0][rows, None] ** 2 + frequencies[1][columns] ** 2 <= limit**2]
    return bins.reshape(-1)


def smallest_shape(n_modes: int, grain_px: float, pupil: PupilShape = "circular", multiple: int = 1) -> tuple[int, int]:
    """Smallest square image, with sides that are a multiple of `multiple` pixels, that holds `n_modes` modes."""
    require(n_modes >= 1, "n_modes", n_modes, "an int ≥ 1")
    area = math.pi / 4 if pupil == "circular" else 1.0
    # a disc of radius r holds at most π (r + 1/√2)² bins, a square (2 r + 1)²: no smaller image has enough
    side = max(1, int(grain_px * (math.sqrt(n_modes / area) - 1.5) / multiple)) * multiple
    while len(pupil_bins((side, side), grain_px, pupil)) < n_modes:
        side += multiple
    return side, side


@dataclass(frozen=True)
class Pupil:
    """The pupil of one image: from modes to the field on the camera, and back.

    Args:
        image_shape: rows and columns, pixels.
        grain_px: speckle grain in pixels, at least 1.
        shape: `circular` or `square`.
    """

    image_shape: tuple[int, int]
    grain_px: float
    shape: PupilShape = "circular"
    bins: npt.NDArray[np.int64] = field(init=False, repr=False, compare=False)
    """As of `pupil_bins`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "bins", pupil_bins(self.image_shape, self.grain_px, self.shape))

    @property
    def n_modes(self) -> int:
        """Modes of an image, M."""
        return len(self.bins)

    @property
    def n_pixels(self) -> int:
        """Pixels of an image, P."""
        return math.prod(self.image_shape)

    @property
    def kept_fraction(self) -> float:
        """M / P, the part of the Fourier plane inside the pupil: white noise of the image is reduced to it."""
        return self.n_modes / self.n_pixels

    @property
    def cutoff(self) -> float:
        """k_c = 1/(2d), cycles per pixel."""
        return 1 / (2 * self.grain_px)

    def to_image(self, modes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Complex field (…, rows, columns) of modes (…, n_modes); complex64 stays complex64."""
        plane = np.zeros((*modes.shape[:-1], self.n_pixels), np.result_type(modes.dtype, np.complex64))
        plane[..., self.bins] = modes
        image = np.fft.ifft2(plane.reshape(*modes.shape[:-1], *self.image_shape), norm="ortho")
        image *= plane.real.dtype.type(math.sqrt(1 / self.kept_fraction))
        return image

    def to_modes(self, image: npt.NDArray[Any], carrier_bin: tuple[int, int] = (0, 0)) -> npt.NDArray[Any]:
        """Modes (…, n_modes) of a field or image (…, rows, columns): the inverse of `to_image`.

        Args:
            image: real or complex.
            carrier_bin: row and column of the Fourier plane where the pupil's centre lies.
        """
        rows, columns = self.image_shape
        at = (self.bins // columns + carrier_bin[0]) % rows * columns + (self.bins % columns + carrier_bin[1]) % columns
        plane = np.fft.fft2(image, norm="ortho").reshape(*image.shape[:-2], self.n_pixels)
        modes: npt.NDArray[Any] = plane[..., at]
        modes *= modes.real.dtype.type(math.sqrt(self.kept_fraction))
        return modes
