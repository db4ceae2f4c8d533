"""The exact product on CPUs with AVX-512 VNNI and VBMI: T is made anew, tile by tile, and never stored.

Making a tile in a core's L1 cache is faster than reading it from memory, and an int8 dot product does the work of four
float32 multiply-adds. The integers are those of every other backend, bit for bit.

Importing this does not import Numba; `why_unavailable` does, where the rest is there.
"""

import functools
import importlib.util
import os
import platform
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.checks import require
from optical_dfa.emulator.matrix import TABLE, TILE_COLUMNS, TILE_ROWS, WORDS_PER_TILE_ROW, tile_key
from optical_dfa.emulator.numpy_product import DEFAULT_MEMORY_BUDGET_BYTES, MatrixPlan, NumpyProduct

REQUIRED_FEATURES = ("avx512f", "avx512bw", "avx512vnni", "avx512vbmi")
"""CPU features, in LLVM's names, of the instructions in `vnni`."""

THREADS_VARIABLE = "OPTICAL_DFA_THREADS"
"""Environment variable: most threads of one product. Never more than the CPUs that the process may use."""

BATCH = 1024
"""Vectors multiplied at once: their sums for 256 rows of T are 1 MB and stay in a core's L2 cache."""

SLAB_BYTES = 1 << 24
"""Packed inputs held at once; wider vectors are taken in slabs of columns."""

KEYS = 1 << 14
"""Tile keys made at once."""

SPARSE = 0.75
"""Below this fraction of words in use, unused ones are left out. Leaving out costs one pass over the inputs."""

THREAD_WORK = 20_000_000
"""Multiply-adds, about 0.1 ms, that are worth a thread."""


@functools.cache
def why_unavailable() -> str | None:
    """Why `NumbaProduct` cannot run here; None if it can. Compiles nothing."""
    if importlib.util.find_spec("numba") is None or importlib.util.find_spec("llvmlite") is None:
        return 'Numba is not installed (pip install "optical_dfa[fast]")'
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        return "the environment variable NUMBA_DISABLE_JIT switches Numba off"
    if lacking := [name for name in REQUIRED_FEATURES if name not in _cpu_features()]:
        return f"the CPU, as Numba is set to use it, lacks {', '.join(lacking)}"
    try:
        import optical_dfa.emulator.numba_kernels  # noqa: F401
    except ImportError as error:  # Numba refuses versions of NumPy newer than itself in this way
        return f"Numba cannot be imported: {error}"
    return None


def _cpu_features() -> set[str]:
    """Features that Numba compiles for: of this CPU, unless Numba's environment variables say otherwise."""
    chosen = os.environ.get("NUMBA_CPU_FEATURES")
    if platform.machine() not in ("x86_64", "AMD64") or os.environ.get("NUMBA_ENABLE_AVX", "1") == "0":
        return set()
    if chosen is not None:
        return {name[1:] for name in chosen.split(",") if name.startswith("+")}
    if os.environ.get("NUMBA_CPU_NAME", "host") not in ("", "host"):
        return set()
    import llvmlite.binding  # loads LLVM: only where Numba is about to be used

    return {name for name, present in llvmlite.binding.get_host_cpu_features().items() if present}


def n_threads() -> int:
    """Threads that a large product is split over.

    Raises:
        ValueError: the environment variable OPTICAL_DFA_THREADS is not a whole number, 1 or more.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wish = os.environ.get(THREADS_VARIABLE, "")
    accepted = wish == "" or (wish.isdecimal() and int(wish) > 0)
    require(accepted, f"environment variable {THREADS_VARIABLE}", wish, "a whole number, 1 or more")
    return min(cpus, int(wish)) if wish else cpus


class _Pool:
    """The threads that all products of this process share. A forked child has none of them and begins anew."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    def executor(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="optical-dfa-product")
            return self._executor


_pool = _Pool()


def _forget_pool() -> None:
    global _pool
    _pool = _Pool()  # with a fresh lock: the old one may have been held at the moment of the fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


class NumbaProduct:
    """Exact products T·x of one transmission matrix, T never stored. Safe to call from several threads at once.

    Args:
        n_inputs: columns of T.
        n_outputs: rows of T.
        seed: seed of the matrix, 0 … 2^64-1.
        memory_budget_bytes: for `real` alone, which is NumPy's: it stores T if that fits.

    Raises:
        ValueError: for a geometry or seed outside the definition of T, or where Numba is missing or the CPU lacks the
            instructions.
    """

    def __init__(
        self, n_inputs: int, n_outputs: int, seed: int, memory_budget_bytes: int = DEFAULT_MEMORY_BUDGET_BYTES
    ) -> None:
        if reason := why_unavailable():
            raise ValueError(f"backend 'numba' cannot be used: {reason}; take backend 'auto' or 'numpy'")
        from optical_dfa.emulator import numba_kernels

        n_threads()  # refuses a bad setting now rather than at the first product
        self._numpy = NumpyProduct(n_inputs, n_outputs, seed, memory_budget_bytes)
        self._kernels = numba_kernels
        self.n_inputs, self.n_outputs, self.seed = n_inputs, n_outputs, seed
        self.plan = MatrixPlan(
            backend="numba",
            storage="procedural",
            stored_bytes=0,
            why="making T anew in a core's cache is faster than reading it (AVX-512 VNNI)",
        )
        self._table = TABLE.view(np.uint8) ^ np.uint8(0x80)  # T + 128

    def __call__(self, vectors: npt.NDArray[np.int8] | npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        """Exact T·x for each row x; see `NumpyProduct.__call__`."""
        out = np.empty((len(vectors), self.n_outputs), np.int32)
        for first in range(0, len(vectors), BATCH):
            part = slice(first, first + BATCH)
            self._multiply(vectors[part].view(np.int8), out[part])
        return out

    def real(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """T·x for real float32 (batch, n_inputs) vectors, by NumPy: float32 (batch, n_outputs)."""
        return self._numpy.real(vectors)

    def matrix(self, rows: slice) -> npt.NDArray[np.int8]:
        """Rows of T, int8 (number of rows, n_inputs). Allocates them: ask for few if T is large."""
        return self._numpy.matrix(rows)

    def _multiply(self, vectors: npt.NDArray[np.int8], out: npt.NDArray[np.int32]) -> None:
        width = max(1, SLAB_BYTES // (len(vectors) * TILE_COLUMNS)) * TILE_COLUMNS
        for first in range(0, self.n_inputs, width):
            self._multiply_slab(vectors[:, first : first + width], first // TILE_COLUMNS, out, add=first > 0)

    def _multiply_slab(
        self, vectors: npt.NDArray[np.int8], first_tile: int, out: npt.NDArray[np.int32], add: bool
    ) -> None:
        words = _as_words(vectors)
        columns = _columns_in_use(words)
        packed = np.empty(len(words) * len(columns), np.uint32)
        offsets = np.empty(len(words), np.int32)
        self._kernels.pack(words, columns, packed, offsets)
        n_tiles = -(-words.shape[1] // WORDS_PER_TILE_ROW)
        tiles = np.arange(first_tile, first_tile + n_tiles, dtype=np.uint64)
        n_blocks = -(-self.n_outputs // TILE_ROWS)
        threads = min(n_threads(), 1 + self.n_outputs * 4 * len(columns) * (len(words) + 20) // THREAD_WORK)
        at_once = max(1, min(KEYS // n_tiles, n_blocks // (4 * threads)))
        jobs = deque(range(0, n_blocks, at_once))

        def work() -> None:
            scratch = self._kernels.new_scratch(len(words))
            while True:
                try:
                    block = jobs.popleft()  # atomic: jobs go to whoever is free
                except IndexError:
                    return
                blocks = np.arange(block, min(block + at_once, n_blocks), dtype=np.uint64)
                low, high = tile_key(self.seed, blocks[:, None], tiles)
                self._kernels.multiply(
                    packed, columns, offsets, low, high, self._table, scratch, out, block * TILE_ROWS, add
                )

        others = [_pool.executor().submit(work) for _ in range(threads - 1)]
        work()
        for other in others:
            other.result()


def _as_words(vectors: npt.NDArray[np.int8]) -> npt.NDArray[np.uint32]:
    """Four inputs a word, (batch, words); the last is filled up with zeros, which multiply whatever T has there."""
    if vectors.shape[1] % 4 or not vectors.flags.c_contiguous:
        padded = np.zeros((len(vectors), -(-vectors.shape[1] // 4) * 4), np.int8)
        padded[:, : vectors.shape[1]] = vectors
        vectors = padded
    words = vectors.view(np.uint32)
    return words if words.flags.aligned else words.copy()


def _columns_in_use(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Words that are not zero in every vector, if they are few; else all."""
    used = np.bitwise_or.reduce(words, axis=0)
    if np.count_nonzero(used) < SPARSE * len(used):
        return np.flatnonzero(used).astype(np.uint32)
    return np.arange(len(used), dtype=np.uint32)
