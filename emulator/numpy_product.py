"""The exact product on NumPy: the backend that runs everywhere.

A float32 GEMM over slabs of T is exact here, because every partial sum is an integer below 2^24 (a slab is far narrower
than `EXACT_NONZEROS`); slabs are added in int32. T is kept as int8 below a memory budget and made anew above it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.checks import require
from optical_dfa.emulator.hashing import hash_words
from optical_dfa.emulator.matrix import (
    TABLE,
    TILE_COLUMNS,
    TILE_ROWS,
    UNIT,
    WORDS_PER_TILE_ROW,
    check_geometry,
    tile_key,
)

DEFAULT_MEMORY_BUDGET_BYTES = 1 << 30

Consumer = Callable[[int, int, npt.NDArray[np.int32]], None]
"""Takes (first vector, first row, fields) of a block of a product."""

STREAM_BYTES = 1 << 24
"""Fields made before they are used up."""

# 256 x 2048 entries are 2 MB as float32: the slab stays in a core's L2 between look-up, conversion and product.
SLAB_TILES = 2
SLAB_COLUMNS = SLAB_TILES * TILE_COLUMNS
SLAB_PRODUCTS = 1 << 17
"""Products of a tall slab, so that they stay in L2 too until they are integers."""

# Two table look-ups at once: np.take on uint16 pairs is twice as fast as on bytes and 5x as fast as fancy indexing.
_BYTES = TABLE.view(np.uint8).astype(np.uint16)
_PAIR_TABLE = (_BYTES[None, :] | (_BYTES[:, None] << 8)).reshape(-1)

_TILE_COUNTERS = np.arange(TILE_ROWS * WORDS_PER_TILE_ROW, dtype=np.uint32).reshape(TILE_ROWS, 1, WORDS_PER_TILE_ROW)


@dataclass(frozen=True)
class MatrixPlan:
    """How a backend holds T: what a user needs to understand memory and speed."""

    backend: str
    storage: str
    """`stored` or `procedural`."""
    stored_bytes: int
    why: str


def matrix_slab(seed: int, row_block: int, first_column_block: int, n_column_blocks: int) -> npt.NDArray[np.int8]:
    """Neighbouring tiles of one row block, int8 (TILE_ROWS, n_column_blocks · TILE_COLUMNS)."""
    blocks = np.arange(first_column_block, first_column_block + n_column_blocks, dtype=np.uint64)[:, None]
    words = hash_words(_TILE_COUNTERS, tile_key(seed, row_block, blocks))
    pairs = words.astype("<u4", copy=False).view(np.uint16).reshape(TILE_ROWS, -1)
    return np.take(_PAIR_TABLE, pairs, mode="wrap").view(np.int8)


class NumpyProduct:
    """Exact products T·x of one transmission matrix.

    Args:
        n_inputs: columns of T.
        n_outputs: rows of T.
        seed: seed of the matrix, 0 … 2^64-1.
        memory_budget_bytes: T is stored (int8) if it fits, otherwise made anew for each product.

    Raises:
        ValueError: for a geometry or seed outside the definition of T.
    """

    def __init__(
        self, n_inputs: int, n_outputs: int, seed: int, memory_budget_bytes: int = DEFAULT_MEMORY_BUDGET_BYTES
    ) -> None:
        check_geometry(n_inputs, n_outputs, seed)
        number = isinstance(memory_budget_bytes, int | float) and not isinstance(memory_budget_bytes, bool)
        require(number and memory_budget_bytes >= 0, "memory_budget_bytes", memory_budget_bytes, "a number ≥ 0, bytes")
        self.n_inputs, self.n_outputs, self.seed = n_inputs, n_outputs, seed
        size = n_inputs * n_outputs
        fits = size <= memory_budget_bytes
        self.plan = MatrixPlan(
            backend="numpy",
            storage="stored" if fits else "procedural",
            stored_bytes=size if fits else 0,
            why=f"{size:,} bytes of int8 {'fit' if fits else 'do not fit'} the budget of {memory_budget_bytes:,} bytes",
        )
        self._stored: npt.NDArray[np.int8] | None = None

    def __call__(self, vectors: npt.NDArray[np.int8] | npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        """Exact T·x for each row x.

        Args:
            vectors: int8 or uint8 (batch, n_inputs) with entries -1, 0, 1. The caller has checked them.

        Returns:
            int32 (batch, n_outputs).
        """
        out = np.empty((len(vectors), self.n_outputs), np.int32)
        # float32 → int32 is exact: the partial sums are integers
        self._multiply(vectors, out)
        return out

    def fields(self, vectors: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
        """T·x of unit gain, float32 (batch, n_outputs): the integers times `UNIT`, rounded once.

        Args:
            vectors: as for `__call__`.
        """
        return scaled(self, vectors)

    def stream(self, vectors: npt.NDArray[np.int8] | npt.NDArray[np.uint8], consume: Consumer) -> None:
        """Exact T·x, a block of rows at a time, for what need not hold all of it.

        Args:
            vectors: as for `__call__`.
            consume: called with (first vector, first row, fields), fields int32 (vectors, rows) that are overwritten
                afterwards. The blocks come in any order, each begins at an even row.
        """
        rows = max(TILE_ROWS, STREAM_BYTES // (4 * max(1, len(vectors))) // TILE_ROWS * TILE_ROWS)
        for first in range(0, self.n_outputs if len(vectors) else 0, rows):
            out = np.empty((len(vectors), min(rows, self.n_outputs - first)), np.int32)
            self._multiply(vectors, out, first)
            consume(0, first, out)

    def real(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """T·x for real float32 (batch, n_inputs) vectors, by a plain float32 GEMM: float32 (batch, n_outputs)."""
        out = np.empty((len(vectors), self.n_outputs), np.float32)
        self._multiply(vectors, out)
        return out

    def matrix(self, rows: slice) -> npt.NDArray[np.int8]:
        """Rows of T, int8 (number of rows, n_inputs). Allocates them: ask for few if T is large."""
        chosen = range(self.n_outputs)[rows]
        low, high = sorted((chosen[0], chosen[-1])) if chosen else (0, -1)
        out = np.empty((high + 1 - low, self.n_inputs), np.int8)
        for row_block in range(low // TILE_ROWS, high // TILE_ROWS + 1):
            top = row_block * TILE_ROWS
            start, stop = max(low, top), min(high + 1, top + TILE_ROWS)
            for first in range(0, self.n_inputs, SLAB_COLUMNS):
                slab = self._make(row_block, first)[start - top : stop - top]
                out[start - low : stop - low, first : first + SLAB_COLUMNS] = slab
        upwards = out[:: abs(chosen.step)]
        return upwards if chosen.step > 0 else upwards[::-1]

    def _multiply(self, vectors: npt.NDArray[np.generic], out: npt.NDArray[np.generic], first_row: int = 0) -> None:
        """Write the rows of T from `first_row` on, a multiple of `TILE_ROWS`, times the vectors to `out`."""
        if self.plan.storage == "stored" and self._stored is None and len(vectors):
            self._stored = self.matrix(slice(None))
        # a narrow stored matrix goes in few tall slabs: a small GEMM costs more to start than to do
        tiles = min(SLAB_COLUMNS // self.n_inputs, SLAB_PRODUCTS // (TILE_ROWS * max(1, len(vectors))))
        height = TILE_ROWS * (max(1, tiles) if self._stored is not None else 1)
        # one for all slabs: a new one each time would cost more, in pages to map, than a small product
        space = np.empty((len(vectors), min(height, out.shape[1])), np.float32)
        for first in range(0, self.n_inputs, SLAB_COLUMNS):
            x = vectors[:, first : first + SLAB_COLUMNS].astype(np.float32)
            for row in range(0, out.shape[1], height):
                part = out[:, row : row + height]
                top = first_row + row
                if self._stored is not None:
                    slab = self._stored[top : top + part.shape[1], first : first + SLAB_COLUMNS]
                else:
                    slab = self._make(top // TILE_ROWS, first)[: part.shape[1]]
                product = np.matmul(x, slab.astype(np.float32).T, out=space[:, : part.shape[1]])
                if first:
                    np.add(part, product, out=part, casting="unsafe")
                else:
                    part[...] = product

    def _make(self, row_block: int, first_column: int) -> npt.NDArray[np.int8]:
        width = min(SLAB_COLUMNS, self.n_inputs - first_column)
        tiles = -(-width // TILE_COLUMNS)
        return matrix_slab(self.seed, row_block, first_column // TILE_COLUMNS, tiles)[:, :width]


class _Streams(Protocol):
    n_outputs: int

    def stream(self, vectors: npt.NDArray[np.int8], consume: Consumer) -> None: ...


def scaled(product: _Streams, vectors: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    """Streamed integers times `UNIT`, float32 (batch, n_outputs), without an array of the integers."""
    out = np.empty((len(vectors), product.n_outputs), np.float32)

    def take(vector: int, row: int, fields: npt.NDArray[np.int32]) -> None:
        block = out[vector : vector + fields.shape[0], row : row + fields.shape[1]]
        np.multiply(fields, UNIT, out=block, dtype=np.float32, casting="unsafe")  # int32 → float32, rounded once

    product.stream(vectors, take)
    return out
