"""Ternary encoding of error vectors, one after the other while it is in the cache, for main memory.

Importing this imports Numba; nothing is compiled before the first call.
"""

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.llvm_floats import bits_of, float_of
from optical_dfa.emulator.numba_cache import compiled

MAGNITUDE = np.int32(0x7FFFFFFF)
"""All bits of a float32 but the sign. As integers, magnitudes are in the order of the numbers, NaN behind infinity."""

INFINITY = np.int32(0x7F800000)

LANES = 8
"""Sums of squares added up side by side, so that the loop vectorises."""


@compiled
def ternary(
    errors: npt.NDArray[np.float32],
    threshold: float,
    relative: bool,
    factor: float,
    vectors: npt.NDArray[np.int8],
    scale: npt.NDArray[np.float32],
    gain: npt.NDArray[np.float32],
) -> bool:
    """Signs of the errors whose magnitude exceeds a limit, and ‖error‖ over the norm of what is left.

    Args:
        errors: (rows, features).
        threshold: the limit, or what the largest magnitude of a row is multiplied by for it.
        relative: which of the two.
        factor: of `gain`.
        vectors: (rows, features), to be filled with -1, 0 and 1.
        scale: (rows, 1), to be filled; 0 where nothing is left.
        gain: (rows, 1), to be filled with scale · factor.

    Returns:
        Whether all errors are finite. If not, what was filled means nothing.
    """
    features = errors.shape[1]
    whole = features - features % LANES
    squares = np.empty(LANES, np.float64)
    fraction = np.float32(threshold)
    for row in range(len(errors)):
        error, vector = errors[row], vectors[row]
        largest = np.int32(0)
        for i in range(features):
            largest = max(largest, bits_of(error[i]) & MAGNITUDE)
        if largest >= INFINITY:
            return False
        squares[:] = 0.0
        for start in range(0, whole, LANES):
            for lane in range(LANES):
                e = np.float64(error[start + lane])
                squares[lane] += e * e
        for i in range(whole, features):
            squares[i - whole] += np.float64(error[i]) * np.float64(error[i])
        limit = float_of(largest) * fraction if relative else fraction
        shown = np.int32(0)
        for i in range(features):
            sign = np.int8(error[i] > limit) - np.int8(error[i] < -limit)
            vector[i] = sign
            shown += sign != 0
        scale[row, 0] = np.float32(np.sqrt(squares.sum()) / np.sqrt(np.float64(shown))) if shown else np.float32(0)
        gain[row, 0] = scale[row, 0] * np.float32(factor)
    return True
