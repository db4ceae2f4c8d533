"""A GPU that does nothing until somebody waits, and then as disorderly as streams and events allow.

Work is kept as operations. An operation comes after the one before on its stream and after the events that its stream
was told to wait for; nothing else orders it, and the next to run is drawn at random. What lacks a wait then gives wrong
integers under some seed. Memory comes from a pool with CuPy's rule: what is freed is given out again on the stream it
was taken on, at once, whatever is still under way on other streams.
"""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

GEMM_EX = (
    "handle", "transa", "transb", "m", "n", "k", "alpha", "a", "a_type", "lda", "b", "b_type", "ldb", "beta", "c",
    "c_type", "ldc", "compute", "algo",
)  # fmt: skip
"""Arguments of CuPy's `gemmEx`, in order."""


@dataclass(eq=False)
class Operation:
    name: str
    run: Callable[[], None]
    after: "list[Operation]"
    done: bool = False


@dataclass
class Gpu:
    seed: int = 0
    log: list[tuple[str, int]] = field(default_factory=list)
    """What was enqueued, and on which stream."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.lock = threading.RLock()
        self.pending: list[Operation] = []
        self.last: dict[int, Operation] = {}
        self.waits: dict[int, list[Operation]] = {}
        self.free: dict[tuple[int, int], list[npt.NDArray[np.uint8]]] = {}
        self.live: dict[int, int] = {}
        self.synchronised = 0

    def enqueue(self, stream: int, name: str, run: Callable[[], None]) -> None:
        with self.lock:
            before = [self.last[stream]] if stream in self.last else []
            operation = Operation(name, run, [op for op in before + self.waits.pop(stream, []) if not op.done])
            self.last[stream] = operation
            self.pending.append(operation)
            self.log.append((name, stream))

    def record(self, stream: int) -> Operation | None:
        """What an event recorded now stands for."""
        with self.lock:
            if self.waits.get(stream):  # so that waiting for the event waits for these too
                self.enqueue(stream, "event", lambda: None)
            return self.last.get(stream)

    def wait(self, stream: int, operation: Operation | None) -> None:
        with self.lock:
            if operation is not None and not operation.done:
                self.waits.setdefault(stream, []).append(operation)

    def synchronise(self, stream: int) -> None:
        """Run what the stream has to do, and whatever else happens to come first."""
        with self.lock:
            self.synchronised += 1
            target = self.record(stream)
            while target is not None and not target.done:
                ready = [op for op in self.pending if all(other.done for other in op.after)]
                chosen = self.random.choice([ready[0], ready[-1], self.random.choice(ready)])
                chosen.run()
                chosen.done = True
                chosen.after = []
                self.pending.remove(chosen)

    def finish(self) -> None:
        with self.lock:
            for stream in list(self.last):
                self.synchronise(stream)

    def take(self, stream: int, size: int) -> npt.NDArray[np.uint8]:
        """Memory of the pool: aligned as CuPy's, and with whatever was in it."""
        size = max(512, -(-size // 512) * 512)
        with self.lock:
            freed = self.free.get((stream, size))
            if freed:
                block = freed.pop()
            else:
                room = np.full(size + 512, 0xA5, np.uint8)
                start = -room.ctypes.data % 512
                block = room[start : start + size]
            self.live[block.ctypes.data] = size
            return block

    def give(self, stream: int, block: npt.NDArray[np.uint8]) -> None:
        with self.lock:
            del self.live[block.ctypes.data]
            self.free.setdefault((stream, len(block)), []).append(block)

    def holds(self, address: int, size: int) -> bool:
        """Whether these bytes lie in memory that is given out."""
        return any(start <= address and address + size <= start + length for start, length in self.live.items())


class Memory:
    """A piece of the pool, given back when nothing refers to it any more."""

    def __init__(self, gpu: Gpu, stream: int, size: int) -> None:
        self.gpu, self.stream, self.block = gpu, stream, gpu.take(stream, size)

    def __del__(self) -> None:
        self.gpu.give(self.stream, self.block)


def int8_gemm(gpu: Gpu, stream: int, arguments: tuple[Any, ...], handle: int) -> None:
    """Double of `gemmEx`: checks every argument, and multiplies what lies at those addresses, column-major."""
    assert all(type(argument) is int for argument in arguments), arguments
    g = dict(zip(GEMM_EX, arguments, strict=True))
    assert g["handle"] == handle
    assert (g["transa"], g["transb"]) == (1, 0), "int8 is multiplied as TN only"
    assert (g["a_type"], g["b_type"], g["c_type"], g["compute"], g["algo"]) == (3, 3, 10, 72, -1)
    for name in ("m", "k", "lda", "ldb", "ldc", "a", "b", "c"):
        assert g[name] % 16 == 0, f"{name} = {g[name]}"
    assert g["n"] % 8 == 0
    assert g["n"] > 16
    m, n, k = g["m"], g["n"], g["k"]
    assert min(m, k) > 0
    assert max(m, n, k, g["lda"], g["ldb"], g["ldc"]) < 1 << 31
    assert g["lda"] >= k
    assert g["ldb"] >= k
    assert g["ldc"] >= m
    assert gpu.holds(g["a"], g["lda"] * (m - 1) + k)
    assert gpu.holds(g["b"], g["ldb"] * (n - 1) + k)
    assert gpu.holds(g["c"], 4 * (g["ldc"] * (n - 1) + m))
    alpha, beta = (int(_at(g[name], np.int32, (1,), (4,))[0]) for name in ("alpha", "beta"))
    assert alpha == 1
    assert beta in (0, 1)

    def run() -> None:
        a = _at(g["a"], np.int8, (k, m), (1, g["lda"]))
        b = _at(g["b"], np.int8, (k, n), (1, g["ldb"]))
        c = _at(g["c"], np.int32, (m, n), (4, 4 * g["ldc"]))
        real = np.float32 if 128 * k * max(1, int(np.abs(b.astype(np.int16)).max())) < 1 << 24 else np.float64
        product = (a.T.astype(real) @ b.astype(real)).astype(np.int64)
        c[:] = alpha * product + (c if beta else 0)

    gpu.enqueue(stream, "gemm", run)


def _at(address: int, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> npt.NDArray[Any]:
    """What lies at an address, as a NumPy array without a copy."""
    size = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + np.dtype(dtype).itemsize
    interface = {"data": (address, False), "shape": (size,), "typestr": "|u1", "version": 3}
    flat = np.asarray(type("Bytes", (), {"__array_interface__": interface})())
    return np.ndarray(shape, dtype, flat, strides=strides)
