"""The part of CuPy that this library uses, on a `Gpu` without a GPU: arrays are host memory, kernels are compiled C.

`install` puts it where `import cupy` finds it. Like CuPy it refuses to turn its arrays into NumPy ones silently.
"""

import contextlib
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any, cast

import host_kernels
import numpy as np
import pytest
from fake_gpu import Gpu, Memory, Operation, int8_gemm

from optical_dfa.emulator import cupy_kernels, cupy_product

HANDLE = 0xB1A5


class Fake:
    """One fake CuPy with a GPU of its own.

    Args:
        seed: of the order in which work is done.
        free_bytes: free memory that the GPU claims to have.
        l2_bytes: size of its L2 cache.
    """

    VERSION = "0"

    def __init__(self, seed: int = 0, free_bytes: int = 1 << 34, l2_bytes: int = 1 << 25) -> None:
        gpu = self.gpu = Gpu(seed)
        local = threading.local()

        class CUDARuntimeError(RuntimeError):
            pass

        class Event:
            def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
                self.operation: Operation | None = None

        class Stream:
            null: Any
            _next = 100

            def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
                Stream._next += 1
                self.ptr = 0 if null else Stream._next

            @classmethod
            def from_external(cls, stream: Any) -> "Stream":
                made = cls()
                version, made.ptr = stream.__cuda_stream__()
                assert version == 0
                return made

            def __enter__(self) -> "Stream":
                current_streams().append(self)
                return self

            def __exit__(self, *exc_info: object) -> None:
                current_streams().pop()

            def record(self, event: Event | None = None) -> Event:
                event = event or Event()
                event.operation = gpu.record(self.ptr)
                return event

            def wait_event(self, event: Event) -> None:
                gpu.wait(self.ptr, event.operation)

            def synchronize(self) -> None:
                gpu.synchronise(self.ptr)

        Stream.null = Stream(null=True)

        def current_streams() -> list[Any]:
            if not hasattr(local, "streams"):
                local.streams = [Stream.null]
            streams: list[Any] = local.streams
            return streams

        def current(device_id: int = -1) -> Any:
            return current_streams()[-1]

        def enqueue(name: str, run: Any) -> None:
            gpu.enqueue(current().ptr, name, run)

        class Device:
            compute_capability = "90"
            attributes = {"L2CacheSize": l2_bytes}  # noqa: RUF012
            mem_info = (free_bytes, 2 * free_bytes)
            cublas_handle = HANDLE

            def __init__(self, device: int = 0) -> None:
                self.id = device

            def __enter__(self) -> "Device":
                return self

            def __exit__(self, *exc_info: object) -> None:
                pass

        class ndarray:  # noqa: N801  # CuPy's name
            __array_ufunc__ = None

            def __init__(self, host: np.ndarray[Any, Any], memory: Memory | None) -> None:
                self.host, self.memory, self.device = host, memory, Device()
                self.data = types.SimpleNamespace(ptr=host.ctypes.data)
                self.shape, self.dtype, self.ndim, self.size = host.shape, host.dtype, host.ndim, host.size
                self.strides, self.flags, self.itemsize = host.strides, host.flags, host.itemsize

            def __len__(self) -> int:
                return len(self.host)

            def __array__(self, *args: Any, **kwargs: Any) -> Any:
                raise TypeError("Implicit conversion to a NumPy array is not allowed.")

            def seen(self, host: Any) -> "ndarray":
                return ndarray(host, self.memory)

            def __getitem__(self, key: Any) -> "ndarray":
                if not isinstance(key, ndarray):
                    return self.seen(self.host[key])
                host, rows = self.host, key.host
                return computed("take", (len(key), *self.shape[1:]), self.dtype, lambda: host[rows])

            def repeat(self, times: int, axis: int) -> "ndarray":
                host, shape = self.host, list(self.shape)
                shape[axis] *= times
                return computed("repeat", shape, self.dtype, lambda: host.repeat(times, axis))

            def compared(self, other: Any, compare: Any) -> "ndarray":
                left, right = self.host, other.host if isinstance(other, ndarray) else other
                return computed("compare", self.shape, np.bool_, lambda: compare(left, right))

            def __ne__(self, other: Any) -> "ndarray":  # type: ignore[override]
                return self.compared(other, np.not_equal)

            def __gt__(self, other: Any) -> "ndarray":
                return self.compared(other, np.greater)

            def __lt__(self, other: Any) -> "ndarray":
                return self.compared(other, np.less)

            def any(self, axis: int) -> "ndarray":
                host = self.host
                return computed("any", self.shape[:axis] + self.shape[axis + 1 :], np.bool_, lambda: host.any(axis))

            def reshape(self, *shape: int) -> "ndarray":
                host = self.host.reshape(*shape)
                assert np.shares_memory(host, self.host) or not host.size
                return self.seen(host)

            def view(self, dtype: Any) -> "ndarray":
                return self.seen(self.host.view(dtype))

            @property
            def T(self) -> "ndarray":  # noqa: N802  # CuPy's name
                return self.seen(self.host.T)

            def get(self) -> Any:
                gpu.synchronise(current().ptr)
                return self.host.copy()

            def astype(self, dtype: Any) -> "ndarray":
                host = self.host
                return computed("astype", self.shape, dtype, lambda: host.astype(dtype))

            def copy(self) -> "ndarray":
                host = self.host
                return computed("copy", self.shape, self.dtype, lambda: host)

            def fill(self, value: Any) -> None:
                host = self.host
                enqueue("fill", lambda: host.fill(value))

            def __mul__(self, factor: Any) -> "ndarray":
                host = self.host
                return computed("multiply", self.shape, np.result_type(host, factor), lambda: host * factor)

            def __matmul__(self, other: "ndarray") -> "ndarray":
                left, right = self.host, other.host
                shape = (left.shape[0], right.shape[1])
                return computed("matmul", shape, np.result_type(left, right), lambda: left @ right)

            def __iadd__(self, other: "ndarray") -> "ndarray":
                left, right = self.host, other.host
                enqueue("add", lambda: np.add(left, right, out=left))
                return self

            def min(self) -> "ndarray":
                host = self.host
                return computed("min", (), self.dtype, lambda: host.min())

            def max(self) -> "ndarray":
                host = self.host
                return computed("max", (), self.dtype, lambda: host.max())

            def all(self) -> "ndarray":
                host = self.host
                return computed("all", (), np.bool_, lambda: host.all())

            def __int__(self) -> int:
                return int(self.get())

            def __bool__(self) -> bool:
                return bool(self.get())

            def __str__(self) -> str:
                return str(self.get())

            def __dlpack_device__(self) -> tuple[int, int]:
                return self.host.__dlpack_device__()

            def __dlpack__(self, **kwargs: Any) -> Any:
                gpu.synchronise(current().ptr)  # torch on a CPU reads at once
                shared.append(self.memory)  # for good: the pool does not get it back
                return self.host.__dlpack__()

        shared: list[Memory | None] = []

        def empty(shape: Any, dtype: Any = float) -> ndarray:
            shape = (shape,) if isinstance(shape, int) else tuple(shape)
            size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            memory = Memory(gpu, current().ptr, size)
            return ndarray(memory.block[:size].view(dtype).reshape(shape), memory)

        def computed(name: str, shape: Any, dtype: Any, compute: Any) -> ndarray:
            made = empty(shape, dtype)
            host = made.host
            enqueue(name, lambda: np.copyto(host, compute(), casting="no" if host.dtype != bool else "unsafe"))
            return made

        def zeros(shape: Any, dtype: Any = float) -> ndarray:
            return computed("zeros", shape, dtype, lambda: np.zeros(shape, dtype))

        def asarray(array: Any) -> ndarray:
            if isinstance(array, ndarray):
                return array
            now = np.array(array)  # the host's array may change once this returns
            return computed("upload", now.shape, now.dtype, lambda: now)

        def ascontiguousarray(array: ndarray) -> ndarray:
            assert isinstance(array, ndarray), "CuPy's takes no NumPy array"
            return array if array.flags.c_contiguous else array.copy()

        def stack(arrays: list[ndarray], axis: int) -> ndarray:
            hosts = [array.host for array in arrays]
            shape = np.stack(hosts, axis).shape
            return computed("stack", shape, hosts[0].dtype, lambda: np.stack(hosts, axis))

        def isfinite(array: ndarray) -> ndarray:
            host = array.host
            return computed("isfinite", array.shape, np.bool_, lambda: np.isfinite(host))

        def from_dlpack(tensor: Any) -> ndarray:
            return ndarray(np.from_dlpack(tensor), None)

        class RawKernel:
            def __init__(self, name: str) -> None:
                assert name in host_kernels.signatures()
                self.name = name

            def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
                values = host_kernels.checked(self.name, args)
                hosts = [argument.host for argument in args if isinstance(argument, ndarray)]

                def run() -> None:
                    assert hosts  # kept until here: memory that is not of the pool
                    host_kernels.launch(self.name, grid, block[0], values)

                enqueue(self.name, run)

        class RawModule:
            def __init__(self, *, code: str, options: tuple[str, ...] = ()) -> None:
                assert code == cupy_kernels.SOURCE.read_text(encoding="utf-8")

            def get_function(self, name: str) -> RawKernel:
                return RawKernel(name)

        def gemm_ex(*arguments: Any) -> None:
            int8_gemm(gpu, current().ptr, arguments, HANDLE)

        self.module = cast(Any, types.ModuleType("cupy"))
        runtime = types.SimpleNamespace(
            getDeviceCount=lambda: 1, getDevice=lambda: 0, CUDARuntimeError=CUDARuntimeError,
            getDeviceProperties=lambda device: {"name": b"Fake GPU"}, runtimeGetVersion=lambda: 12000,
        )  # fmt: skip
        self.module.__version__ = self.VERSION
        self.module.cuda = types.SimpleNamespace(
            runtime=runtime, Device=Device, Stream=Stream, Event=Event, get_current_stream=current,
            cublas=types.SimpleNamespace(gemmEx=gemm_ex),
        )  # fmt: skip
        for public in (ndarray, empty, zeros, asarray, ascontiguousarray, stack, isfinite, from_dlpack, RawModule):
            setattr(self.module, public.__name__, public)


@contextlib.contextmanager
def installed(fake: Fake) -> Iterator[Fake]:
    """`import cupy` gives the fake; everything that was looked up about CuPy is forgotten before and after."""
    forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", fake.module)
        yield fake
        fake.gpu.finish()
    forget()


def forget() -> None:
    cupy_kernels.kernels.cache_clear()
    cupy_product.why_unavailable.cache_clear()
