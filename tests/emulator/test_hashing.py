"""The keys and words against plain Python integers written from the definition, and against pinned values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_hash import MASK_32, MASK_64, plain_key, plain_word

from optical_dfa.emulator.hashing import Key, derive_key, hash_words

uint32s = st.integers(0, MASK_32)
uint64s = st.integers(0, MASK_64)


def plain_counter(word: int, low: int, high: int) -> int:
    """Inverse of `plain_word`, step by step: an odd factor has an inverse modulo 2^32."""

    def unshift(x: int, shift: int) -> int:
        y = x
        for _ in range(32 // shift):
            y = x ^ (y >> shift)
        return y

    x = unshift(word, 14) * pow(0x31848BAB, -1, 1 << 32) & MASK_32
    x = unshift(x, 15) * pow(0xAC4C1B51, -1, 1 << 32) & MASK_32
    x = (unshift(x, 11) - high) * pow(0xED5AD4BB, -1, 1 << 32) & MASK_32
    return unshift(x, 17) ^ low


def as_key(low: int, high: int) -> Key:
    return np.array([low], np.uint32), np.array([high], np.uint32)


def word(counter: int, low: int, high: int) -> int:
    return int(hash_words(np.array([counter], np.uint32), as_key(low, high))[0])


@pytest.mark.parametrize(
    ("path", "low", "high"),
    [
        # 6457827717110365317 is the first output of SplitMix64 from state 1234567 in its published test vectors;
        # a path of one part p has the state 1 ^ p
        ((1234567 ^ 1,), 6457827717110365317 & MASK_32, 6457827717110365317 >> 32),
        ((0,), 0x89025CC1, 0x910A2DEC),
        ((0, 0, 0), 0x1B6B1313, 0x546F3606),
        ((1, 0, 0), 0xA275EC95, 0x1956ECD1),
        ((0, 1, 0), 0x00422600, 0x5564FA06),
        ((0, 0, 1), 0x8C90B689, 0x51A40399),
        ((MASK_64, 2, 3), 0xD9F20670, 0x28FD25F2),
        ((7, 1, 5, 9), 0xED60925E, 0x3A29722C),
    ],
)
def test_pinned_keys(path: tuple[int, ...], low: int, high: int) -> None:
    found = derive_key(*path)
    assert [half.dtype for half in found] == [np.uint32, np.uint32]
    assert (int(found[0][0]), int(found[1][0])) == (low, high) == plain_key(*path)


@pytest.mark.parametrize(
    ("counter", "low", "high", "expected"),
    [
        (0, 0, 0, 0x00000000),
        (1, 0, 0, 0x042741D6),
        (MASK_32, 0, 0, 0x127F588F),
        (0, 1, 0, 0x042741D6),
        (0, 0, 1, 0x780F8A7A),
        (12345, 0xDEADBEEF, 0x01234567, 0xBE869DEF),
        (65535, MASK_32, MASK_32, 0x9F4219F8),
    ],
)
def test_pinned_words(counter: int, low: int, high: int, expected: int) -> None:
    assert word(counter, low, high) == expected == plain_word(counter, low, high)


@given(st.lists(uint64s, min_size=1, max_size=5))
def test_keys_equal_plain_integers(path: list[int]) -> None:
    low, high = derive_key(*path)
    assert (int(low[0]), int(high[0])) == plain_key(*path)


@given(uint32s, uint32s, uint32s)
def test_words_equal_plain_integers(counter: int, low: int, high: int) -> None:
    assert word(counter, low, high) == plain_word(counter, low, high)


@given(uint32s, uint32s, uint32s)
def test_words_are_a_permutation_of_the_counters(counter: int, low: int, high: int) -> None:
    assert plain_counter(word(counter, low, high), low, high) == counter


def test_a_million_neighbouring_counters_give_different_words() -> None:
    """Of 2^20 independent words, 2^39/2^32 = 128 pairs would be equal."""
    words = hash_words(np.arange(1 << 20, dtype=np.uint32), derive_key(3, 1, 4))
    assert np.diff(np.sort(words)).all()


def test_path_length_is_part_of_the_place() -> None:
    keys = [plain_key(5), plain_key(5, 0), plain_key(5, 0, 0)]
    found = [tuple(int(half[0]) for half in derive_key(5, *[0] * n)) for n in range(3)]
    assert found == keys
    assert len(set(found)) == 3


def test_keys_broadcast() -> None:
    rows = np.arange(3, dtype=np.uint64)[:, None]
    columns = np.array([0, 7, MASK_64, 1 << 33], np.uint64)
    low, high = derive_key(9, rows, columns)
    assert low.shape == high.shape == (3, 4)
    for r in range(3):
        for c in range(4):
            assert (int(low[r, c]), int(high[r, c])) == plain_key(9, r, int(columns[c]))


def test_words_broadcast_and_leave_the_arguments_alone() -> None:
    counters = np.array([0, 1, 99, MASK_32], np.uint32)
    key = derive_key(2, np.arange(3, dtype=np.uint64)[:, None])
    copies = counters.copy(), key[0].copy(), key[1].copy()
    words = hash_words(counters, key)
    assert words.dtype == np.uint32
    assert words.tolist() == [[plain_word(int(c), *plain_key(2, n)) for c in counters] for n in range(3)]
    for array, copy in zip((counters, *key), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_parts_outside_64_bits_are_refused(seed: int) -> None:
    with pytest.raises(OverflowError):
        derive_key(seed, 0, 0)


def test_the_largest_part_is_accepted() -> None:
    low, high = derive_key(MASK_64)
    assert (int(low[0]), int(high[0])) == plain_key(MASK_64)
