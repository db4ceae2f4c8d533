"""CuPy arrays given to a device: checked, and served on their stream."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from optical_dfa.emulator.cupy_kernels import kernels


def gpu_of(array: Any) -> int:
    """Number of the CUDA device that holds a CuPy array."""
    number: int = array.device.id
    return number


def entries_beyond_one(array: Any) -> int:
    """How many entries of a CuPy int8 array are none of -1, 0, 1. Waits for the current stream: one integer."""
    with _device(array):
        return kernels().count_foreign(array)


def all_finite(array: Any) -> bool:
    """Whether a CuPy array holds neither NaN nor infinity. Waits for the current stream: one truth value."""
    import cupy

    with _device(array):
        return bool(cupy.isfinite(array).all())


P = ParamSpec("P")
R = TypeVar("R")


def on_current_stream(call: Callable[P, R], array: Any) -> Callable[P, R]:
    """The same call for another thread, on the GPU of the array and on the stream that is current here.

    CuPy's current stream belongs to a thread: elsewhere the work would not wait for what fills the array.
    """
    import cupy

    device, stream = _device(array), cupy.cuda.get_current_stream(gpu_of(array))

    def there(*args: P.args, **kwargs: P.kwargs) -> R:
        with device, stream:
            return call(*args, **kwargs)

    return there


def _device(array: Any) -> Any:
    import cupy

    return cupy.cuda.Device(gpu_of(array))
