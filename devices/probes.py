"""Vectors to look at a device with."""

import numpy as np
import numpy.typing as npt

Ternary = npt.NDArray[np.int8]


def lit_vectors(generator: np.random.Generator, count: int, n_inputs: int, lit: int) -> Ternary:
    """Random vectors, int8 (count, n_inputs), with `lit` entries of -1 or +1 each, or all where there are fewer."""
    vectors = np.zeros((count, n_inputs), np.int8)
    for vector in vectors:
        places = generator.permutation(n_inputs)[:lit]
        vector[places] = generator.integers(0, 2, len(places), np.int8) * np.int8(2) - np.int8(1)
    return vectors


def pairs_and_sums(
    generator: np.random.Generator, count: int, n_inputs: int, lit: int
) -> tuple[Ternary, Ternary, Ternary]:
    """Vectors x, y that light different inputs, and x + y: int8 (count, n_inputs) each.

    Args:
        generator: of places and signs.
        count: pairs.
        n_inputs: length, 2 or more.
        lit: entries of x + y that are not 0, at most `n_inputs`; one half of them, rounded up, is in x.
    """
    both = lit_vectors(generator, count, n_inputs, max(2, lit))
    first = np.zeros_like(both)
    for whole, part in zip(both, first, strict=True):
        places = np.flatnonzero(whole)
        chosen = places[: -(-len(places) // 2)]
        part[chosen] = whole[chosen]
    return first, both - first, both
