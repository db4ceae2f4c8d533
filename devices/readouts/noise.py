"""What noise to expect of a readout: closed formulas, in electrons per pixel and exposure.

`signal_e` is Is, the mean signal of the pattern; `reference_e` is R²; the camera has the read noise s (`read_noise_e`),
the step q = 1/K of its converter (`quantum_e`; 0 without one) and the dark signal `dark_e`. Exposures are taken to be
below saturation; how often they are not is `clipped_fraction`. A variance counts the squared error of a whole output,
complex (both quadratures) unless it says otherwise, in electrons: root electrons squared.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np

from optical_dfa.devices.readouts.anchored import DIM, bright_fraction

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)
_TAIL = 39.0  # standard deviations beyond which a normal density is below the smallest double
_ERFC = np.vectorize(math.erfc, otypes=[np.float64])


def image_variance_e(light_e: float, read_noise_e: float = 0.0, quantum_e: float = 0.0, dark_e: float = 0.0) -> float:
    """Variance of one reading: light + s² + q²/12 + dark (EMVA 1288), electrons²."""
    return light_e + read_noise_e**2 + quantum_e**2 / 12 + dark_e


def phase_stepping_variance_e(
    signal_e: float,
    reference_e: float,
    steps: int = 4,
    read_noise_e: float = 0.0,
    quantum_e: float = 0.0,
    dark_e: float = 0.0,
    kept_fraction: float = 1.0,
) -> float:
    """(Is + R² + s² + q²/12 + dark) / (N R²) for N = 3 or 4 steps, of the complex field.

    With a speckle grain larger than a pixel, times `kept_fraction`, the part of the Fourier plane inside the pupil.
    """
    one = image_variance_e(signal_e + reference_e, read_noise_e, quantum_e, dark_e)
    return kept_fraction * one / (steps * reference_e)


def off_axis_variance_e(
    signal_e: float,
    reference_e: float,
    kept_fraction: float,
    read_noise_e: float = 0.0,
    quantum_e: float = 0.0,
    dark_e: float = 0.0,
) -> float:
    """Kept fraction f times (Is + R² + s² + q²/12 + dark) / R², of the complex field of a mode; f ≈ π k_c²."""
    return kept_fraction * image_variance_e(signal_e + reference_e, read_noise_e, quantum_e, dark_e) / reference_e


def anchored_variance_e(
    signal_e: float,
    anchor_e: float,
    n_anchors: int = 1,
    dim: float = DIM,
    read_noise_e: float = 0.0,
    quantum_e: float = 0.0,
    dark_e: float = 0.0,
) -> float:
    """Mean over the pixels that are not dim of (I_{x+r} + I_x + 2 (s² + q²/12 + dark)) / (4 I_r), of one quadrature.

    On average I_{x+r} = Is + I_r at a pixel, so this is 1/4 + (Is + s² + q²/12 + dark)/2 · mean(1/I_r). I_r is the
    brightest of `n_anchors` exponential intensities of mean `anchor_e`, and above `dim` times that. The signal to
    compare with is one quadrature's, Is/2. I_r is taken to be known; the average of N frames adds
    (I_r + s² + q²/12 + dark) / (4 N I_r), the same for every vector, where one side of it alone is displayed.
    """
    # u = I_r / mean; from dim to where the density is gone
    u = dim + (40 + math.log(n_anchors) - dim) * (_NODES + 1) / 2
    weights = (40 + math.log(n_anchors) - dim) / 2 * _WEIGHTS
    density = n_anchors * np.exp(-u) * (1 - np.exp(-u)) ** (n_anchors - 1)
    inverse_mean = float((weights * density / u).sum()) / bright_fraction(n_anchors, dim) / anchor_e
    return 0.25 + image_variance_e(signal_e, read_noise_e, quantum_e, dark_e) / 2 * inverse_mean


def snr(signals_e: Iterable[float], variance_e: Callable[[float], float]) -> float:
    """Signal-to-noise ratio of a vector shown as one or two binary patterns: Σ signal / Σ variance.

    Args:
        signals_e: mean signal of each pattern that is displayed; (Is,) of a binary pattern, (Is₊, Is₋) of a ternary
            vector, whose fields are subtracted. A side without ON features is not displayed: leave it out.
        variance_e: of the readout for a signal, for instance `lambda e: phase_stepping_variance_e(e, 1500.0)`.
            Of a single quadrature, give half the signals: `anchored_snr` does.
    """
    sides = tuple(signals_e)
    return sum(sides) / sum(variance_e(side) for side in sides)


def anchored_snr(signals_e: Iterable[float], variance_e: Callable[[float], float]) -> float:
    """`snr` of an output that is one quadrature, with half of the signal."""
    return snr(signals_e, variance_e) / 2


def decibels(ratio: float) -> float:
    """10 log₁₀ of a ratio of powers."""
    return 10 * math.log10(ratio)


def expected_cosine(signal_to_noise: float) -> float:
    """(1 + 1/SNR)^-½: cosine of the measured with the true projection, for noise of zero mean."""
    return 1 / math.sqrt(1 + 1 / signal_to_noise)


def clipped_fraction(signal_e: float, reference_e: float, saturation_e: float) -> float:
    """Fraction of readings at saturation: Q₁(√(2R²/Is), √(2·FW/Is)), the Marcum function.

    The intensity of Gaussian speckle beside a reference is Rician. Without a reference it is exponential:
    exp(-FW/Is). Camera noise is left out.

    Args:
        signal_e: mean signal Is, electrons.
        reference_e: R², electrons; 0: none.
        saturation_e: FW = min(full well, (2^bits - 1 - black level)/K), electrons.
    """
    if saturation_e == math.inf:
        return 0.0
    if signal_e == 0:
        return float(reference_e >= saturation_e)
    return marcum_q1(math.sqrt(2 * reference_e / signal_e), math.sqrt(2 * saturation_e / signal_e))


def clipping_variance_e(signal_e: float, reference_e: float, saturation_e: float) -> float:
    """Mean squared electrons that saturation cuts off a reading: E[(I - FW)²; I > FW] = 2 ∫ (u - FW) Q₁(u) du.

    Arguments as of `clipped_fraction`. The readings of one pixel seldom saturate together, so this adds to the variance
    of a reading: give `phase_stepping_variance_e` this as part of `dark_e`, and it tells the SNR of clipped frames.
    """
    if signal_e == 0 or saturation_e == math.inf:
        return max(0.0, reference_e - saturation_e) ** 2
    deviation_e = math.sqrt(signal_e * (signal_e + 2 * reference_e))
    top_e = max(saturation_e, signal_e + reference_e) + 8 * deviation_e + 30 * signal_e
    nodes, weights = np.polynomial.legendre.leggauss(32)
    # squared nodes lie densest at the full well, where nearly all of the integral is
    u, slope = ((nodes + 1) / 2) ** 2, (nodes + 1) / 2
    beyond = [clipped_fraction(signal_e, reference_e, saturation_e + part * (top_e - saturation_e)) for part in u]
    return float((weights * slope * u * np.asarray(beyond)).sum()) * 2 * (top_e - saturation_e) ** 2


def marcum_q1(a: float, b: float) -> float:
    """The Marcum function Q₁(a, b): probability that a unit Gaussian in the plane, centred at a, is beyond radius b.

    Integrates over the coordinate t across the displacement, with t = b sin ψ: for each t, the probability of being
    outside the chord of half length √(b² - t²). Right to 1e-10 of its value down to 1e-200.
    """
    if b <= 0:
        return 1.0
    if b - a > _TAIL:
        return 0.0  # at most exp(-(b - a)²/2)
    top = min(b, _TAIL)
    psi = math.asin(top / b) * (_NODES + 1) / 2
    t = b * np.sin(psi)
    chord = b * np.cos(psi)
    beyond = (_ERFC((chord - a) / math.sqrt(2)) + _ERFC((chord + a) / math.sqrt(2))) / 2
    density = np.exp(-np.square(t) / 2) * math.sqrt(2 / math.pi)  # of |t|
    inside = float((_WEIGHTS * density * chord * beyond).sum()) * math.asin(top / b) / 2
    return min(1.0, inside + math.erfc(b / math.sqrt(2)))
