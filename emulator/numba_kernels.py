"""Loops of the Numba product. Plain: what needs special instructions is in `vnni`.

Importing this imports Numba; nothing is compiled before the first call. Compiled code is kept on disk in a folder named
after the content of the kernel files, because Numba's own cache notices changes in the file of a function only, not in
files that it takes intrinsics from.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.vnni import TILE_OUTPUTS, make_tile, multiply_1, multiply_4, multiply_12

BLOCK_ROWS = 256
"""Rows of T that share tile keys (`matrix.TILE_ROWS`) and are done for the whole batch before the next."""

TILE_WORDS = 256
"""Words of a row that share a tile key (`matrix.WORDS_PER_TILE_ROW`)."""

PANEL_WORDS = 128
"""Words of a row in one tile buffer: 32 x 128 words are 16 KB, which leave room in a core's L1 cache for the inputs
that pass over them. Measured 5 % faster than 256 words and 2 % faster than 64."""

KERNEL_FILES = tuple(Path(__file__).with_name(name) for name in ("numba_kernels.py", "vnni.py"))

Words = npt.NDArray[np.uint32]
Sums = npt.NDArray[np.int32]


def source_key(files: tuple[Path, ...] = KERNEL_FILES) -> str:
    """Hash of the content of the kernel files, 16 hexadecimal digits."""
    contents = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)
    return hashlib.sha256(contents).hexdigest()[:16]


def cache_folder(files: tuple[Path, ...] = KERNEL_FILES) -> Path | None:
    """Folder of the compiled kernels, named after their source; None if it cannot be written.

    It lies in $NUMBA_CACHE_DIR, or in the user's cache folder: never where others may write, for what is loaded from it
    is run.
    """
    try:
        base = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "optical_dfa" / source_key(files)
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return None
    return folder


def _compiled(function: Callable[..., None]) -> Any:
    """Compile at the first call, or load from `cache_folder`. Without the interpreter's lock and without threads."""
    config: Any = numba.config
    folder, usual = cache_folder(), config.CACHE_DIR
    config.CACHE_DIR = str(folder or usual)  # read by the decorator, which has no argument for it
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=folder is not None)(function)
    finally:
        config.CACHE_DIR = usual


def new_scratch(batch: int) -> tuple[Words, Words, Words, Sums]:
    """Low and high halves of keys of a panel, a tile, and the sums of a block of rows, (tiles, batch, 32)."""
    sums = _lines(4 * BLOCK_ROWS * batch).view(np.int32)
    tile = _lines(4 * TILE_OUTPUTS * PANEL_WORDS).view(np.uint32)
    return np.empty(PANEL_WORDS, np.uint32), np.empty(PANEL_WORDS, np.uint32), tile, sums


def _lines(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Memory that begins at a cache line: a register that spans two lines takes twice as long to load."""
    room = np.empty(n_bytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + n_bytes]


@_compiled
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
        for panel in range(0, n_words, PANEL_WORDS):
            width = min(PANEL_WORDS, n_words - panel)
            to = panel * batch + vector * width
            for i in range(width):
                word = words[vector, columns[panel + i]]
                packed[to + i] = word
                for shift in (0, 8, 16, 24):
                    total += np.int32(np.int8(word >> np.uint32(shift)))
        offsets[vector] = 128 * total


@_compiled
def multiply(
    packed: Words,
    columns: Words,
    offsets: Sums,
    low: Words,
    high: Words,
    table: npt.NDArray[np.uint8],
    scratch: tuple[Words, Words, Words, Sums],
    out: Sums,
    first_row: int,
    add: bool,
) -> None:
    """T·x for some blocks of `BLOCK_ROWS` rows of T, in int32.

    Args:
        packed: from `pack`.
        columns: as for `pack`, counted from the first tile.
        offsets: from `pack`.
        low: low halves of the tile keys, (blocks, tiles).
        high: high halves.
        table: entries of T + 128 by byte, (256,).
        scratch: buffers from `new_scratch`, of one thread.
        out: (batch, n_outputs).
        first_row: row of T, and column of `out`, where the first block begins.
        add: to what `out` holds; False: overwrite that.
    """
    lows, highs, tile, sums = scratch
    batch, n_words, n_outputs = len(offsets), len(columns), out.shape[1]
    for block in range(len(low)):
        row = first_row + block * BLOCK_ROWS
        n_rows = min(BLOCK_ROWS, n_outputs - row)
        n_tiles = -(-n_rows // TILE_OUTPUTS)
        sums[: n_tiles * batch * TILE_OUTPUTS] = 0
        for panel in range(0, n_words, PANEL_WORDS):
            width = min(PANEL_WORDS, n_words - panel)
            for i in range(width):
                column = columns[panel + i]
                lows[i] = low[block, column // TILE_WORDS] ^ (column % TILE_WORDS)
                highs[i] = high[block, column // TILE_WORDS]
            for part in range(n_tiles):
                make_tile(lows, highs, width, part * TILE_OUTPUTS, table, tile)
                vector, inputs, at = 0, panel * batch, part * batch * TILE_OUTPUTS
                while vector + 12 <= batch:
                    multiply_12(packed, inputs + vector * width, width, tile, sums, at + vector * TILE_OUTPUTS)
                    vector += 12
                while vector + 4 <= batch:
                    multiply_4(packed, inputs + vector * width, width, tile, sums, at + vector * TILE_OUTPUTS)
                    vector += 4
                while vector < batch:
                    multiply_1(packed, inputs + vector * width, width, tile, sums, at + vector * TILE_OUTPUTS)
                    vector += 1
        for vector in range(batch):
            for part in range(n_tiles):
                to, at = row + part * TILE_OUTPUTS, (part * batch + vector) * TILE_OUTPUTS
                for i in range(min(TILE_OUTPUTS, n_outputs - to)):
                    field = sums[at + i] - offsets[vector]
                    out[vector, to + i] = out[vector, to + i] + field if add else field
