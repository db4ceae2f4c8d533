"""Long: the CPU backends against the reference, over shapes of up to 5000 x 5000."""

import numpy as np
import pytest

from optical_dfa.emulator import NumpyProduct, make_product, reference

CASES = 120


@pytest.mark.soak
def test_backends_equal_the_reference_over_random_shapes() -> None:
    generator = np.random.default_rng(20261121)
    entries, used = 0, set()
    for _ in range(CASES):
        n_inputs, n_outputs = (int(size) for size in generator.integers(1, 5001, 2))
        seed, density = int(generator.integers(0, 1 << 64, dtype=np.uint64)), generator.random()
        vectors = generator.integers(-1, 2, (int(generator.integers(0, 9)), n_inputs), np.int8)
        vectors[generator.random(vectors.shape) > density] = 0
        expected = reference.product(seed, vectors, n_outputs)
        for budget in (1 << 30, 0):
            np.testing.assert_array_equal(NumpyProduct(n_inputs, n_outputs, seed, budget)(vectors), expected)
        fastest = make_product(n_inputs, n_outputs, seed)
        np.testing.assert_array_equal(fastest(vectors), expected)
        used.add(fastest.plan.backend)
        entries += n_inputs * n_outputs
    kinds = f"NumPy stored and procedural, and what `auto` takes ({', '.join(sorted(used))})"
    print(f"\n{CASES} matrices, {entries:,} entries in all: {kinds}, equal to the reference")


@pytest.mark.soak
def test_a_full_row_of_the_widest_dmd() -> None:
    """1,039,680 non-zeros: eight times as many as one float32 sum is exact for."""
    generator = np.random.default_rng(7)
    vectors = generator.integers(0, 2, (2, 1_039_680), np.int8) * 2 - 1
    expected = reference.product(5, vectors, 40)
    for budget in (1 << 30, 0):
        np.testing.assert_array_equal(NumpyProduct(1_039_680, 40, 5, budget)(vectors), expected)
    np.testing.assert_array_equal(make_product(1_039_680, 40, 5)(vectors), expected)
    print(f"\n{vectors.shape[1]:,} inputs, all lit: fields from {expected.min():,} to {expected.max():,}, exact")
