"""CuPy arrays told from others, without importing CuPy."""

import sys


def is_cupy(array: object) -> bool:
    """Whether this is a CuPy array. Who has one has imported CuPy."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)
