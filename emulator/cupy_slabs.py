"""Slabs of T made on one stream while the product consumes the one before on another."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from optical_dfa.emulator.matrix import TILE_COLUMNS, TILE_ROWS


@dataclass(frozen=True)
class Slab:
    """A rectangle of T, sizes padded as cuBLAS needs them."""

    first_row: int
    n_rows: int
    first_column: int
    n_columns: int

    @property
    def size(self) -> int:
        """Entries, and bytes."""
        return self.n_rows * self.n_columns


def cut(n_rows: int, n_columns: int, height: int, n_bytes: int) -> list[Slab]:
    """T in slabs, row by row of slabs: as high as asked for, and as wide as `n_bytes` then allow.

    Rows and columns begin where tiles begin, so slabs are of one tile or more however small `n_bytes` is.
    """
    highest = max(1, n_bytes // TILE_COLUMNS // TILE_ROWS) * TILE_ROWS
    height = min(-(-height // TILE_ROWS) * TILE_ROWS, highest, n_rows)
    width = max(1, n_bytes // height // TILE_COLUMNS) * TILE_COLUMNS
    return [
        Slab(row, min(height, n_rows - row), column, min(width, n_columns - column))
        for row in range(0, n_rows, height)
        for column in range(0, n_columns, width)
    ]


def ahead(cupy: Any, maker: Any, slabs: list[Slab], make: Callable[[Any, Slab], None]) -> Iterator[tuple[Slab, Any]]:
    """Each slab with the buffer that holds it, the next one being made meanwhile.

    Two buffers take turns. The caller enqueues its use of a buffer on its own stream before it asks for the next; the
    host waits for nothing. Order is kept by events alone:

    - the maker starts after what the caller's stream had to do: memory of the pool may still be in use there;
    - a buffer is used after its slab is made, and made anew after its last use;
    - at the end the caller's stream waits for the maker, so that the buffers can go back to the pool of that stream.

    Args:
        cupy: the module.
        maker: the second stream, on the current device.
        slabs: in order; at least one.
        make: (buffer, slab) enqueues the making of a slab on the current stream.
    """
    caller = cupy.cuda.get_current_stream()
    buffers = [cupy.empty(max(slab.size for slab in slabs), np.int8) for _ in range(2)]
    made, used = ([cupy.cuda.Event(disable_timing=True) for _ in range(2)] for _ in range(2))
    maker.wait_event(caller.record(cupy.cuda.Event(disable_timing=True)))

    def start(index: int) -> None:
        turn = index % 2
        if index >= 2:
            maker.wait_event(used[turn])
        with maker:
            make(buffers[turn], slabs[index])
        maker.record(made[turn])

    try:
        start(0)
        for index, slab in enumerate(slabs):
            if index + 1 < len(slabs):
                start(index + 1)
            caller.wait_event(made[index % 2])
            yield slab, buffers[index % 2]
            caller.record(used[index % 2])
    finally:  # also when the caller gives up: the buffers must not be given away while they are written
        caller.wait_event(maker.record(cupy.cuda.Event(disable_timing=True)))
