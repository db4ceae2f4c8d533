"""The exact product on CPUs with AVX2 or AVX-512 VNNI: T is made anew, tile by tile, and never stored.

Making a tile in a core's L1 cache is faster than reading it from memory, and an int8 dot product does the work of two
to four float32 multiply-adds. The integers are those of every other backend, bit for bit.

Importing this does not import Numba.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.matrix import TILE_COLUMNS, TILE_ROWS, UNIT
from optical_dfa.emulator.numba_support import instruction_set, why_no_product
from optical_dfa.emulator.numpy_product import (
    DEFAULT_MEMORY_BUDGET_BYTES,
    Consumer,
    MatrixPlan,
    NumpyProduct,
    scaled,
)
from optical_dfa.emulator.threads import n_threads, share

SLAB_BYTES = 1 << 25
"""Packed inputs held at once."""

BATCHES = (64, 1024)
"""Fewest and most vectors multiplied at once. The most have sums of 1 MB for 256 rows of T, which stay in a core's L2.
Between the two, as many as one slab holds; if the fewest do not fit, the columns are taken in slabs."""

NARROW_SLAB_BYTES = 1 << 22
"""Packed inputs held at once by each thread where the columns are taken in slabs."""

FIELD_BYTES = 1 << 20
"""Fields that a thread makes before they are used up: they stay in its L2 cache."""

SPARSE = 0.75
"""Below this fraction of words in use, unused ones are left out. Leaving out costs one pass over the inputs."""

NARROW_INPUTS = 16
NARROW_BYTES = 1 << 20
"""Fields of a T of at most so many columns and, in float32, bytes are sums of its columns, which are kept: the tiles of
the general way would be nearly empty. At 10 inputs, 1,024 outputs and a batch of 128 it takes half of the time, at 16
inputs as much."""

THREAD_WORK = 20_000_000
"""Multiply-adds, about 0.1 ms, that are worth a thread."""


@dataclass(frozen=True)
class _Slab:
    """Neighbouring columns of the inputs, and which of them are in use."""

    vectors: npt.NDArray[np.int8]
    first_tile: int
    columns: npt.NDArray[np.uint32]
    """Words in use, four inputs each."""


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
        if reason := why_no_product():
            raise ValueError(f"backend 'numba' cannot be used: {reason}; take backend 'auto' or 'numpy'")
        from optical_dfa.emulator import numba_kernels

        n_threads()  # refuses a bad setting now rather than at the first product
        self._numpy = NumpyProduct(n_inputs, n_outputs, seed, memory_budget_bytes)
        self._kernels = numba_kernels
        self.n_inputs, self.n_outputs, self.seed = n_inputs, n_outputs, seed
        self._columns: npt.NDArray[np.float32] | None = None
        size = 4 * n_inputs * n_outputs
        self._narrow = n_inputs <= NARROW_INPUTS and size <= min(NARROW_BYTES, memory_budget_bytes)
        reason = "making T anew in a core's cache is faster than reading it"
        if self._narrow:
            reason = "T has few columns, and adding them up is faster than multiplying tiles"
        self.plan = MatrixPlan(
            backend="numba",
            storage="stored" if self._narrow else "procedural",
            stored_bytes=size if self._narrow else 0,
            why=f"{reason} ({instruction_set()}); real vectors are multiplied by NumPy: T {self._numpy.plan.storage}",
        )

    def __call__(self, vectors: npt.NDArray[np.int8] | npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        """Exact T·x for each row x; see `NumpyProduct.__call__`."""
        out = np.empty((len(vectors), self.n_outputs), np.int32)
        for part in self._batches(len(vectors)):
            self._multiply(vectors[part].view(np.int8), out[part])
        return out

    def fields(self, vectors: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
        """T·x of unit gain, float32 (batch, n_outputs); see `NumpyProduct.fields`."""
        if not self._narrow:
            return scaled(self, vectors)
        if self._columns is None:
            self._columns = np.ascontiguousarray(self.matrix(slice(None)).T, np.float32)
        out = np.empty((len(vectors), self.n_outputs), np.float32)
        self._kernels.narrow(np.ascontiguousarray(vectors), self._columns, UNIT, out)
        return out

    def stream(self, vectors: npt.NDArray[np.int8] | npt.NDArray[np.uint8], consume: Consumer) -> None:
        """Exact T·x, a block of rows at a time; see `NumpyProduct.stream`. Threads call `consume` at the same time."""
        for part in self._batches(len(vectors)):
            self._multiply(vectors[part].view(np.int8), functools.partial(consume, part.start))

    def real(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """T·x for real float32 (batch, n_inputs) vectors, by NumPy: float32 (batch, n_outputs)."""
        return self._numpy.real(vectors)

    def matrix(self, rows: slice) -> npt.NDArray[np.int8]:
        """Rows of T, int8 (number of rows, n_inputs). Allocates them: ask for few if T is large."""
        return self._numpy.matrix(rows)

    def _batches(self, n_vectors: int) -> Iterator[slice]:
        fewest, most = BATCHES
        size = min(most, max(fewest, SLAB_BYTES // self.n_inputs))
        return (slice(first, min(first + size, n_vectors)) for first in range(0, n_vectors, size))

    def _multiply(
        self,
        vectors: npt.NDArray[np.int8],
        to: npt.NDArray[np.int32] | Callable[[int, npt.NDArray[np.int32]], None],
    ) -> None:
        """Fields of one batch, into an array or, block by block, into a function of (first row, fields)."""
        batch = len(vectors)
        slabs = self._slabs(vectors)
        packed = self._pack(slabs[0]) if len(slabs) == 1 else None  # many would not fit: each thread packs its own
        n_words = sum(len(slab.columns) for slab in slabs)
        threads = min(n_threads(), 1 + self.n_outputs * 4 * n_words * (batch + 20) // THREAD_WORK)
        n_blocks = -(-self.n_outputs // TILE_ROWS)
        most = n_blocks if threads == 1 else n_blocks // (4 * threads)
        at_once = max(1, min(most, FIELD_BYTES // (4 * TILE_ROWS * batch)))

        def new_scratch() -> tuple[Any, npt.NDArray[np.int32]]:
            fields = 0 if isinstance(to, np.ndarray) else batch * at_once * TILE_ROWS
            return self._kernels.new_scratch(batch), np.empty(fields, np.int32)

        def work(block: int, scratch: tuple[Any, npt.NDArray[np.int32]]) -> None:
            row = block * TILE_ROWS
            n_rows = min(at_once * TILE_ROWS, self.n_outputs - row)
            buffers, room = scratch
            out, first = (to, row) if isinstance(to, np.ndarray) else (room[: batch * n_rows].reshape(batch, n_rows), 0)
            for slab in slabs:
                inputs, offsets = packed or self._pack(slab)
                self._kernels.multiply(
                    *(inputs, slab.columns, offsets, np.uint64(self.seed), (block, slab.first_tile)),
                    *(buffers, out, first, n_rows, slab.first_tile > 0),
                )
            if not isinstance(to, np.ndarray):
                to(row, out)

        share(range(0, n_blocks, at_once), threads, new_scratch, work)

    def _slabs(self, vectors: npt.NDArray[np.int8]) -> list[_Slab]:
        narrow = max(1, NARROW_SLAB_BYTES // (len(vectors) * TILE_COLUMNS)) * TILE_COLUMNS
        width = self.n_inputs if vectors.size <= SLAB_BYTES else narrow
        parts = ((first, vectors[:, first : first + width]) for first in range(0, self.n_inputs, width))
        return [_Slab(part, first // TILE_COLUMNS, _columns_in_use(_as_words(part))) for first, part in parts]

    def _pack(self, slab: _Slab) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int32]]:
        """The slab's inputs in the order of the kernel, and 128 times their sums."""
        batch = len(slab.vectors)
        packed, offsets = np.empty(batch * len(slab.columns), np.uint32), np.empty(batch, np.int32)
        self._kernels.pack(_as_words(slab.vectors), slab.columns, packed, offsets)
        return packed, offsets


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
