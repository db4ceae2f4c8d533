"""What a twin says of frames that it has not seen, beside their images."""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from optical_dfa.twin.fit import Twin
from optical_dfa.twin.light import Moments, design, fit_moments, readings
from optical_dfa.twin.observed import Floats, Observed

FOLLOW = 5
"""Newton's steps to the phase and power of a frame."""


@dataclass(frozen=True)
class Prediction:
    """Images of F frames as a twin predicts them, and how far they are from what was seen."""

    mean: Floats
    """(F, P) predicted images, digital numbers."""
    variance: Floats
    """(F, P) of what is read about them: noise of the camera, and of the twin's own light."""
    counted: npt.NDArray[np.bool_]
    """(F, P) readings that are compared: of pixels that answer to light, not saturated."""
    correlation: float
    """Of predicted and seen readings, about the mean image of the frames."""
    expected_correlation: float
    """What the predicted noise leaves of it."""
    error: float
    """√(Σ (seen - predicted)² / Σ (seen - mean image)²)."""
    expected_error: float
    """The same from the predicted noise."""
    chi_square: float
    """Mean of (seen - predicted)² / variance: 1 if the noise is as predicted."""
    chi_square_error: float
    """Its standard deviation, if so: √((kurtosis - 1)/readings), the kurtosis as it was seen, and what the photon
    transfer curve is uncertain by."""


def predict(twin: Twin, seen: Observed, *, follow: bool = False) -> Prediction:
    """Predict the images of frames that were not fitted to.

    Args:
        twin: of the bench that showed them.
        seen: the frames and their images, of the same pixels.
        follow: find phase and power of each frame from its own image, two values of P readings; for a bench where
            these drift, and nobody can know them. False: all as on average.
    """
    light, transfer = twin.light, twin.transfer
    images = seen.images.astype(np.float64)
    seen = replace(seen, images=images)
    moments = replace(Moments.none(len(seen)), phase=twin.drift.of_steps(seen.phases))
    if follow:
        for _ in range(FOLLOW):
            noise = transfer.of(readings(seen, light, moments) - light.dark)
            moments = fit_moments(seen, light, moments, noise, None)
    mean = readings(seen, light, moments)
    variance = transfer.of(mean - light.dark) + light_variance(twin, seen, moments)
    counted = light.alive[None, :] & (images < seen.info.saturation_dn) & (mean < 0.95 * seen.info.saturation_dn)
    left = np.where(counted, images - mean, 0)
    about = np.where(counted, images - images.mean(axis=0), 0)
    told = np.where(counted, mean - images.mean(axis=0), 0)
    pixels = max(int(light.alive.sum()), 3)
    square = left**2 / variance * (pixels / (pixels - 2) if follow else 1)
    count = int(counted.sum())
    chi = float(square.sum()) / count
    kurtosis = float(np.square(square[counted]).mean()) / chi**2 - 1
    # by the slope and the floor of the curve
    slopes = -np.array([float(((mean - light.dark) / variance)[counted].mean()), float((1 / variance)[counted].mean())])
    of_curve = math.sqrt(float(slopes @ transfer.covariance @ slopes))
    noise_power = float(variance[counted].sum())
    power = float(np.square(about).sum())
    return Prediction(
        mean, variance, counted,
        correlation=float((about * told).sum() / math.sqrt(power * float(np.square(told).sum()))),
        expected_correlation=math.sqrt(max(1 - noise_power / power, 0)),
        error=math.sqrt(float(np.square(left).sum()) / power),
        expected_error=math.sqrt(noise_power / power),
        chi_square=chi,
        chi_square_error=math.hypot(math.sqrt(kurtosis / count), of_curve),
    )  # fmt: skip


def light_variance(twin: Twin, seen: Observed, moments: Moments) -> Floats:
    """(F, P) variance of predicted readings that is that of the fitted light."""
    light = twin.light
    rows = design(seen.patterns, seen.phases + moments.phase)
    of_steps = np.einsum("fi,ij,fj->f", rows, light.covariance, rows)
    of_even = 1 / max(int(twin.seen.reference.sum()), 1)
    total: Floats = (of_steps + of_even)[:, None] * twin.variance
    return total
