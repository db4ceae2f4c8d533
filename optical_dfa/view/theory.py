"""What theory expects to see on a bench: intensities, noise, SNR.

`optical_dfa.devices.readouts.noise` for the noise; Goodman, Speckle Phenomena in Optics, §3, for the intensities.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.readouts import noise

Floats = npt.NDArray[np.float64]

Power = float
"""Features ON, each counted by its illumination relative to the mean."""

_ANGLES = 2 * np.pi * (np.arange(512) + 0.5) / 512
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)
_SELDOM = 1e-12  # clipped fractions below it are not worth the time of an integral
EVEN = np.ones((1, 3))


@dataclass(frozen=True)
class Conditions:
    """Light, camera and readout of one exposure; light in electrons per pixel."""

    feature_e: float
    """Of one ON feature."""
    always_e: float
    """Of mirrors that are OFF or left over, in every pattern."""
    leak: float
    """Amplitude of an OFF mirror, relative to ON."""
    reference_e: float
    """R² as it is."""
    nominal_e: float
    """R² as the readout takes it to be."""
    saturation_e: float
    shot_noise: bool
    read_noise_e: float
    quantum_e: float
    dark_e: float
    steps: int
    """N, frames of a pattern: 3 or 4 of phase stepping, 1 off-axis."""
    kept_fraction: float
    """f, part of the Fourier plane that is kept: 1 where pixels are read."""
    modes_per_pixel: int
    response_variance: float
    """Relative variance of the pixels' response that no map corrects, dead ones included."""
    offset_variance_e: float
    """Variance of the pixels' dark signal, electrons²: what a single frame cannot tell from light."""
    beams: Floats = field(default_factory=lambda: EVEN)
    """(samples, 3): relative intensity of signal and reference, and the factor that maps divide an intensity by, at
    pixels that stand for equal parts of the image."""

    def scaled(self, factor: float) -> "Conditions":
        """The same with an exposure `factor` times as long, of signal and reference."""
        light = ("feature_e", "always_e", "reference_e", "nominal_e", "dark_e")
        return replace(self, **{name: factor * getattr(self, name) for name in light})

    def light_e(self, power: Power) -> float:
        """Mean light of a pattern without reference."""
        return power * self.feature_e * (1 - self.leak**2) + self.always_e

    def signal_e(self, power: Power) -> float:
        """Mean square of the field that ON features, less OFF ones, give to an output."""
        signal, wave, divisor = self.beams.T
        overlap = float((signal * wave / divisor).mean())
        return power * self.feature_e * (1 - self.leak) ** 2 * overlap / self.modes_per_pixel

    def density(self, intensity_e: Floats, power: Power, reference: bool) -> Floats:
        """Probability density of a pixel's light, per electron.

        Speckle of M modes without a reference is a gamma variable of shape M, exponential for M = 1; beside a reference
        2M/Is times the light is a noncentral chi-square variable of 2M degrees of freedom (Rician for M = 1).
        """
        light_e, reference_e = self.light_e(power), self.reference_e * reference
        wanted = [
            _density(self.modes_per_pixel, intensity_e, light_e * signal, reference_e * wave)
            for signal, wave, _ in self.beams
        ]
        return np.where(intensity_e > 0, np.mean(wanted, axis=0), 0.0)

    def clipping(self, power: Power) -> tuple[float, float]:
        """Fraction of readings that saturate; mean squared electrons that are cut off, as the readout weighs them."""
        top_e = max(self.saturation_e - self.dark_e, 0.0)
        light_e = self.light_e(power)
        parts = np.array(
            [
                _clipped(self.modes_per_pixel, light_e * signal, self.reference_e * wave, top_e)
                for signal, wave, _ in self.beams.tolist()
            ]
        )
        return float(parts[:, 0].mean()), float((parts[:, 1] / self.beams[:, 2]).mean())

    def error_e2(self, plus: Power, minus: Power = 0.0) -> dict[str, float]:
        """Squared error of a ternary vector by its sources, summed over the patterns displayed.

        In electrons² of a reading: the variance of the field is f / (N R²) times that. Clipping counts only if
        `clips_by_pixel`: otherwise it has no closed form.
        """
        sides = self._sides(plus, minus)
        signal, wave, divisor = self.beams.T
        flat = len(sides) * float((1 / divisor).mean())
        light_e = sum(map(self.light_e, sides)) * float((signal / divisor).mean())
        light_e += len(sides) * self.reference_e * float((wave / divisor).mean()) + flat * self.dark_e
        if self.steps > 1:  # the response multiplies the field alone: all that is constant cancels between the steps
            pattern_e2 = self.response_variance * self.steps * self.nominal_e * self.signal_e(plus + minus)
        else:
            spread_e2 = sum(e * (e + 2 * self.reference_e) for e in map(self.light_e, sides))
            means_e = [self.light_e(side) + self.reference_e for side in sides]
            between_e = means_e[0] - sum(means_e[1:]) if means_e else 0.0
            pattern_e2 = self.response_variance * (spread_e2 + between_e**2)
            pattern_e2 += self.offset_variance_e * (len(sides) == 1)
        return {
            "shot": light_e * self.shot_noise,
            "read": flat * self.read_noise_e**2,
            "quantisation": flat * self.quantum_e**2 / 12,
            "clipping": sum(self.clipping(side)[1] for side in sides) * self.clips_by_pixel,
            "fixed_pattern": pattern_e2,
        }

    @property
    def clips_by_pixel(self) -> bool:
        """Pixels clip one by one, so that clipping is white noise. Coarse speckle clips by parts of grains."""
        return self.kept_fraction == 1

    @property
    def readings_per_field(self) -> float:
        """N R² / f: squared error of a reading over that of a field."""
        return self.steps * self.nominal_e / self.kept_fraction

    def snr(self, vectors: Iterable[tuple[Power, Power]], rest: float = 0.0) -> float:
        """Σ signal / Σ variance over ternary vectors, given as the powers of +1 and -1; inf without noise.

        Args:
            vectors: the powers.
            rest: other errors, squared, relative to the signal.
        """
        signal_e = error_e = 0.0
        for plus, minus in vectors:
            signal_e += self.signal_e(plus + minus)
            error_e += sum(self.error_e2(plus, minus).values()) / self.readings_per_field
        error_e += rest * signal_e
        return signal_e / error_e if error_e else math.inf

    def _sides(self, plus: Power, minus: Power) -> list[Power]:
        """Powers of the patterns that are displayed of a ternary vector."""
        if self.always_e and plus + minus:
            return [plus, minus]
        return [side for side in (plus, minus) if side]


@lru_cache(maxsize=4096)  # patterns of equal power ask for the same
def _clipped(modes: int, light_e: float, reference_e: float, top_e: float) -> tuple[float, float]:
    """Fraction of readings above `top_e`, and the mean squared electrons that are cut off them."""
    if modes == 1 or not light_e or top_e == math.inf:
        fraction = noise.clipped_fraction(light_e, reference_e, top_e)
        return fraction, noise.clipping_variance_e(light_e, reference_e, top_e) if fraction > _SELDOM else 0.0
    deviation_e = math.sqrt(light_e * (light_e + 2 * reference_e) / modes)
    far_e = max(top_e, light_e + reference_e) - top_e + 8 * deviation_e + 30 * light_e
    half = (_NODES + 1) / 2
    above_e = far_e * half**3  # densest where it begins to clip
    measure = _WEIGHTS * 1.5 * half**2 * far_e * _density(modes, top_e + above_e, light_e, reference_e)
    return float(measure.sum()), float((measure * above_e**2).sum())


def _density(modes: int, intensity_e: Floats, light_e: float, reference_e: float) -> Floats:
    """See `Conditions.density`; of an evenly lit image."""
    x, m = np.maximum(intensity_e, 1e-12), modes
    if not reference_e:
        gamma: Floats = np.exp(m * np.log(m / light_e) + (m - 1) * np.log(x) - m * x / light_e - math.lgamma(m))
        return gamma
    z = 2 * m * np.sqrt(x * reference_e) / light_e
    apart = m * np.square(np.sqrt(x) - math.sqrt(reference_e)) / light_e
    found: Floats = m / light_e * (x / reference_e) ** ((m - 1) / 2) * np.exp(-apart) * _bessel(m - 1, z)
    return found


def _bessel(order: int, z: Floats) -> Floats:
    """exp(-z) I_order(z), z ≥ 0: the mean of exp(z (cos θ - 1)) cos(order·θ) over θ; asymptotic where z is large."""
    near = np.minimum(z, 2000.0)
    found: Floats = np.mean(np.exp(near[:, None] * (np.cos(_ANGLES) - 1)) * np.cos(order * _ANGLES), axis=1)
    far = np.maximum(z, 1.0)
    asymptotic = (1 - (4 * order**2 - 1) / (8 * far)) / np.sqrt(2 * np.pi * far)
    return np.where(z > 2000.0, asymptotic, found)
