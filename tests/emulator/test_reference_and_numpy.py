"""The NumPy backend, the reference and a plain loop give the same integers."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optical_dfa.emulator import NumpyProduct, reference
from optical_dfa.emulator.matrix import EXACT_NONZEROS, UNIT, VARIANCE

STORED, PROCEDURAL = 1 << 30, 0
Ternary = npt.NDArray[np.int8]


def ternary(generator: np.random.Generator, batch: int, n_inputs: int, sparsity: float) -> Ternary:
    """Vectors with about that fraction of zeros, every third one entirely zero."""
    vectors = generator.integers(0, 2, (batch, n_inputs), np.int8) * 2 - 1
    vectors[generator.random(vectors.shape) < sparsity] = 0
    vectors[1::3] = 0
    return vectors


def plain_product(matrix: npt.NDArray[np.int8], vectors: Ternary) -> npt.NDArray[np.int64]:
    """T·x, one input after the other, in int64."""
    wide = matrix.astype(np.int64)
    out = np.zeros((len(vectors), len(matrix)), np.int64)
    for row, vector in zip(out, vectors, strict=True):
        for k in np.flatnonzero(vector):
            row += int(vector[k]) * wide[:, k]
    return out


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, int, int, int, float]:
    """n_inputs, n_outputs, batch, seed, sparsity; one of the first three may be large."""
    limits = draw(st.sampled_from([(5000, 40, 5), (40, 5000, 5), (300, 300, 5), (40, 40, 400)]))
    n_inputs, n_outputs = draw(st.integers(1, limits[0])), draw(st.integers(1, limits[1]))
    batch = draw(st.integers(0, limits[2]))
    return n_inputs, n_outputs, batch, draw(st.integers(0, (1 << 64) - 1)), draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_every_product_is_the_same_integer(case: tuple[int, int, int, int, float]) -> None:
    n_inputs, n_outputs, batch, seed, sparsity = case
    vectors = ternary(np.random.default_rng(n_inputs * n_outputs + batch), batch, n_inputs, sparsity)
    expected = plain_product(reference.matrix(seed, n_outputs, n_inputs), vectors)
    found = [
        reference.product(seed, vectors, n_outputs),
        NumpyProduct(n_inputs, n_outputs, seed, STORED)(vectors),
        NumpyProduct(n_inputs, n_outputs, seed, PROCEDURAL)(vectors),
    ]
    for product in found:
        assert product.dtype == np.int32
        np.testing.assert_array_equal(product, expected)
    assert not found[0][1::3].any()


@pytest.mark.parametrize(
    ("n_inputs", "n_outputs"),
    [(1, 1), (1, 600), (1023, 255), (1024, 256), (1025, 257), (2048, 3), (2049, 511), (4097, 513), (3, 1500)],
)
@pytest.mark.parametrize("budget", [STORED, PROCEDURAL], ids=["stored", "procedural"])
def test_edges_of_tiles_and_slabs(n_inputs: int, n_outputs: int, budget: int) -> None:
    vectors = ternary(np.random.default_rng(n_inputs), 4, n_inputs, 0.2)
    np.testing.assert_array_equal(
        NumpyProduct(n_inputs, n_outputs, 77, budget)(vectors), reference.product(77, vectors, n_outputs)
    )


def test_binary_uint8_vectors_are_the_same_product() -> None:
    frames = np.random.default_rng(3).integers(0, 2, (5, 1200), np.uint8)
    product = NumpyProduct(1200, 300, 4)
    np.testing.assert_array_equal(product(frames), reference.product(4, frames.view(np.int8), 300))


@pytest.mark.parametrize("n_inputs", [140_001, 520_001])
def test_more_nonzeros_than_one_float32_sum_can_hold(n_inputs: int) -> None:
    """The signs of row 0 give its largest field, 4.9 and 18 million: the latter is beyond 2^24, where float32 skips odd
    integers."""
    rows = reference.entries(6, np.arange(3)[:, None], np.arange(n_inputs))
    aligned = np.where(rows[0] < 0, -1, 1).astype(np.int8)
    alternating = np.where(np.arange(n_inputs) % 2, -1, 1).astype(np.int8)
    odd = aligned.copy()
    odd[np.flatnonzero(rows[0] % 2)[0]] = 0  # leaves out one odd entry: one of the two fields is odd
    vectors = np.stack([aligned, odd, alternating])
    assert np.count_nonzero(vectors[2]) > EXACT_NONZEROS
    expected = vectors.astype(np.int64) @ rows.astype(np.int64).T
    largest = expected[0, 0]
    assert (largest > 1 << 24) == (n_inputs > 500_000)
    assert sorted(expected[:2, 0] % 2) == [0, 1]
    np.testing.assert_array_equal(NumpyProduct(n_inputs, 3, 6, PROCEDURAL)(vectors), expected)


@pytest.mark.parametrize("budget", [STORED, PROCEDURAL], ids=["stored", "procedural"])
def test_batch_split_does_not_matter(budget: int) -> None:
    vectors = ternary(np.random.default_rng(4), 23, 2200, 0.5)
    product = NumpyProduct(2200, 300, 8, budget)
    whole = product(vectors)
    for size in (1, 7, 22):
        parts = [product(vectors[first : first + size]) for first in range(0, len(vectors), size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("budget", [STORED, PROCEDURAL], ids=["stored", "procedural"])
def test_vectors_of_any_layout(budget: int) -> None:
    vectors = ternary(np.random.default_rng(5), 6, 1500, 0.5)
    product = NumpyProduct(1500, 400, 8, budget)
    expected = product(vectors)
    np.testing.assert_array_equal(product(np.asfortranarray(vectors)), expected)
    np.testing.assert_array_equal(product(vectors[::-1])[::-1], expected)


@pytest.mark.parametrize(
    "rows",
    [
        slice(None),
        slice(0, 0),
        slice(5, 5),
        slice(600, 100),
        slice(255, 257),
        slice(256, 512),
        slice(511, None),
        slice(3, 700, 7),
        slice(-1, None),
        slice(-300, -20, 9),
        slice(650, 10_000),
        slice(900, 1000),
        slice(None, None, -1),
        slice(600, 100, -3),
        slice(None, 256, -256),
    ],
    ids=str,
)
def test_rows_of_the_matrix(rows: slice) -> None:
    expected = reference.matrix(12, 700, 1100)[rows]
    found = NumpyProduct(1100, 700, 12).matrix(rows)
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("budget", [STORED, PROCEDURAL], ids=["stored", "procedural"])
def test_real_vectors_against_float64(budget: int) -> None:
    """float32 GEMM: relative to the norm of the vector, errors grow as the root of 3000 roundings of 6e-8."""
    generator = np.random.default_rng(6)
    vectors = generator.standard_normal((9, 3000), np.float32)
    vectors *= np.array([[1e-6], [1], [1e6]] * 3, np.float32)
    vectors[4] = 0
    exact = vectors.astype(np.float64) @ reference.matrix(13, 500, 3000).T.astype(np.float64)
    found = NumpyProduct(3000, 500, 13, budget).real(vectors)
    assert found.dtype == np.float32
    scale = np.linalg.norm(vectors, axis=1, keepdims=True) * VARIANCE**0.5
    assert (np.abs(found - exact) <= 1e-5 * scale).all()
    assert not found[4].any()


def test_real_ternary_vectors_are_the_exact_product() -> None:
    vectors = ternary(np.random.default_rng(7), 6, 900, 0.5)
    product = NumpyProduct(900, 300, 14)
    exact = product(vectors).astype(np.float32)
    np.testing.assert_array_equal(product.real(vectors.astype(np.float32)), exact)


def test_plan_of_a_stored_matrix() -> None:
    plan = NumpyProduct(2000, 500, 0, memory_budget_bytes=1_000_000).plan
    assert (plan.backend, plan.storage, plan.stored_bytes) == ("numpy", "stored", 1_000_000)
    assert plan.why == "1,000,000 bytes of int8 fit the budget of 1,000,000 bytes"


def test_plan_of_a_procedural_matrix() -> None:
    plan = NumpyProduct(2000, 500, 0, memory_budget_bytes=999_999).plan
    assert (plan.backend, plan.storage, plan.stored_bytes) == ("numpy", "procedural", 0)
    assert plan.why == "1,000,000 bytes of int8 do not fit the budget of 999,999 bytes"


def test_impossible_geometry_is_refused() -> None:
    with pytest.raises(ValueError, match="n_outputs must be an int from 1 to 2,147,483,648; got 0"):
        NumpyProduct(3, 0, 0)


def test_unit_gain() -> None:
    """E[(UNIT·T·x)²] = |x|²: the mean square of N normal outputs is |x|² (1 ± √(2/N)). False alarms: 1e-6 (4.9 σ)."""
    vectors = ternary(np.random.default_rng(8), 1, 300, 0.5)
    fields = NumpyProduct(300, 100_000, 15)(vectors) * float(UNIT)
    ratio = np.mean(fields**2) / np.count_nonzero(vectors)
    assert abs(ratio - 1) < 4.9 * (2 / 100_000) ** 0.5
