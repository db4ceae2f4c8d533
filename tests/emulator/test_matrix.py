"""The frozen definition of the transmission matrix, version 1: these numbers never change.

If a test of this file fails, the code is wrong, or a new VERSION is due.
"""

import hashlib

import numpy as np
import numpy.typing as npt
import pytest
from plain_hash import plain_key, plain_word

from optical_dfa.emulator import reference
from optical_dfa.emulator.matrix import (
    EXACT_NONZEROS,
    MAX_INPUTS,
    MAX_OUTPUTS,
    TABLE,
    TILE_COLUMNS,
    TILE_ROWS,
    UNIT,
    VARIANCE,
    VERSION,
    check_geometry,
)
from optical_dfa.emulator.numpy_product import matrix_slab

LARGEST_SEED = (1 << 64) - 1

# The upper half of the table; the lower half is its mirror image.
UPPER_HALF = [
    0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5, 5, 6, 6, 7, 7, 8, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 12, 13, 13, 14,
    14, 15, 15, 16, 16, 17, 17, 17, 18, 18, 19, 19, 20, 20, 21, 21, 22, 22, 23, 23, 24, 24, 25, 25, 26, 26, 27, 27, 28,
    28, 29, 29, 30, 30, 31, 32, 32, 33, 33, 34, 34, 35, 36, 36, 37, 37, 38, 39, 39, 40, 41, 41, 42, 43, 43, 44, 45, 46,
    46, 47, 48, 49, 49, 50, 51, 52, 53, 54, 55, 56, 56, 57, 59, 60, 61, 62, 63, 64, 65, 67, 68, 70, 71, 73, 75, 77, 79,
    81, 83, 86, 89, 93, 97, 103, 111, 127,
]  # fmt: skip


def plain_entry(seed: int, o: int, k: int) -> int:
    """T[o, k] from the definition, in Python integers."""
    k4 = k // 4
    word = plain_word(256 * (o % 256) + k4 % 256, *plain_key(seed, o // 256, k4 // 256))
    byte = word >> 8 * (k % 4) & 0xFF
    return UPPER_HALF[byte - 128] if byte >= 128 else -UPPER_HALF[127 - byte]


def test_version() -> None:
    assert VERSION == 1


def test_tile_size() -> None:
    assert (TILE_ROWS, TILE_COLUMNS) == (256, 1024)


def test_table_is_pinned() -> None:
    assert TABLE.dtype == np.int8
    assert TABLE.tolist() == [-entry for entry in reversed(UPPER_HALF)] + UPPER_HALF
    assert hashlib.sha256(TABLE.tobytes()).hexdigest() == (
        "f80c7ebe2f37669c580f0e76ca8297d05fc1fe2fdcedf93a44374d917e67630e"
    )


def test_table_moments_are_exact() -> None:
    table = TABLE.astype(np.int64)
    assert table.sum() == 0
    assert (table**2).sum() / 256 == VARIANCE == 1929.546875
    assert (table.min(), table.max()) == (-127, 127)
    np.testing.assert_array_equal(table, -table[::-1])


def test_table_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        TABLE[0] = 0


def test_unit_gain_is_the_nearest_float32() -> None:
    assert isinstance(UNIT, np.float32)
    assert np.float32(1 / np.sqrt(1929.546875)) == UNIT
    assert abs(float(UNIT) * 1929.546875**0.5 - 1) < 2**-24


def test_bounds_follow_from_the_largest_entry() -> None:
    assert EXACT_NONZEROS == 132_104
    assert 127 * EXACT_NONZEROS <= 1 << 24 < 127 * (EXACT_NONZEROS + 1)
    assert 127 * MAX_INPUTS < 1 << 31
    assert MAX_OUTPUTS == 1 << 31


@pytest.mark.parametrize(
    ("seed", "o", "k", "corner"),
    [
        (0, 0, 0, [[6, 81, 7, -14], [-54, 71, -37, 68]]),
        (0, 254, 1022, [[8, 75, -17, -63], [-27, 13, -36, -2]]),
        (0, 255, 1023, [[13, -36, -2, 2], [-2, -18, -21, 46]]),
        (1, 0, 0, [[-93, 5, 89, 29], [15, -34, 71, 17]]),
        (1, 254, 1022, [[-7, -10, -1, -29], [-51, -18, -15, -16]]),
        (1, 255, 1023, [[-18, -15, -16, -93], [-8, -42, -86, 5]]),
        (LARGEST_SEED, 0, 0, [[34, 9, 56, -5], [-51, 2, 22, -9]]),
        (LARGEST_SEED, 254, 1022, [[-27, 19, -35, -40], [-17, 18, 49, -56]]),
        (LARGEST_SEED, 255, 1023, [[18, 49, -56, -46], [1, -41, -1, -3]]),
        (0, (1 << 31) - 2, (1 << 24) - 2, [[12, 39], [2, 127]]),
        (1, (1 << 31) - 2, (1 << 24) - 2, [[71, -5], [30, -21]]),
        (LARGEST_SEED, (1 << 31) - 2, (1 << 24) - 2, [[-2, -35], [3, 24]]),
    ],
)
def test_pinned_corners(seed: int, o: int, k: int, corner: list[list[int]]) -> None:
    """Corners at (o, k): the first of the matrix, across the edges of tiles, and the last of the largest matrix."""
    height, width = len(corner), len(corner[0])
    rows, columns = np.arange(o, o + height)[:, None], np.arange(k, k + width)
    assert reference.entries(seed, rows, columns).tolist() == corner
    assert [[plain_entry(seed, o + i, k + j) for j in range(width)] for i in range(height)] == corner


@pytest.mark.parametrize(
    ("seed", "digest"),
    [
        (0, "b34dc7832d1260242e6066eecc454e8b9a28f29578dc2fc1789f7f3aff79106d"),
        (42, "0d7b691b975b098a31c0ca7c48a4e49d8b845c6b14a75801b7f80651eab36d3a"),
    ],
)
def test_pinned_block(seed: int, digest: str) -> None:
    """Two by two tiles, 512 x 2048 entries; the digests were computed with Python integers alone."""
    block = reference.matrix(seed, 512, 2048)
    assert hashlib.sha256(block.tobytes()).hexdigest() == digest
    slabs = [matrix_slab(seed, row_block, 0, 2) for row_block in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(slabs), block)


def test_entries_equal_plain_integers_anywhere() -> None:
    generator = np.random.default_rng(20260101)
    rows = generator.integers(0, MAX_OUTPUTS, 500)
    columns = generator.integers(0, MAX_INPUTS, 500)
    for seed in (5, LARGEST_SEED):
        expected = [plain_entry(seed, int(o), int(k)) for o, k in zip(rows, columns, strict=True)]
        assert reference.entries(seed, rows, columns).tolist() == expected


def test_a_word_holds_four_neighbouring_entries_least_significant_byte_first() -> None:
    word = int(reference.words(3, 300, 700)[0])
    found: npt.NDArray[np.int8] = reference.entries(3, 300, np.arange(2800, 2804))
    assert [int(TABLE[word >> 8 * byte & 0xFF]) for byte in range(4)] == found.tolist()


def test_a_larger_matrix_extends_a_smaller_one() -> None:
    small, large = reference.matrix(11, 250, 1000), reference.matrix(11, 300, 1100)
    np.testing.assert_array_equal(large[:250, :1000], small)


def test_far_tiles_extend_the_slab() -> None:
    """Tile (8388607, 16383) is the last of the largest matrix."""
    slab = matrix_slab(1, MAX_OUTPUTS // TILE_ROWS - 1, MAX_INPUTS // TILE_COLUMNS - 1, 1)
    assert slab.shape == (TILE_ROWS, TILE_COLUMNS)
    assert slab[-2:, -2:].tolist() == [[71, -5], [30, -21]]


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("n_inputs", 0, "from 1 to 16,777,216"),
        ("n_inputs", MAX_INPUTS + 1, "from 1 to 16,777,216"),
        ("n_inputs", 10.0, "an int"),
        ("n_inputs", True, "an int"),
        ("n_inputs", "10", "an int"),
        ("n_outputs", 0, "from 1 to 2,147,483,648"),
        ("n_outputs", MAX_OUTPUTS + 1, "from 1 to 2,147,483,648"),
        ("seed", -1, "from 0 to 18,446,744,073,709,551,615"),
        ("seed", 1 << 64, "from 0 to 18,446,744,073,709,551,615"),
        ("seed", None, "an int"),
    ],
)
def test_impossible_geometry_is_refused(name: str, value: object, accepted: str) -> None:
    arguments: dict[str, object] = {"n_inputs": 3, "n_outputs": 3, "seed": 0, name: value}
    with pytest.raises(ValueError, match=name) as error:
        check_geometry(**arguments)  # type: ignore[arg-type]
    given = f"{value:,}" if accepted.startswith("from") else repr(value)
    assert accepted in str(error.value)
    assert str(error.value).endswith(f"got {given}")


@pytest.mark.parametrize(
    ("n_inputs", "n_outputs", "seed"), [(1, 1, 0), (MAX_INPUTS, MAX_OUTPUTS, LARGEST_SEED)], ids=["least", "greatest"]
)
def test_extreme_geometry_is_accepted(n_inputs: int, n_outputs: int, seed: int) -> None:
    check_geometry(n_inputs, n_outputs, seed)
    last = reference.entries(seed, n_outputs - 1, n_inputs - 1)
    assert int(last.reshape(-1)[0]) == plain_entry(seed, n_outputs - 1, n_inputs - 1)
