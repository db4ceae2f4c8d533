"""CuPy arrays told from others, without importing CuPy."""

import sys
from typing import Any


def is_cupy(array: object) -> bool:
    """Whether this is a CuPy array. Who has one has imported CuPy."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


def on_host(array: Any) -> Any:
    """The array, copied to main memory if it is a CuPy array."""
    return array.get() if is_cupy(array) else array
