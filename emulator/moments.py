"""Mean, variance and saturation of a camera's digital number, as functions of the mean electrons of the pixel.

The number of a pixel with mean μ is N = clip(rint(K · min(x, full well) + black level)), x normal (or Poisson plus
normal) with mean μ. With top the number at saturation, whatever rounding and clipping do:

    E[N] = Σₙ P(N ≥ n),   E[N²] = Σₙ (2n - 1) P(N ≥ n),   n = 1 … top,   P(N ≥ n) = P(K x + black ≥ n - 1/2)

The sums are exact, and only the few n within the noise of the mean have to be summed.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.camera import Camera
from optical_dfa.emulator.checks import require

Floats = npt.NDArray[np.float64]

POINTS_PER_SIGMA = 8
"""Points of the table in a standard deviation of the smallest noise: interpolation is then good to 1e-3 of it."""

MAX_POINTS = 1 << 15
"""Most points of a table: 384 KB."""

REACH = 6.5
"""Standard deviations beyond which the normal law has nothing that float32 would notice."""

LINEAR_MEAN, LINEAR_VARIANCE = 1e-2, 2e-2
"""The camera counts as linear where mean (in standard deviations of a reading) and variance (in its variances) are so
near their laws; the ripple of rounding, which is what is left out, changes sign with every digital number."""


@dataclass(frozen=True)
class Moments:
    """A camera's moments on an even grid of mean electrons, linearly interpolated; constant beyond its ends."""

    first_e: float
    """Mean electrons of the first point."""
    per_e: float
    """Points per electron."""
    table: npt.NDArray[np.float32]
    """(points, 3): mean and variance of the number, DN and DN², and the probability that it is saturated."""
    linear_e: tuple[float, float]
    """Mean electrons between which mean and variance are those of a linear camera: E = K μ + black level,
    var = K²(μ + σ²) + 1/12 (EMVA 1288); an empty interval (inf, -inf) if there is none."""

    def at(self, mean_e: npt.NDArray[np.floating]) -> tuple[Any, Any, Any]:
        """Mean, variance and probability of saturation at mean electrons of any shape, float32 of that shape."""
        top = np.float32(len(self.table) - 1)
        place = np.clip((mean_e.astype(np.float32) - np.float32(self.first_e)) * np.float32(self.per_e), 0, top)
        index = np.minimum(place.astype(np.int32), len(self.table) - 2)
        below, above = self.table[index], self.table[index + 1]
        part = (place - index.astype(np.float32))[..., None]
        found = part * (above - below) + below
        return found[..., 0], found[..., 1], found[..., 2]


@functools.lru_cache(maxsize=8)
def camera_moments(camera: Camera, least_pair_e: float = 0.0) -> Moments:
    """The table of a camera with a converter; some ms, kept for the next that asks.

    Args:
        camera: the camera.
        least_pair_e: electrons that the two frames of a difference have at least together: their noise is what errors
            of the linear law are compared with.

    Raises:
        ValueError: a camera without a converter.
    """
    require(camera.adc_bits is not None, "adc_bits", camera.adc_bits, "8, 10 or 12: its rounding is what is computed")
    gain, black = camera.gain_dn_per_e, camera.black_level_dn
    # shot noise of a pixel that gets a quarter of a digital number: below, the number is 0 whatever the noise
    smallest = gain * math.sqrt(camera.read_noise_e**2 + camera.shot_noise * 0.25 / gain)
    last_e = _where_all_saturate(camera)
    first_e = -6 * (camera.dsnu_e + 1e-9)
    wanted = (last_e - first_e) * gain * POINTS_PER_SIGMA / max(smallest, 1e-3)
    mean_e = np.linspace(first_e, last_e, int(np.clip(wanted, 64, MAX_POINTS)))
    moments = exact_moments(camera, mean_e)
    mean, variance, saturated = moments
    shot_e = np.maximum(mean_e, 0) * camera.shot_noise
    law = gain**2 * (shot_e + camera.read_noise_e**2) + 1 / 12
    of_pair = gain**2 * (camera.shot_noise * least_pair_e + 2 * camera.read_noise_e**2) + 1 / 6
    near = np.abs(mean - (gain * mean_e + black)) <= LINEAR_MEAN * math.sqrt(of_pair)
    near &= (np.abs(variance - law) <= LINEAR_VARIANCE * of_pair) & (saturated <= 1e-7) & (mean_e >= 0)
    step = mean_e[1] - mean_e[0]
    return Moments(
        first_e, 1 / step, np.ascontiguousarray(np.stack(moments, axis=1), np.float32), _longest(mean_e, near)
    )


def exact_moments(camera: Camera, mean_e: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean (DN), variance (DN²) and probability of saturation at mean electrons (points,), summed, not interpolated."""
    shot_e = np.maximum(mean_e, 0) * camera.shot_noise
    spread_e = np.sqrt(shot_e + camera.read_noise_e**2)
    found = [np.empty_like(mean_e) for _ in range(3)]
    exactly_poisson = (shot_e < camera.poisson_below_e) & (shot_e > 0)
    normal = np.flatnonzero(~exactly_poisson)
    for to, values in zip(found, _of_normal(camera, mean_e[normal], spread_e[normal]), strict=True):
        to[normal] = values
    for point in np.flatnonzero(exactly_poisson):
        for to, value in zip(found, _of_poisson(camera, float(mean_e[point])), strict=True):
            to[point] = value
    return found[0], found[1], found[2]


def _of_poisson(camera: Camera, mean_e: float) -> tuple[float, float, float]:
    """Moments where shot noise is Poisson's: those of every count, mixed."""
    count = np.arange(int(mean_e + 12 * math.sqrt(mean_e) + 20), dtype=np.float64)
    logarithm = count * math.log(mean_e) - mean_e - np.concatenate([[0], np.cumsum(np.log(count[1:]))])
    probability = np.exp(logarithm)
    mean, variance, saturated = _of_normal(camera, count, np.full(len(count), camera.read_noise_e))
    first = float(probability @ mean)
    return first, float(probability @ (variance + np.square(mean - first))), float(probability @ saturated)


def _of_normal(camera: Camera, mean_e: Floats, spread_e: Floats) -> tuple[Floats, Floats, Floats]:
    """Moments of normal electrons, points of any mean and standard deviation."""
    top = int(camera.saturation_dn)
    level, spread = camera.gain_dn_per_e * mean_e + camera.black_level_dn, camera.gain_dn_per_e * spread_e
    spread = np.maximum(spread, 1e-9)  # no noise: a step
    centre = np.clip(np.rint(level), 0, top)
    mean, variance = np.empty_like(mean_e), np.empty_like(mean_e)
    first = 0
    while first < len(mean_e):
        # points of the same window: the spread grows with the mean, so the last of a few has the widest
        part = slice(first, first + 256)
        reach = math.ceil(REACH * float(spread[part].max())) + 2
        offsets = np.arange(-reach, reach + 1)
        number = centre[part, None] + offsets
        counted = (number >= 1) & (number <= top)
        # P(N ≥ n) is 1 below the window, 0 above: with m = centre - reach - 1 numbers below, moments about m
        chance = np.where(counted, _normal_cdf((level[part, None] - number + 0.5) / spread[part, None]), 0)
        below = np.clip(centre[part] - reach - 1, 0, top)
        excess = chance.sum(axis=1)
        second = ((2 * (number - below[:, None]) - 1) * chance).sum(axis=1)
        mean[part] = below + excess
        variance[part] = np.maximum(second - excess**2, 0)
        first = part.stop
    return mean, variance, _normal_cdf((level - top + 0.5) / spread)


_CDF_STEP = 1 / 128
_CDF_AT = np.arange(-9, 9 + _CDF_STEP, _CDF_STEP)
_CDF = np.array([0.5 * math.erfc(-z / math.sqrt(2)) for z in _CDF_AT])


def _normal_cdf(z: Floats) -> Floats:
    """Distribution function of the standard normal law, to 1e-11: cubic in between exact values and slopes."""
    place = np.clip((z - _CDF_AT[0]) / _CDF_STEP, 0, len(_CDF_AT) - 1.001)
    index = place.astype(np.int64)
    t = place - index
    low, high = _CDF[index], _CDF[index + 1]
    slope_low, slope_high = (
        np.exp(-0.5 * np.square(_CDF_AT[i])) * (_CDF_STEP / math.sqrt(2 * math.pi)) for i in (index, index + 1)
    )
    rise = high - low
    found: Floats = low + t * (
        slope_low + t * (3 * rise - 2 * slope_low - slope_high + t * (slope_low + slope_high - 2 * rise))
    )
    return found


def _where_all_saturate(camera: Camera) -> float:
    """Mean electrons above which the number is always the largest."""
    gain = camera.gain_dn_per_e
    level_e = (camera.saturation_dn - camera.black_level_dn) / gain
    spread_e = math.sqrt(camera.shot_noise * level_e + camera.read_noise_e**2)
    # the shot noise there is larger than at saturation: the second step allows for it
    for _ in range(3):
        spread_e = math.sqrt(camera.shot_noise * (level_e + REACH * spread_e) + camera.read_noise_e**2)
    return level_e + REACH * spread_e + 1 / gain


def _longest(mean_e: Floats, near: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Ends of the longest run of points that are near, one point in from each."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], near.astype(np.int8), [0]])))
    runs = edges.reshape(-1, 2)
    if not len(runs):
        return math.inf, -math.inf
    start, stop = runs[np.argmax(runs[:, 1] - runs[:, 0])]
    if stop - start < 3:
        return math.inf, -math.inf
    return float(mean_e[start + 1]), float(mean_e[stop - 2])
