"""Standard normal numbers from hash words, by the inverse of the error function."""

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.hashing import UInt32Array

# Giles (2012), "Approximating the erfinv function", single precision, highest power first. Both branches carry sqrt(2),
# so that the result is the normal quantile; relative error below 4e-7.
_CENTRE = np.float32(2**0.5) * np.array(
    [2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 2.1858087e-04,
     -1.25372503e-03, -4.17768164e-03, 2.46640727e-01, 1.50140941],
    np.float32,
)  # fmt: skip
_TAIL = np.float32(2**0.5) * np.array(
    [-2.00214257e-04, 1.00950558e-04, 1.34934322e-03, -3.67342844e-03, 5.73950773e-03,
     -7.6224613e-03, 9.43887047e-03, 1.00167406, 2.83297682],
    np.float32,
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
    tail = np.flatnonzero(w >= 5)
    w_tail = np.sqrt(w.reshape(-1)[tail])
    w -= np.float32(2.5)
    z = _polynomial(_CENTRE, w)
    z.reshape(-1)[tail] = _polynomial(_TAIL, w_tail - np.float32(3))
    z *= x
    return z


def _polynomial(coefficients: npt.NDArray[np.float32], w: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    z = np.full_like(w, coefficients[0])
    for c in coefficients[1:]:
        z *= w
        z += c
    return z
