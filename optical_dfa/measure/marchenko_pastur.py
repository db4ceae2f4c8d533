"""The law of Marchenko and Pastur for the singular values of a large random matrix.

A matrix of independent entries of mean 0 and mean square v, with `long` rows or columns and `short` of the other kind,
has singular values s·√(v · long), where s follows, for large matrices of ratio λ = short/long ≤ 1 (V. A. Marchenko,
L. A. Pastur, Math. USSR-Sbornik 1, 457, 1967, for s²),

    p(s) = √((b² - s²)(s² - a²)) / (π λ s)  between  a = 1 - √λ  and  b = 1 + √λ.

Real or complex entries, Gaussian or not: all the same.
"""

import math

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

_STEPS = 4096


def edges(ratio: float) -> tuple[float, float]:
    """Smallest and largest singular value, in units of √(v · long), for λ = `ratio`, 0 < λ ≤ 1."""
    _check(ratio)
    return 1 - math.sqrt(ratio), 1 + math.sqrt(ratio)


def density(values: Values, ratio: float) -> Values:
    """Probability density of singular values, float64 of the shape of `values`; 0 outside the edges."""
    low, high = edges(ratio)
    inside = np.clip((high**2 - values**2) * (values**2 - low**2), 0, None) * (values > 0)
    result: Values = np.sqrt(inside) / (math.pi * ratio * np.where(values > 0, values, 1))
    return result


def distribution(values: Values, ratio: float) -> Values:
    """Probability of a singular value up to each of `values`, float64 of their shape.

    With s² = 1 + λ - 2√λ cos θ the density of θ in 0 … π is smooth, (2/π) sin²θ / s²; it is integrated by the trapezoid
    rule, to 1e-6.
    """
    _check(ratio)
    angle = np.linspace(0, math.pi, _STEPS + 1)
    square = 1 + ratio - 2 * math.sqrt(ratio) * np.cos(angle)
    # at λ = 1 and θ = 0, sin²θ/s² = (1 + cos θ)/2 → 1
    smooth = np.divide(np.sin(angle) ** 2, square, out=np.ones_like(angle), where=square > 0)
    steps = (smooth[1:] + smooth[:-1]) / math.pi * (angle[1] - angle[0])
    result: Values = np.interp(values, np.sqrt(square), np.concatenate([[0], np.cumsum(steps)]), 0, 1)
    return result


def _check(ratio: float) -> None:
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be short side / long side of a matrix, above 0 and at most 1; got {ratio!r}")
