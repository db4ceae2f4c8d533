"""The camera from its images: photon transfer, readings in the dark, digital numbers (EMVA 1288)."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.run_errors import InputError
from optical_dfa.twin.light import Even, Light, Moments, readings, w_noise
from optical_dfa.twin.observed import Floats, Observed

BINS = 40

FEWEST = 2000
"""Fewest pairs of readings from which a gain is told: 5 % of it, or worse."""

CLEAR = 4.5
"""Readings within so many standard deviations of zero or of saturation are cut off at times, and left out."""

LEAST_DARK = 0.3
"""Variance of readings in the dark, DN², from which on rounding is a noise like any other, of 1/12; less, and means of
whole numbers are off by more than 0.01 DN."""


@dataclass(frozen=True)
class PhotonTransfer:
    """Variance of a reading against its mean: σ² = K μ + σ₀², μ without the dark reading, digital numbers."""

    gain: float
    """K, DN/e-."""
    floor: float
    """σ₀², DN²: read noise and quantisation."""
    covariance: npt.NDArray[np.float64]
    """(2, 2), of K and σ₀²."""
    mean: Floats
    variance: Floats
    error: Floats
    """(bins,) the curve: mean signal, variance and its standard error."""

    def of(self, signal: Floats) -> Floats:
        """Variance of readings of that mean signal (light, without the dark reading), DN²."""
        return np.maximum(self.gain * np.maximum(signal, 0) + self.floor, 1e-6)


def photon_transfer(seen: Observed, light: Light, moments: Moments, taken: Floats) -> PhotonTransfer:
    """The photon transfer curve from pairs of equal frames.

    The difference of what the model leaves of both has twice the variance of one, whatever the model misses in common.

    Args:
        seen: frames, some of them repeated.
        light: of their pixels.
        moments: of the frames.
        taken: (F, P) part of the noise that is gone with the moments; see `noise_taken`.

    Raises:
        InputError: too few pairs.
    """
    if dark_frames(seen) is None:
        taken = taken[seen.reference]
        seen, moments = seen.frames(seen.reference), moments.of(seen.reference)
    mean = readings(seen, light, moments)
    left = seen.images - mean
    one, other = _pairs(seen.same)
    signal = ((mean[one] + mean[other]) / 2 - light.dark)[:, light.alive]
    _check_pairs(len(one) * int(light.alive.sum()))
    kept = 1 - (taken[one] + taken[other]) / 2
    square = (np.square(left[one] - left[other]) / (2 * kept))[:, light.alive]
    dark = np.broadcast_to(light.dark[light.alive], signal.shape)
    guess = max(float(np.median(square)) / max(float(np.median(signal)), 1e-9), 1e-12)
    room = CLEAR * np.sqrt(guess * np.maximum(signal, 0) + 0.5)
    top = min(seen.info.saturation_dn, float(1 << 60))
    clear = (signal + dark > room) & (signal + dark < top - room)
    _check_pairs(int(clear.sum()))
    signal, square = signal[clear], square[clear]
    edges = np.quantile(signal, np.linspace(0, 1, BINS + 1))
    place = np.clip(np.searchsorted(edges, signal, "right") - 1, 0, BINS - 1)
    count = np.bincount(place, minlength=BINS).astype(np.float64)
    used = count > 20
    x, y = (np.bincount(place, values, BINS)[used] / count[used] for values in (signal, square))
    count = count[used]
    # a squared normal number has a variance of twice its mean squared
    level = y
    for _ in range(4):
        weight = count / (2 * np.square(np.maximum(level, 1e-9)))
        rows = np.stack([x, np.ones_like(x)], axis=1)
        covariance = np.linalg.inv(rows.T @ (rows * weight[:, None]))
        gain, floor = covariance @ (rows.T @ (weight * y))
        level = np.maximum(gain * x + floor, 0.05 * y)
    return PhotonTransfer(float(gain), float(floor), covariance, x, y, np.sqrt(2 / count) * level)


@dataclass(frozen=True)
class Dark:
    """Readings without light."""

    level: Floats
    """(P,) mean readings, digital numbers."""
    error: float
    """Standard error of their mean over the pixels."""
    each: bool
    """Every pixel has its own, from dark frames; otherwise all have one, which the lit frames tell."""


def dark_frames(seen: Observed) -> npt.NDArray[Any] | None:
    """Images without light, if their noise is not hidden by rounding, and not cut off at zero; else None."""
    images: npt.NDArray[Any] = seen.images[~seen.reference & ~seen.lit]
    if len(images) < 2:
        return None
    if seen.info.adc_bits is None:
        return images
    told = float(np.mean(images == 0)) < 1e-3 and float(images.var(axis=0, ddof=1).mean()) > LEAST_DARK
    return images if told else None


def dark_reading(seen: Observed, light: Light | None, moments: Moments, transfer: PhotonTransfer | None) -> Dark:
    """Readings without light: of dark frames less what leaks into them, or that which explains lit frames best.

    Args:
        seen: frames.
        light: of their pixels; None: not known yet.
        moments: of the frames.
        transfer: tells the noise of a reading; None: not known yet.
    """
    images = dark_frames(seen)
    if images is not None:
        error = math.sqrt(float(np.mean(images.var(axis=0, ddof=1))) / images.size)
        leaked = 0.0 if light is None else np.abs(light.background) ** 2
        return Dark(images.mean(axis=0) - leaked, error, True)
    pixels = seen.images.shape[1]
    if light is None:
        return Dark(np.full(pixels, seen.info.black_level_dn), math.inf, False)
    level, error = dark_of_steps(seen, moments, light, transfer)
    return Dark(np.full(pixels, level), error, False)


def dark_of_steps(
    seen: Observed, moments: Moments, light: Light, transfer: PhotonTransfer | None
) -> tuple[float, float]:
    """One reading in the dark for all pixels, that with which |A|² explains the even part best, and its standard error.

    The brighter a pattern, the more of its even part is |W|²/(4ρ): its slope tells ρ, and what is left is dark. A step
    of Newton's from the dark reading of the light.
    """
    part, known = seen.frames(seen.reference), moments.of(seen.reference)
    # what clipping cuts off the brightest would pass for a darker level
    pixels = light.alive & (part.images < seen.info.saturation_dn).all(axis=0)
    before = float(light.dark.mean())
    if transfer is None or pixels.sum() < light.alive.sum() / 4:
        return before, math.inf
    light = light.part(pixels)
    part = replace(part, images=part.images[:, pixels])
    w = 2 * np.sqrt(light.reference) * light.amplitude(part.patterns)
    stepped = (w.conj() * np.exp(1j * (part.phases + known.phase))[:, None]).real
    variance = transfer.of(readings(part, light, known) - light.dark)
    even = Even.of(
        (part.images - light.dark) / known.power[:, None] - stepped,
        w, w_noise(light.covariance, part.patterns, variance.mean(axis=0)), np.ones(w.shape, np.bool_),
    )  # fmt: skip
    level = even.reference()
    left = even.e - level - even.q / (4 * level)
    slope = 1 / (4 * level**2)
    first, second = 1 - slope * even.q, np.maximum(1 - 2 * slope * even.q + slope**2 * even.qq, 1e-3)
    free = 1 - first**2 / second  # of a common shift, what is no change of ρ
    told = 1 - first / second * (1 - slope * np.abs(w) ** 2)
    total = float(free.sum())
    error = math.sqrt(float((told**2 * variance).sum())) / (len(part) * total)
    return before + float(np.clip(left.sum() / total, -0.1 * level.mean(), 0.1 * level.mean())), error


def digital_step(images: npt.NDArray[np.integer]) -> tuple[int, int, int]:
    """Step between digital numbers, the largest number seen, and how often it was, of integer images."""
    numbers, count = np.unique(images, return_counts=True)
    step = int(np.gcd.reduce(np.diff(numbers.astype(np.int64)))) if len(numbers) > 1 else 1
    return max(step, 1), int(numbers[-1]), int(count[-1])


def _check_pairs(count: int) -> None:
    """Refuse too few pairs of readings."""
    if count < FEWEST:
        raise InputError(
            f"only {count:,} readings were repeated, without being cut off at zero or at saturation; {FEWEST:,} are "
            "needed to tell the gain: show frames more than once, or use the probes of optical-dfa twin"
        )


def _pairs(same: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Frames of which two are the same, each in one pair, neighbours in time."""
    order = np.argsort(same, kind="stable")
    begins = np.flatnonzero(np.diff(same[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(begins, np.diff(np.append(begins, len(order))))
    later = np.flatnonzero(rank % 2 == 1)
    return order[later - 1], order[later]
