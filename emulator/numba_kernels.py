"""Loops of the Numba product. Plain: what needs special instructions is in `vnni` and `avx2`.

Importing this imports Numba; nothing is compiled before the first call.
"""

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator import avx2, vnni
from optical_dfa.emulator.numba_cache import compiled, inlined
from optical_dfa.emulator.numba_support import instruction_set

steps = vnni if instruction_set() == "AVX-512 VNNI" else avx2

BLOCK_ROWS = 256
"""Rows of T that share tile keys (`matrix.TILE_ROWS`) and are done for the whole batch before the next."""

TILE_WORDS = 256
"""Words of a row that share a tile key (`matrix.WORDS_PER_TILE_ROW`)."""

Words = npt.NDArray[np.uint32]
Sums = npt.NDArray[np.int32]


def new_scratch(batch: int) -> tuple[Words, Words, Words, Sums]:
    """Low and high halves of keys of a panel, a tile, and the sums of a block of rows, (tiles, batch, outputs)."""
    sums = _lines(4 * BLOCK_ROWS * batch).view(np.int32)
    tile = _lines(4 * steps.TILE_OUTPUTS * steps.PANEL_WORDS).view(np.uint32)
    return np.empty(steps.PANEL_WORDS, np.uint32), np.empty(steps.PANEL_WORDS, np.uint32), tile, sums


def _lines(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Memory that begins at a cache line: a register that spans two lines takes twice as long to load."""
    room = np.empty(n_bytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + n_bytes]


@compiled
def pack(words: Words, columns: Words, packed: Words, offsets: Sums) -> None:
    """Copy input words in the order in which `multiply` reads them, and add up the inputs.

    Args:
        words: (batch, words of a row), four int8 inputs each.
        columns: which of them to take, (n,).
        packed: (batch * n,), to be filled: for each panel of `PANEL_WORDS` columns, vector after vector.
        offsets: (batch,), to be filled: 128 Σx.
    """
    batch, n_words = len(words), len(columns)
    for vector in range(batch):
        total = np.int32(0)
        for panel in range(0, n_words, steps.PANEL_WORDS):
            width = min(steps.PANEL_WORDS, n_words - panel)
            to = panel * batch + vector * width
            for i in range(width):
                word = words[vector, columns[panel + i]]
                packed[to + i] = word
                for shift in (0, 8, 16, 24):
                    total += np.int32(np.int8(word >> np.uint32(shift)))
        offsets[vector] = 128 * total


@inlined
def _chain(key: np.uint64, part: np.uint64) -> np.uint64:
    """One step of `hashing.derive_key`."""
    z = (key ^ part) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@compiled
def multiply(
    packed: Words,
    columns: Words,
    offsets: Sums,
    seed: np.uint64,
    first_tile: tuple[int, int],
    scratch: tuple[Words, Words, Words, Sums],
    out: Sums,
    first: int,
    n_rows: int,
    add: bool,
) -> None:
    """T·x for neighbouring blocks of `BLOCK_ROWS` rows of T, in int32.

    Args:
        packed: from `pack`.
        columns: as for `pack`, counted from the first tile.
        offsets: from `pack`.
        seed: of T.
        first_tile: row block and column block of the first tile.
        scratch: buffers from `new_scratch`, of one thread.
        out: (batch, some columns), one for each row of T.
        first: column of `out` that belongs to the first row of the first block.
        n_rows: rows of T to multiply; the last block may be cut short.
        add: to what `out` holds; False: overwrite that.
    """
    lows, highs, tile, sums = scratch
    batch, n_words = len(offsets), len(columns)
    for block in range(-(-n_rows // BLOCK_ROWS)):
        start = first + block * BLOCK_ROWS
        row_key = _chain(_chain(np.uint64(3), seed), np.uint64(first_tile[0] + block))  # 3: the length of the path
        stop = min(start + BLOCK_ROWS, first + n_rows)
        for panel in range(0, max(n_words, 1), steps.PANEL_WORDS):
            width = min(steps.PANEL_WORDS, n_words - panel)
            for i in range(width):
                column = columns[panel + i]
                key = _chain(row_key, np.uint64(first_tile[1] + column // TILE_WORDS))
                lows[i] = np.uint32(key) ^ (column % TILE_WORDS)
                highs[i] = np.uint32(key >> np.uint64(32))
            for part in range(-(-(stop - start) // steps.TILE_OUTPUTS)):
                place = part * batch * steps.TILE_OUTPUTS
                if panel == 0:
                    sums[place : place + batch * steps.TILE_OUTPUTS] = 0
                steps.make_tile(lows, highs, width, part * steps.TILE_OUTPUTS, tile)
                vector = 0
                while vector < batch:
                    x, to = panel * batch + vector * width, place + vector * steps.TILE_OUTPUTS
                    if vector + steps.MANY <= batch:
                        steps.multiply_many(packed, x, width, tile, sums, to)
                        vector += steps.MANY
                    elif vector + steps.SOME <= batch:
                        steps.multiply_some(packed, x, width, tile, sums, to)
                        vector += steps.SOME
                    else:
                        steps.multiply_one(packed, x, width, tile, sums, to)
                        vector += 1
                if panel + steps.PANEL_WORDS >= n_words:
                    _hand_over(sums[place:], offsets, out, start + part * steps.TILE_OUTPUTS, stop, add)


@compiled
def _hand_over(sums: Sums, offsets: Sums, out: Sums, start: int, stop: int, add: bool) -> None:
    """Take 128 Σx off the sums of one tile, (batch, outputs), and put them into columns `start` … `stop` - 1."""
    width = min(steps.TILE_OUTPUTS, stop - start)
    for vector in range(len(offsets)):
        at, offset = vector * steps.TILE_OUTPUTS, offsets[vector]
        fields = out[vector, start:stop]
        if add:
            for i in range(width):
                fields[i] += sums[at + i] - offset
        elif width == steps.TILE_OUTPUTS:
            for i in range(steps.TILE_OUTPUTS):  # of known length: two registers
                fields[i] = sums[at + i] - offset
        else:
            for i in range(width):
                fields[i] = sums[at + i] - offset


@compiled
def narrow(
    vectors: npt.NDArray[np.int8], columns: npt.NDArray[np.float32], unit: np.float32, out: npt.NDArray[np.float32]
) -> None:
    """T·x · `unit` where T has few columns: each row of `out` is the sum of those that x has in use.

    Args:
        vectors: (batch, n_inputs), -1, 0 or 1.
        columns: of T, whole numbers, (n_inputs, n_outputs).
        unit: what the exact sums are multiplied by.
        out: (batch, n_outputs), to be filled.
    """
    n_outputs = columns.shape[1]
    for vector in range(len(vectors)):
        fields = out[vector]
        for i in range(n_outputs):
            fields[i] = 0
        for place in range(vectors.shape[1]):
            x = np.float32(vectors[vector, place])
            if x != 0:
                column = columns[place]
                for i in range(n_outputs):
                    fields[i] += x * column[i]
        for i in range(n_outputs):
            fields[i] *= unit
