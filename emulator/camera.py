"""The camera: photons in, digital numbers out (EMVA 1288: μ_y = K(μ_d + ημ_p), σ_y² = K²(σ_d² + ημ_p) + 1/12)."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.checks import require
from optical_dfa.emulator.hashing import Key, derive_key, hash_words
from optical_dfa.emulator.normals import standard_normals

Image = npt.NDArray[np.uint8 | np.uint16 | np.float64]
Real = npt.NDArray[np.float32 | np.float64]
Map = npt.NDArray[np.float32]

POISSON_LIMIT_E = 50.0
"""Largest mean for which Poisson's law is computed; a Gaussian is good above."""
LARGEST_COUNT = 140  # a Poisson number of mean 50 is larger once in 10^24

_MAPS = 4  # separates these keys from those of the noise that one seed draws
_RESPONSE, _DARK_SIGNAL, _DEFECT = range(3)
_DROPPED = 6


class PixelMaps(NamedTuple):
    """What is different from pixel to pixel, and always the same; None: nothing is."""

    gain: Map | None
    """(pixels,) response relative to the mean; 0 for a dead pixel."""
    dark_e: Map | None
    """(2, pixels) dark signal of one exposure, electrons. First what is collected one by one and has shot noise: dark
    current and hot pixels. Second what the electronics add: the fixed pattern."""


ALL_ALIKE = PixelMaps(None, None)


@dataclass(frozen=True)
class Camera:
    """A monochrome camera whose noise is a pure function of (seed, stream, frame, pixel).

    Off values give the ideal camera: no shot noise, `read_noise_e` 0, `full_well_e` inf, `adc_bits` None; what has a
    default is off by default.
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
    quantum_efficiency: float = 1.0
    """Electrons per photon, η. Photometry is stated in electrons: it matters for `expose` alone."""
    poisson_below_e: float = 0.0
    """Mean number of electrons below which shot noise is exactly Poisson's; 0: nowhere."""
    dark_current_e_per_s: float = 0.0
    """Electrons that a pixel collects in the dark, per second."""
    prnu: float = 0.0
    """Photo-response non-uniformity: relative standard deviation of the pixels' response."""
    dsnu_e: float = 0.0
    """Dark-signal non-uniformity: standard deviation of the pixels' dark signal, electrons; whatever the exposure."""
    black_level_dn: float = 0.0
    """Digital number of a dark pixel: noise below zero is not cut off."""
    dead_pixels: float = 0.0
    """Fraction of the pixels that see nothing."""
    hot_pixels: float = 0.0
    """Fraction of the pixels that collect `hot_e_per_s` in the dark, and not `dark_current_e_per_s`."""
    hot_e_per_s: float = 0.0
    """Dark current of a hot pixel, electrons per second."""
    dropped_frames: float = 0.0
    """Probability that the camera misses a trigger. The image is lost, those behind it in the request move up by one,
    and the last is repeated: what looks like the image of one frame is that of the next."""

    def __post_init__(self) -> None:
        require(0 <= self.read_noise_e < math.inf, "read_noise_e", self.read_noise_e, "a finite number ≥ 0, electrons")
        require(self.full_well_e > 0, "full_well_e", self.full_well_e, "electrons > 0, or .inf for none")
        require(0 < self.gain_dn_per_e < math.inf, "gain_dn_per_e", self.gain_dn_per_e, "digital numbers per e-, > 0")
        require(self.adc_bits in (None, 8, 10, 12), "adc_bits", self.adc_bits, "8, 10, 12 or null (no converter)")
        efficiency = self.quantum_efficiency
        require(0 < efficiency <= 1, "quantum_efficiency", efficiency, "a number > 0 and ≤ 1, electrons per photon")
        for name in ("poisson_below_e", "dark_current_e_per_s", "prnu", "dsnu_e", "black_level_dn", "hot_e_per_s"):
            value = getattr(self, name)
            require(0 <= value < math.inf, name, value, "a finite number ≥ 0")
        require(
            self.poisson_below_e <= POISSON_LIMIT_E,
            "poisson_below_e",
            self.poisson_below_e,
            "at most 50 e-: Gaussian above",
        )
        require(self.prnu < 0.18, "prnu", self.prnu, "below 0.18: no pixel has a negative response")
        for name in ("dead_pixels", "hot_pixels", "dropped_frames"):
            value = getattr(self, name)
            require(0 <= value < 1, name, value, "a fraction from 0 to 1")
        top = math.inf if self.adc_bits is None else 2**self.adc_bits - 1
        require(self.black_level_dn < top, "black_level_dn", self.black_level_dn, f"below {top:g}")

    @property
    def noiseless(self) -> bool:
        """Nothing random happens, nothing is rounded or clipped, and no pixel differs from another."""
        off = (
            *(self.shot_noise, self.read_noise_e, self.adc_bits, self.dark_current_e_per_s, self.prnu, self.dsnu_e),
            *(self.black_level_dn, self.dead_pixels, self.hot_pixels, self.dropped_frames),
        )
        return not any(off) and self.full_well_e == math.inf

    @property
    def image_dtype(self) -> np.dtype[Any]:
        """Data type of the images: uint8, uint16 or, without a converter, float64."""
        if self.adc_bits is None:
            return np.dtype(np.float64)
        return np.dtype(np.uint8 if self.adc_bits == 8 else np.uint16)

    @property
    def real_type(self) -> type[np.float32 | np.float64]:
        """Type in which light is computed for it: float32, whose rounding a converter hides, or float64 without one."""
        return np.float64 if self.adc_bits is None else np.float32

    @property
    def saturation_dn(self) -> float:
        """Digital number of a saturated pixel: min(K · full well + black level, 2^bits - 1), rounded as converted."""
        if self.adc_bits is None:
            return self.full_well_e * self.gain_dn_per_e + self.black_level_dn
        # as `digitise` computes it: float32, one rounding after the multiplication and one after the sum
        level = np.float32(self.full_well_e) * np.float32(self.gain_dn_per_e) + np.float32(self.black_level_dn)
        return min(float(np.rint(level)), float(2**self.adc_bits - 1))

    def maps(self, seed: int, n_pixels: int, exposure_us: float) -> PixelMaps:
        """What differs from pixel to pixel of the camera of that seed, for one exposure time.

        Response and dark signal are normal, dead and hot pixels fall anywhere; all of it depends on seed and pixel
        alone, so that a larger image extends a smaller one.
        """
        pixels = np.arange(n_pixels, dtype=np.uint32)
        words = [hash_words(pixels, derive_key(seed, _MAPS, kind)) for kind in (_RESPONSE, _DARK_SIGNAL, _DEFECT)]
        gain = dark_e = None
        if self.prnu or self.dead_pixels:
            gain = 1 + np.float32(self.prnu) * standard_normals(words[_RESPONSE])
            gain[words[_DEFECT] < self.dead_pixels * 2.0**32] = 0
        if self.dark_current_e_per_s or self.dsnu_e or self.hot_pixels:
            dark_e = np.full((2, n_pixels), self.dark_current_e_per_s * exposure_us * 1e-6, np.float32)
            # from the other end than dead pixels, so that the two kinds are different pixels
            dark_e[0, words[_DEFECT] >= (1 - self.hot_pixels) * 2.0**32] = self.hot_e_per_s * exposure_us * 1e-6
            np.multiply(standard_normals(words[_DARK_SIGNAL]), np.float32(self.dsnu_e), out=dark_e[1])
        return PixelMaps(gain, dark_e)

    @property
    def uniform(self) -> bool:
        """No pixel differs from another, and none collects anything in the dark."""
        return not any((self.dark_current_e_per_s, self.prnu, self.dsnu_e, self.dead_pixels, self.hot_pixels))

    def arriving(self, seed: int, stream: int, frame: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Which image arrives in place of each of the frames of a request, (frames,); see `dropped_frames`."""
        order = np.arange(len(frame))
        if not self.dropped_frames:
            return order
        words = hash_words(np.zeros(len(frame), np.uint32), derive_key(seed, _DROPPED, stream, frame))
        seen = order[words >= self.dropped_frames * 2.0**32]
        missing = len(order) - len(seen)
        return np.concatenate([seen, np.full(missing, seen[-1] if len(seen) else 0)])

    def expose(self, mean_photons: Real, noise_key: Key, first_pixel: int = 0, maps: PixelMaps | None = None) -> Image:
        """Images of a mean number of photons.

        Args:
            mean_photons: (frames, pixels) mean photons that reach each pixel in one exposure; float32, or float64
                without a converter.
            noise_key: one key for each frame, (frames, 1); the counter is the pixel's index.
            first_pixel: index of the first pixel, where these are a part of an image.
            maps: of the whole image, from `maps`; None for a camera whose pixels are all alike and dark in the dark.

        Returns:
            (frames, pixels) images of `image_dtype`, in digital numbers.

        Raises:
            ValueError: no maps, of a camera that has some.
        """
        known = maps is not None or self.uniform
        require(known, "maps", maps, "from Camera.maps: pixels differ, or collect in the dark")
        real = mean_photons.dtype.type
        light_e = mean_photons * real(self.quantum_efficiency)
        return self.digitise(light_e, noise_key, first_pixel, ALL_ALIKE if maps is None else maps)

    def digitise(self, light_e: Real, noise_key: Key, first_pixel: int = 0, maps: PixelMaps = ALL_ALIKE) -> Image:
        """As `expose`, of the mean photo-electrons of a pixel of mean response."""
        part = slice(first_pixel, first_pixel + light_e.shape[1])
        mean_e: npt.NDArray[Any] = light_e if maps.gain is None else light_e * maps.gain[part]
        if maps.dark_e is not None:
            mean_e = mean_e + maps.dark_e[0, part]
        signal = mean_e
        if self.shot_noise or self.read_noise_e:
            pixels = np.arange(part.start, part.stop, dtype=np.uint32)
            z = standard_normals(hash_words(pixels, noise_key))
            # One normal number carries both: the sum of independent Gaussians is the Gaussian of the summed variances.
            shot_e = np.maximum(mean_e, 0) * np.float32(self.shot_noise)
            variance = shot_e + np.float32(self.read_noise_e**2)
            signal = z * np.sqrt(variance, out=variance) + mean_e
            if self.shot_noise and self.poisson_below_e:
                low, high = noise_key
                few = np.flatnonzero(shot_e < self.poisson_below_e)
                counts = poisson(shot_e.reshape(-1)[few], hash_words(pixels, (high, low)).reshape(-1)[few])
                signal.reshape(-1)[few] = counts + z.reshape(-1)[few] * np.float32(self.read_noise_e)
        if maps.dark_e is not None:
            signal = signal + maps.dark_e[1, part]
        if self.full_well_e < math.inf:
            signal = np.minimum(signal, np.asarray(self.full_well_e, signal.dtype))
        signal = signal * np.asarray(self.gain_dn_per_e, signal.dtype) + np.asarray(self.black_level_dn, signal.dtype)
        if self.adc_bits is None:
            numbers: npt.NDArray[np.float64] = signal.astype(np.float64, copy=False)
            return numbers
        np.rint(signal, out=signal)
        image: Image = np.clip(signal, 0, 2**self.adc_bits - 1, out=signal).astype(self.image_dtype)
        return image


def poisson(mean: Real, words: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
    """Poisson numbers of means below 50 by inversion of the distribution function; larger means give 0.

    Args:
        mean: any shape.
        words: hash words, of that shape; their upper 24 bits are the rank.

    Returns:
        float32 whole numbers, of that shape.
    """
    rank = (words >> np.uint32(8)).astype(np.float64) / 2**24 + 2.0**-25
    mean = np.where(mean < POISSON_LIMIT_E, mean, 0).astype(np.float64)
    probability = np.exp(-mean)
    below, count = probability.copy(), np.zeros(np.broadcast_shapes(mean.shape, rank.shape), np.float32)
    for k in range(1, LARGEST_COUNT):
        more = rank >= below
        if not more.any():
            break
        count += more
        probability = probability * mean / k
        below = below + probability
    return count
