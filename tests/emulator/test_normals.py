"""Standard normal numbers against scipy's normal quantile in float64."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy import special, stats

from optical_dfa.emulator.hashing import derive_key, hash_words
from optical_dfa.emulator.normals import standard_normals

CELLS = 1 << 24


def quantile(cell: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Normal quantile at the middle of cell 0 … 2^24-1 of the unit interval."""
    result: npt.NDArray[np.float64] = special.ndtri((np.asarray(cell, np.float64) + 0.5) / CELLS)
    return result


def word_of(cell: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    """A word of a cell: the upper 24 bits of a word, read as a signed number, count the cells from the middle."""
    signed = np.asarray(cell, np.int64) - CELLS // 2
    return (signed << 8).astype(np.int32).view(np.uint32)


def test_normals_are_quantiles() -> None:
    """Every 16th cell and the 100 outermost of each tail: the polynomials are good to 4e-7 relative."""
    cells = np.concatenate([np.arange(0, CELLS, 16), np.arange(100), CELLS - 1 - np.arange(100)])
    found = standard_normals(word_of(cells))
    assert found.dtype == np.float32
    assert np.abs(found - quantile(cells)).max() < 2e-6


@pytest.mark.parametrize(
    ("word", "cell"),
    [
        (0, CELLS // 2),
        (2**32 - 1, CELLS // 2 - 1),
        (2**31, 0),
        (2**31 - 1, CELLS - 1),
    ],
)
def test_extreme_words(word: int, cell: int) -> None:
    """The words 0 and 2^32-1 lie at the centre, 2^31 and 2^31-1 are the least and the greatest number, ∓5.42."""
    found = float(standard_normals(np.array([word], np.uint32))[0])
    assert found == pytest.approx(float(quantile(cell)), rel=1e-6)
    assert abs(found) <= 5.42


def test_the_lowest_byte_is_not_used() -> None:
    words = np.arange(0xABCDEF00, 0xABCDEF00 + 256, dtype=np.uint32)
    assert np.unique(standard_normals(words)).size == 1


def test_normals_are_odd() -> None:
    """The complement of a word is the mirror cell, so the mean over all words is exactly zero."""
    words = hash_words(np.arange(100_000, dtype=np.uint32), derive_key(1))
    np.testing.assert_array_equal(standard_normals(~words), -standard_normals(words))


def test_moments_over_the_cells() -> None:
    """Variance 1, fourth moment 3; the midpoint rule over 2^20 cells loses 2e-6 and 1e-4 in the tails."""
    z = standard_normals(word_of(np.arange(0, CELLS, 16) + 8)).astype(np.float64)
    assert np.mean(z**2) == pytest.approx(1, abs=1e-5)
    assert np.mean(z**4) == pytest.approx(3, abs=5e-4)


def test_normals_of_hash_words_are_normal() -> None:
    """Mean, variance and Kolmogorov-Smirnov distance of 2^20 numbers; false alarms: 3e-7 each."""
    n, rate = 1 << 20, 3e-7
    z = standard_normals(hash_words(np.arange(n, dtype=np.uint32), derive_key(7, 7))).astype(np.float64)
    bound = stats.norm.isf(rate / 2)
    assert abs(z.mean()) * n**0.5 < bound
    assert abs(z.var() - 1) * (n / 2) ** 0.5 < bound
    assert stats.kstest(z, "norm").statistic < stats.kstwo.isf(rate, n)


def test_layout_does_not_matter() -> None:
    """Tail numbers (1 in 300) sit at the same place in column-major, transposed and strided words."""
    words = hash_words(np.arange(60_000, dtype=np.uint32), derive_key(8)).reshape(200, 300)
    expected = standard_normals(words)
    np.testing.assert_array_equal(standard_normals(np.asfortranarray(words)), expected)
    np.testing.assert_array_equal(standard_normals(words.T), expected.T)
    np.testing.assert_array_equal(standard_normals(words[::3, ::7]), expected[::3, ::7])


def test_position_does_not_matter() -> None:
    """A number depends on its word alone, wherever the word stands in a vectorised loop."""
    words = hash_words(np.arange(1000, dtype=np.uint32), derive_key(9))
    expected = standard_normals(words)
    for first, last in ((1, 1000), (3, 20), (17, 18), (5, 777)):
        np.testing.assert_array_equal(standard_normals(words[first:last].copy()), expected[first:last])
