"""Definition of the transmission matrix, version 1. Frozen: golden vectors in the tests pin it for ever.

T is one real matrix of integers in [-127, 127]. Rows 2m and 2m+1 are the two quadratures of speckle mode m, whose
complex field is (row 2m + i·row 2m+1)·x. Entry (o, k) depends on (seed, o, k) alone, so a larger matrix extends a
smaller one. Four entries, T[o, 4·k4 … 4·k4+3], are the bytes, least significant first, of one 32-bit word w(o, k4)
passed through a table:

- the matrix is cut into tiles of `TILE_ROWS` x `TILE_COLUMNS` entries; tile (r, c) has the key (seed, r, c);
- inside a tile, the counter of the word is 256·(o mod 256) + (k4 mod 256);
- each byte b becomes `TABLE[b]`, an 8-bit quantile table of the normal law.

Why: vector dot products of int8 (`vpdpbusd`, `dp4a`) and cuBLAS' int8 product all consume four neighbouring entries of
one row as one word. On a CPU, making the words is faster than reading them from memory.
"""

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.checks import require
from optical_dfa.emulator.hashing import Key, derive_key

VERSION = 1
"""Version of this definition; part of every device's fingerprint."""

TILE_ROWS = 256
TILE_COLUMNS = 1024
WORDS_PER_TILE_ROW = TILE_COLUMNS // 4

MAX_INPUTS = 1 << 24
"""Widest matrix: 127·2^24 is the largest field that int32 holds (2^31 - 2^24)."""

MAX_OUTPUTS = 1 << 31
"""Tallest matrix; ten times the pixels of any camera. Row indices stay below 2^31 on every backend."""

VARIANCE = 1929.546875
"""Variance of an entry, exactly; the mean is exactly 0."""

UNIT = np.float32(1 / VARIANCE**0.5)
"""Integer field x UNIT = field of unit gain, E[field²] = |x|². The only rounding of the exact product."""

EXACT_NONZEROS = (1 << 24) // 127
"""132,104: up to so many non-zeros of a ternary vector, any float32 summation order is exact (|sum| ≤ 2^24)."""


def _quantile_table() -> npt.NDArray[np.int8]:
    quantile = NormalDist(0, 44).inv_cdf
    levels = np.array([quantile((byte + 0.5) / 256) for byte in range(256)])
    table: npt.NDArray[np.int8] = np.clip(np.rint(levels), -127, 127).astype(np.int8)
    return table


TABLE = _quantile_table()
"""int8 (256,): byte of a word → entry of T. Antisymmetric, so the mean of a uniform byte is exactly 0."""
TABLE.setflags(write=False)


def tile_key(seed: int, row_block: int | npt.NDArray[np.uint64], column_block: int | npt.NDArray[np.uint64]) -> Key:
    """Key of tile (row_block, column_block) of the matrix of `seed`; arrays of blocks give arrays of keys."""
    return derive_key(seed, row_block, column_block)


def check_geometry(n_inputs: int, n_outputs: int, seed: int) -> None:
    """Refuse a geometry or seed outside the definition.

    Raises:
        ValueError: naming what was given and what is accepted.
    """
    for name, value, low, high in (
        ("n_inputs", n_inputs, 1, MAX_INPUTS),
        ("n_outputs", n_outputs, 1, MAX_OUTPUTS),
        ("seed", seed, 0, (1 << 64) - 1),
    ):
        number = isinstance(value, int) and not isinstance(value, bool)
        require(number and low <= value <= high, name, value, f"an int from {low:,} to {high:,}")
