"""Standard normal numbers from hash words, by two polynomials for the normal quantile.

With x uniform on (-1, 1) and w = -log(1 - x²), the number of rank x is x times a smooth function of w. It is
approximated as Giles (2012), "Approximating the erfinv function", does, by one polynomial for the centre and one for
the tails; these two, of w in both cases, were fitted to the largest relative error, 3e-7 each.
"""

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.hashing import UInt32Array

TAIL = 5.0
"""Above this w, the 1 in 300 numbers beyond ±2.93, the tail's polynomial holds."""

CENTRE_ORIGIN, TAIL_ORIGIN = 2.5, 8.0
"""The polynomials are of w less these."""

CENTRE_POLYNOMIAL = (
    4.46373530e-07, -4.50551948e-06, -5.79007841e-06, 3.07359560e-04,
    -1.77431684e-03, -5.90612184e-03, 3.48803642e-01, 2.12331322,
)  # fmt: skip
"""Highest power first."""
TAIL_POLYNOMIAL = (
    7.87202329e-10, -2.22151589e-08, 2.39811982e-07, -8.52546082e-07, -1.24573208e-05,
    3.48221623e-04, -7.15032904e-03, 2.49405352e-01, 3.76384310,
)  # fmt: skip


def standard_normals(words: UInt32Array) -> npt.NDArray[np.float32]:
    """Standard normal float32 numbers, one for each word.

    The upper 24 bits, read as a signed number, give a uniform number at the middle of one of 2^24 equal cells of
    (-1, 1); the normal number of that rank is returned, so |z| ≤ 5.42.
    """
    # -2^23 … 2^23-1, then the middle of the cell: exact. C order, because the tail is addressed by flat indices.
    x = (words.view(np.int32) >> np.int32(8)).astype(np.float32, order="C")
    x += np.float32(0.5)
    x *= np.float32(2.0**-23)
    w = (np.float32(1) - x) * (np.float32(1) + x)
    np.log(w, out=w)
    np.negative(w, out=w)
    tail = np.flatnonzero(w >= TAIL)
    w_tail = w.reshape(-1)[tail]
    w -= np.float32(CENTRE_ORIGIN)
    z = _polynomial(CENTRE_POLYNOMIAL, w)
    z.reshape(-1)[tail] = _polynomial(TAIL_POLYNOMIAL, w_tail - np.float32(TAIL_ORIGIN))
    z *= x
    return z


def _polynomial(coefficients: tuple[float, ...], w: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    z = np.full_like(w, coefficients[0])
    for c in coefficients[1:]:
        z *= w
        z += np.float32(c)
    return z
