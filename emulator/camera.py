"""The camera: electrons in, digital numbers out (after EMVA 1288: μ_y = K μ_e, σ_y² = K² (σ_d² + μ_e) + 1/12)."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.checks import require
from optical_dfa.emulator.hashing import Key, hash_words
from optical_dfa.emulator.normals import standard_normals

Image = npt.NDArray[np.uint8 | np.uint16 | np.float64]
Real = npt.NDArray[np.float32 | np.float64]


@dataclass(frozen=True)
class Camera:
    """A monochrome camera whose noise is a pure function of (seed, stream, frame, pixel).

    Off values give the ideal camera: no shot noise, `read_noise_e` 0, `full_well_e` inf, `adc_bits` None.
    """

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    shot_noise: bool
    """Photon shot noise, Gaussian with the variance of the Poisson law; good above about 20 e-."""
    read_noise_e: float
    """Standard deviation of the read noise, electrons."""
    full_well_e: float
    """Electrons at which a pixel saturates; inf: never."""
    gain_dn_per_e: float
    """System gain K, digital numbers per electron."""
    adc_bits: int | None
    """8, 10 or 12; None: no converter, images are float64 digital numbers."""

    def __post_init__(self) -> None:
        require(0 <= self.read_noise_e < math.inf, "read_noise_e", self.read_noise_e, "a finite number ≥ 0, electrons")
        require(self.full_well_e > 0, "full_well_e", self.full_well_e, "electrons > 0, or .inf for none")
        require(0 < self.gain_dn_per_e < math.inf, "gain_dn_per_e", self.gain_dn_per_e, "digital numbers per e-, > 0")
        require(self.adc_bits in (None, 8, 10, 12), "adc_bits", self.adc_bits, "8, 10, 12 or null (no converter)")

    @property
    def noiseless(self) -> bool:
        """Nothing random happens and nothing is rounded or clipped."""
        return not (self.shot_noise or self.read_noise_e or self.adc_bits) and self.full_well_e == math.inf

    @property
    def image_dtype(self) -> np.dtype[Any]:
        """Data type of the images: uint8, uint16 or, without a converter, float64."""
        if self.adc_bits is None:
            return np.dtype(np.float64)
        return np.dtype(np.uint8 if self.adc_bits == 8 else np.uint16)

    @property
    def saturation_dn(self) -> float:
        """Digital number of a saturated pixel: min(full well · K, 2^bits - 1), rounded as the converter does."""
        if self.adc_bits is None:
            return self.full_well_e * self.gain_dn_per_e
        full_well_dn = np.float32(self.full_well_e) * np.float32(self.gain_dn_per_e)  # float32, as `expose` computes it
        return min(float(np.rint(full_well_dn)), float(2**self.adc_bits - 1))

    def expose(self, mean_e: Real, noise_key: Key, first_pixel: int = 0) -> Image:
        """Images of a mean number of electrons.

        Args:
            mean_e: (frames, pixels) mean photo-electrons of each pixel and exposure; float32, or float64 without a
                converter.
            noise_key: one key for each frame, (frames, 1); the counter is the pixel's index.
            first_pixel: index of the first pixel, where these are a part of an image.

        Returns:
            (frames, pixels) images of `image_dtype`, in digital numbers.
        """
        signal: npt.NDArray[Any] = mean_e
        if self.shot_noise or self.read_noise_e:
            pixels = np.arange(first_pixel, first_pixel + mean_e.shape[1], dtype=np.uint32)
            noise = standard_normals(hash_words(pixels, noise_key))
            # One normal number carries both: the sum of independent Gaussians is the Gaussian of the summed variances.
            variance = mean_e * np.float32(self.shot_noise) + np.float32(self.read_noise_e**2)
            noise *= np.sqrt(variance, out=variance)
            signal = noise + mean_e
        if self.full_well_e < math.inf:
            signal = np.minimum(signal, np.asarray(self.full_well_e, signal.dtype))
        signal = signal * np.asarray(self.gain_dn_per_e, signal.dtype)
        if self.adc_bits is None:
            return signal.astype(np.float64, copy=False)
        np.rint(signal, out=signal)
        return np.clip(signal, 0, 2**self.adc_bits - 1, out=signal).astype(self.image_dtype)
