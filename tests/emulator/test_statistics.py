"""The transmission matrix behaves as random matrix theory says.

Seeds are fixed, so a test passes or fails for ever; `RATE` is the chance that a truly random matrix would fail it.
Where a test makes many comparisons, the rate is divided among them (Bonferroni).
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from optical_dfa.emulator import NumpyProduct, reference
from optical_dfa.emulator.hashing import hash_words
from optical_dfa.emulator.matrix import TABLE, UNIT, VARIANCE, tile_key

RATE = 1e-6

KURTOSIS = float(np.mean(TABLE.astype(np.float64) ** 4)) / VARIANCE**2


def normal_bound(comparisons: int = 1) -> float:
    """|z| that `comparisons` standard normals exceed, together, with probability RATE."""
    return float(stats.norm.isf(RATE / comparisons / 2))


def standardised(seed: int, rows: slice, n_inputs: int) -> npt.NDArray[np.float32]:
    """Entries of mean 0 and variance 1, float32 (rows, n_inputs)."""
    return NumpyProduct(n_inputs, rows.stop, seed).matrix(rows) * UNIT


def correlation_bound(samples: int, pairs: int) -> float:
    """|r| exceeded among `pairs` sample correlations of independent normals, together, with probability RATE."""
    t = stats.t.isf(RATE / pairs / 2, samples - 2)
    return float(t / np.sqrt(samples - 2 + t**2))


@pytest.mark.parametrize(("n_inputs", "seed"), [(60, 0), (200, 1), (1000, 2)])
def test_fields_are_gaussian_and_intensities_exponential(n_inputs: int, seed: int) -> None:
    """Kolmogorov-Smirnov distances of Re, Im and |field|² of a random binary vector over many modes; RATE / 3 each."""
    modes = 12_000_000 // n_inputs
    vector = np.random.default_rng(seed).integers(0, 2, (1, n_inputs), np.uint8)
    field = NumpyProduct(n_inputs, 2 * modes, seed)(vector)[0] / np.sqrt(VARIANCE * np.count_nonzero(vector))
    bound = stats.kstwo.isf(RATE / 3, modes)
    real, imaginary = field[0::2], field[1::2]
    assert stats.kstest(real, "norm").statistic < bound
    assert stats.kstest(imaginary, "norm").statistic < bound
    assert stats.kstest((real**2 + imaginary**2) / 2, "expon").statistic < bound


@pytest.mark.parametrize(("kind", "n", "m"), [("real", 1200, 500), ("real", 500, 500), ("complex", 800, 400)])
def test_singular_values_follow_marchenko_pastur(kind: str, n: int, m: int) -> None:
    """The extreme squared singular values of a block lie at the edges of Marchenko and Pastur, the rest fill their law.

    Edges: (√n ± √m)² with Tracy-Widom fluctuations (Johnstone 2001; n-1 for n where entries are real). Eight of their
    units on either side have a probability below exp(-8³/24) = 5e-10. A square block has its lower edge at 0, which
    cannot be missed. Law: eigenvalues are rigid, their number below a level has the standard deviation √(ln n)/π < 0.9,
    so that 7 of m, 7.8 σ, have a probability below m · 1e-14; m independent values would scatter by about √m/2.
    """
    if kind == "real":
        block: npt.NDArray[Any] = standardised(3, slice(0, n), m).astype(np.float64)
    else:
        quadratures = standardised(3, slice(0, 2 * n), m).astype(np.float64)
        block = (quadratures[0::2] + 1j * quadratures[1::2]) / np.sqrt(2)
    levels = np.linalg.eigvalsh(block.conj().T @ block)
    root_n, root_m = np.sqrt(n - (kind == "real")), np.sqrt(m)
    unit = (root_n + root_m) * (1 / root_n + 1 / root_m) ** (1 / 3)
    assert abs(levels[-1] - (root_n + root_m) ** 2) < 8 * unit
    if n > m:
        unit = (root_n - root_m) * (1 / root_m - 1 / root_n) ** (1 / 3)
        assert abs(levels[0] - (root_n - root_m) ** 2) < 8 * unit

    ratio = m / n
    low, high = (1 - np.sqrt(ratio)) ** 2, (1 + np.sqrt(ratio)) ** 2
    angle = (np.arange(20_000) + 0.5) * np.pi / 20_000  # x = middle - half · cos(angle) removes the singular edges
    x = (low + high) / 2 - (high - low) / 2 * np.cos(angle)
    weight = ((high - low) / 2 * np.sin(angle)) ** 2 / (2 * np.pi * ratio * x) * np.pi / 20_000
    law = np.cumsum(weight) - weight / 2
    assert law[-1] == pytest.approx(1, abs=1e-4)
    expected = m * np.interp(levels / n, x, law)
    assert np.abs(expected - np.arange(m) - 0.5).max() < 7


def test_entries_have_mean_zero_and_the_variance_of_the_table() -> None:
    """Overall, in each of 4096 rows and in each of 2048 columns; variances need the fourth moment of the table.

    The skewness of a variance of 2048 samples, below 0.07, makes such a deviation up to ten times as likely as the
    normal law says: hence the factor 10.
    """
    block = standardised(21, slice(0, 4096), 2048)
    for axis, count in ((None, 1), (0, 2048), (1, 4096)):
        samples = block.size / count
        means = np.asarray(block.mean(axis, dtype=np.float64))
        assert np.abs(means).max() * samples**0.5 < normal_bound(6 * count)
        excess = np.asarray(np.square(block).mean(axis, dtype=np.float64)) - 1
        assert np.abs(excess).max() * (samples / (KURTOSIS - 1)) ** 0.5 < normal_bound(10 * 6 * count)


@pytest.mark.parametrize("along", ["inputs", "outputs"])
def test_bytes_of_the_words_are_uniform(along: str) -> None:
    """Chi-square of 256 values at each of the four places of a byte, over 2^22 words along a row or along a column.

    Two-sided: a generator that is too even fails as well.
    """
    count = 1 << 22
    if along == "inputs":
        words = reference.words(5, np.arange(4)[:, None], np.arange(count // 4))
    else:
        words = reference.words(5, np.arange(count // 4)[:, None], np.arange(4))
    values = words.reshape(-1).astype("<u4").view(np.uint8).reshape(-1, 4)
    for place in range(4):
        statistic = stats.chisquare(np.bincount(values[:, place], minlength=256)).statistic
        assert stats.chi2.ppf(RATE / 8, 255) < statistic < stats.chi2.isf(RATE / 8, 255)


def test_bits_of_the_words_are_even_and_uncorrelated() -> None:
    """Each of 32 bits is set in half of 2^20 words, and each of 496 pairs agrees in half of them."""
    count = 1 << 20
    words = hash_words(np.arange(1 << 16, dtype=np.uint32), tile_key(5, 0, np.arange(16, dtype=np.uint64)[:, None]))
    bits = np.unpackbits(words.reshape(-1, 1).view(np.uint8), axis=1).astype(np.float32) * 2 - 1
    assert len(bits) == count
    bound = normal_bound(32 + 496)
    assert np.abs(bits.sum(axis=0)).max() < bound * count**0.5
    agreement = bits.T @ bits
    assert np.abs(agreement[np.triu_indices(32, 1)]).max() < bound * count**0.5


def test_rows_are_uncorrelated() -> None:
    """All pairs of 600 rows (three row blocks, among them the pairs of quadratures) over 8192 columns."""
    block = standardised(31, slice(0, 600), 8192)
    pairs = np.triu_indices(600, 1)
    correlation = np.asarray(np.corrcoef(block))
    assert np.abs(correlation[pairs]).max() < correlation_bound(8192, len(pairs[0]))


def test_columns_are_uncorrelated() -> None:
    """All pairs of 600 columns around the edge of two tiles, over 8192 rows."""
    block = standardised(32, slice(0, 8192), 1324)[:, 724:]
    pairs = np.triu_indices(600, 1)
    correlation = np.asarray(np.corrcoef(block, rowvar=False))
    assert np.abs(correlation[pairs]).max() < correlation_bound(8192, len(pairs[0]))


def test_quadratures_of_a_mode_are_uncorrelated() -> None:
    """Rows 2m and 2m+1: the largest of 2048 modes, and all modes together (4 million products)."""
    block = standardised(33, slice(0, 4096), 2048)
    products = np.einsum("mk,mk->m", block[0::2], block[1::2])
    assert np.abs(products).max() / 2048**0.5 < normal_bound(2 * 2048)
    assert abs(products.sum()) / (2048 * 2048) ** 0.5 < normal_bound(2)


def test_neighbouring_columns_are_uncorrelated() -> None:
    """Columns k and k+lag, for each place of k in its word of four entries, over 10 million products each."""
    block = standardised(34, slice(0, 4096), 2560)
    for lag in (1, 2, 3, 4, 8):
        for place in range(4):
            first, second = block[:, place:-lag:4], block[:, place + lag :: 4]
            width = min(first.shape[1], second.shape[1])
            total = float(np.einsum("ok,ok->o", first[:, :width], second[:, :width]).sum(dtype=np.float64))
            assert abs(total) / (4096 * width) ** 0.5 < normal_bound(20), (lag, place)


@pytest.mark.parametrize("seed", [0, 7, (1 << 32) - 1, (1 << 63) - 1])
def test_adjacent_seeds_are_uncorrelated(seed: int) -> None:
    """Seeds s and s+1, and s and s with one bit flipped: row by row (512 x 2048), and all products together."""
    block = standardised(seed, slice(0, 512), 2048)
    others = [seed + 1, *(seed ^ 1 << bit for bit in (1, 8, 31, 32, 62))]
    for other in others:
        products = np.einsum("ok,ok->o", block, standardised(other, slice(0, 512), 2048))
        comparisons = len(others) * 4 * (512 + 1)
        assert np.abs(products).max() / 2048**0.5 < normal_bound(comparisons), other
        assert abs(products.sum(dtype=np.float64)) / (512 * 2048) ** 0.5 < normal_bound(comparisons), other


def test_tiles_are_uncorrelated() -> None:
    """All pairs of 4 x 4 tiles, place by place: shared or exchanged keys would show here."""
    block = standardised(35, slice(0, 4 * 256), 4 * 1024)
    tiles = {(r, c): block[256 * r : 256 * (r + 1), 1024 * c : 1024 * (c + 1)] for r in range(4) for c in range(4)}
    pairs = [(a, b) for a in tiles for b in tiles if a < b]
    for a, b in pairs:
        total = float(np.vdot(tiles[a], tiles[b]))
        assert abs(total) / (256 * 1024) ** 0.5 < normal_bound(len(pairs)), (a, b)
