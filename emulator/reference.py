"""The plain reference: what the product *means*, in the fewest lines. Slow; every backend is tested against it."""

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.hashing import hash_words
from optical_dfa.emulator.matrix import (
    TABLE,
    TILE_ROWS,
    WORDS_PER_TILE_ROW,
    check_geometry,
    tile_key,
)


def words(seed: int, rows: npt.ArrayLike, word_columns: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    """Words w(o, k4) of the matrix of `seed`, uint32, for index arrays that broadcast together."""
    o, k4 = np.broadcast_arrays(np.asarray(rows, np.uint64), np.asarray(word_columns, np.uint64))
    key = tile_key(seed, o // TILE_ROWS, k4 // WORDS_PER_TILE_ROW)
    counter = WORDS_PER_TILE_ROW * (o % TILE_ROWS) + k4 % WORDS_PER_TILE_ROW
    return hash_words(counter.astype(np.uint32), key)


def entries(seed: int, rows: npt.ArrayLike, columns: npt.ArrayLike) -> npt.NDArray[np.int8]:
    """Entries T[o, k], int8, for index arrays that broadcast together."""
    k = np.asarray(columns, np.uint64)
    byte = words(seed, rows, k // np.uint64(4)) >> (8 * (k % np.uint64(4))).astype(np.uint32)
    found: npt.NDArray[np.int8] = TABLE[byte & np.uint32(0xFF)]
    return found


def matrix(seed: int, n_outputs: int, n_inputs: int) -> npt.NDArray[np.int8]:
    """The whole matrix, int8 (n_outputs, n_inputs)."""
    check_geometry(n_inputs, n_outputs, seed)
    return entries(seed, np.arange(n_outputs)[:, None], np.arange(n_inputs)[None, :])


def product(seed: int, vectors: npt.NDArray[np.int8], n_outputs: int) -> npt.NDArray[np.int32]:
    """Exact T·x for each row x of `vectors`.

    Args:
        seed: seed of the matrix.
        vectors: int8 (batch, n_inputs), entries -1, 0 or 1.
        n_outputs: rows of T to use.

    Returns:
        int32 (batch, n_outputs).
    """
    t = matrix(seed, n_outputs, vectors.shape[1]).astype(np.int64)
    return (vectors.astype(np.int64) @ t.T).astype(np.int32)
