"""The Numba product of one process against the reference, on a fixed grid: `python exact_product_grid.py`.

A process of its own, because Numba reads which instructions it may use when it is imported. Prints the instruction set;
fails where an integer is wrong.
"""

import os
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from optical_dfa.emulator import NumbaProduct, matrix, numba_product, reference
from optical_dfa.emulator.numba_kernels import steps
from optical_dfa.emulator.numba_support import instruction_set

SHAPES = 40
MOST_NONZEROS = 520_001


def ternary(generator: np.random.Generator, batch: int, n_inputs: int, sparsity: float) -> npt.NDArray[np.int8]:
    """Vectors with about that fraction of zeros, every third one entirely zero."""
    vectors = generator.integers(0, 2, (batch, n_inputs), np.int8) * 2 - 1
    vectors[generator.random(vectors.shape) < sparsity] = 0
    vectors[1::3] = 0
    return vectors


def check(vectors: npt.NDArray[np.int8], n_outputs: int, seed: int) -> None:
    """`__call__` and `stream` against the reference."""
    product, expected = NumbaProduct(vectors.shape[1], n_outputs, seed), reference.product(seed, vectors, n_outputs)
    np.testing.assert_array_equal(product(vectors), expected)
    found = np.zeros_like(expected)

    def take(vector: int, row: int, fields: npt.NDArray[np.int32]) -> None:
        found[vector : vector + fields.shape[0], row : row + fields.shape[1]] = fields

    product.stream(vectors, take)
    np.testing.assert_array_equal(found, expected)


def shapes() -> None:
    """Random shapes, one side of each up to 5000; edges of tiles; every batch from 0 to 70."""
    generator = np.random.default_rng(20)
    for number in range(SHAPES):
        long, short, batch = (int(generator.integers(1, limit + 1)) for limit in (5000, 90, 40))
        sides = (long, short) if number % 2 else (short, long)
        vectors = ternary(generator, batch, sides[0], float(generator.choice([0.0, 0.3, 0.9, 0.999])))
        check(vectors, sides[1], int(generator.integers(1 << 63)))
    for n_inputs, n_outputs in ((1, 1), (4, 16), (5, 17), (255, 33), (256, 32), (257, 31), (1025, 257), (4097, 513)):
        check(ternary(generator, 19, n_inputs, 0.2), n_outputs, (1 << 64) - 1)
    for batch in range(71):
        check(ternary(generator, batch, 301, 0.4), 35, 3)


def every_entry() -> None:
    """Unit vectors give T itself; all values of the table are among its entries."""
    found = NumbaProduct(280, 1000, 9)(np.eye(280, dtype=np.int8))
    np.testing.assert_array_equal(found.T, reference.matrix(9, 1000, 280))
    np.testing.assert_array_equal(np.unique(found), np.unique(matrix.TABLE))


def many_nonzeros() -> None:
    """More than one float32 sum can hold; x·(T + 128) passes 2^31."""
    rows = reference.entries(6, np.arange(3)[:, None], np.arange(MOST_NONZEROS)).astype(np.int64)
    ones = np.ones(MOST_NONZEROS)
    vectors = np.stack([np.where(rows[0] < 0, -1, 1), ones, -ones]).astype(np.int8)
    np.testing.assert_array_equal(NumbaProduct(MOST_NONZEROS, 3, 6)(vectors), vectors.astype(np.int64) @ rows.T)


def runner(step: Any) -> Callable[..., None]:
    """A micro-kernel as a function of its own."""

    @numba.njit
    def run(packed: Any, n_words: Any, tile: Any, sums: Any) -> None:
        step(packed, 0, n_words, tile, sums, 0)

    kernel: Callable[..., None] = run
    return kernel


def extreme_sums() -> None:
    """The micro-kernels on the longest tile, all its entries extreme and all inputs of one sign: nothing saturates."""
    kernels = {steps.MANY: steps.multiply_many, steps.SOME: steps.multiply_some, 1: steps.multiply_one}
    n_words = steps.PANEL_WORDS
    for n_vectors, step in kernels.items():
        run = runner(step)
        for entry in (1, 127 + 128):
            tile = np.full(4 * n_words * steps.TILE_OUTPUTS, entry, np.uint8).view(np.uint32)
            for sign in (1, -1):
                packed = np.full(4 * n_words * n_vectors, sign, np.int8).view(np.uint32)
                sums = np.full(n_vectors * steps.TILE_OUTPUTS, 7, np.int32)
                run(packed, n_words, tile, sums)
                np.testing.assert_array_equal(sums, 7 + sign * entry * 4 * n_words)


def threads_and_forks() -> None:
    """The same integers with threads, in a forked process, and afterwards."""
    numba_product.THREAD_WORK = 1
    vars(numba_product)["n_threads"] = lambda: 3
    vectors = ternary(np.random.default_rng(1), 20, 900, 0.3)
    check(vectors, 3000, 5)
    if not (child := os.fork()):
        try:
            check(vectors, 3000, 5)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    check(vectors, 3000, 5)


if __name__ == "__main__":
    shapes()
    every_entry()
    many_nonzeros()
    extreme_sums()
    threads_and_forks()
    print(instruction_set())
