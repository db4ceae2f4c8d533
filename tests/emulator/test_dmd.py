"""The micromirror device against closed forms: contrast, mirrors left over, illumination."""

import math

import numpy as np
import pytest
from effect_bench import SIGNAL_E, fields, make_bench, random_frames, transmission
from fresh import interpreter
from scipy import stats

from optical_dfa.emulator import Dmd, make_product, reference
from optical_dfa.emulator.dmd import ENVELOPE_STEPS
from optical_dfa.emulator.matrix import TABLE, VARIANCE
from optical_dfa.emulator.numba_support import why_unavailable
from optical_dfa.emulator.product import Backend

every_backend = pytest.mark.parametrize("backend", ["numpy", "auto"])
FIVE_SIGMA = stats.norm.isf(2.5e-7)  # two-sided false alarms: 5e-7


@every_backend
def test_contrast_lowers_the_gain_and_adds_a_background(backend: Backend) -> None:
    """κ = 1/√25: A = (1 - κ) T·x + κ T·1, to the rounding of float32. What is always there cancels between + and -."""
    frames, one = random_frames(6, 40), transmission(40, 500)
    bench = make_bench(40, 500, backend=backend, dmd=Dmd(contrast=25.0))
    found = fields(bench, frames)
    expected = 0.8 * frames @ one.T + 0.2 * one.sum(axis=1)
    assert np.abs(found - expected).max() < 2e-6 * np.abs(expected).max()
    difference = 0.8 * (frames[0].astype(float) - frames[1]) @ one.T
    assert np.abs(found[0] - found[1] - difference).max() < 4e-6 * np.abs(expected).max()


@every_backend
def test_a_dark_frame_holds_the_leak_of_all_mirrors(backend: Backend) -> None:
    """Mean κ² · n · signal_e over 10^5 pixels of exponential intensity. False alarms: 5e-7."""
    pixels = 100_000
    bench = make_bench(90, pixels, backend=backend, dmd=Dmd(contrast=100.0))
    dark = bench.expose(np.zeros((1, 90), np.uint8), reference=False).reshape(-1)[:pixels]
    assert abs(dark.mean() / (0.01 * 90 * SIGNAL_E) - 1) < FIVE_SIGMA / pixels**0.5


@every_backend
@pytest.mark.parametrize(("contrast", "leak"), [(math.inf, 0.0), (16.0, 0.25)])
def test_mirrors_left_over_are_on_in_every_frame(contrast: float, leak: float, backend: Backend) -> None:
    """1000 mirrors for 30 features of 33: 10 are left over, and shine as 10/33 of a feature, by a column of their own.

    Mean over 10^5 pixels; relative variance (kurtosis - 1)/2 of one column of T. False alarms: 5e-7.
    """
    pixels = 100_000
    bench = make_bench(30, pixels, backend=backend, mirrors=1000, dmd=Dmd(contrast=contrast, padding=True))
    dark = bench.expose(np.zeros((1, 30), np.uint8), reference=False).reshape(-1)[:pixels]
    kurtosis = np.mean(TABLE.astype(np.float64) ** 4) / VARIANCE**2
    expected = SIGNAL_E * (10 / 33 + 30 * leak**2)
    assert abs(dark.mean() / expected - 1) < FIVE_SIGMA * ((kurtosis - 1) / 2 / pixels) ** 0.5
    column = transmission(31, 200)
    frames = random_frames(3, 30)
    field = (1 - leak) * frames @ column[:, :30].T + leak * column[:, :30].sum(axis=1)
    field += math.sqrt(10 / 33) * column[:, 30]
    small = make_bench(30, 200, backend=backend, mirrors=1000, dmd=Dmd(contrast=contrast, padding=True))
    assert np.abs(fields(small, frames) - field).max() < 2e-6 * np.abs(field).max()


def test_mirrors_that_divide_evenly_leave_none_over() -> None:
    bench = make_bench(40, 50, mirrors=1000, dmd=Dmd(padding=True))
    assert not bench.expose(np.zeros((1, 40), np.uint8), reference=False).any()


@every_backend
@pytest.mark.parametrize("waist", [0.05, 0.7, 2.0])
def test_a_beam_weights_the_features_by_a_gaussian(waist: float, backend: Backend) -> None:
    """36 features on a grid of 6 x 6: each has the amplitude of the Gaussian in 63 steps, the mean power is kept."""
    bench = make_bench(36, 400, backend=backend, dmd=Dmd(envelope_waist=waist))
    each = fields(bench, np.eye(36, dtype=np.uint8))
    weight = (np.abs(each) ** 2).sum(axis=1) / (np.abs(transmission(36, 400)) ** 2).sum(axis=0)
    assert weight.mean() == pytest.approx(1, rel=1e-6)
    place = (np.arange(6) + 0.5) / 3 - 1
    square = (place[:, None] ** 2 + place**2).reshape(-1)
    gaussian = np.exp(-(square - square.min()) / waist**2)
    assert np.abs(np.sqrt(weight / weight.max()) - gaussian).max() <= 0.5 / ENVELOPE_STEPS + 1e-6
    assert weight.argmin() in (0, 5, 30, 35) or waist < 0.1


@every_backend
@pytest.mark.parametrize("n_features", [36, 5000])
def test_products_of_lit_features_are_exact(n_features: int, backend: Backend) -> None:
    levels = Dmd(envelope_waist=1.5).illumination(n_features)
    assert levels is not None
    assert levels.dtype == np.uint8
    assert levels.max() == ENVELOPE_STEPS
    frames = random_frames(5, n_features)
    frames[0] = 1
    bench = make_bench(n_features, 60, backend=backend, dmd=Dmd(envelope_waist=1.5))
    matrix = reference.matrix(3, 120, n_features).astype(np.int64)
    np.testing.assert_array_equal(bench.product(frames * levels), (frames * levels.astype(np.int64)) @ matrix.T)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"contrast": 1.0}, "contrast must be a ratio > 1, or .inf; got 1.0"),
        ({"envelope_waist": 0.0}, "envelope_waist must be half sides > 0, or .inf; got 0.0"),
    ],
)
def test_impossible_values_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match="must be") as error:
        Dmd(**values)  # type: ignore[arg-type]
    assert str(error.value) == message


UNEVEN = """
import numpy as np
from optical_dfa.emulator import make_product, reference
vectors = np.full((3, 3000), 63, np.int8)
product = make_product(3000, 600, 1, ternary=False)
assert np.array_equal(product(vectors), 63 * reference.product(1, vectors // 63, 600)), "not exact"
print(product.plan.backend)
"""


def test_an_uneven_beam_is_multiplied_exactly_on_cpus_with_avx2_alone() -> None:
    """Levels up to 63 would saturate there, silently: NumPy multiplies, and Numba is refused."""
    if why_unavailable(("avx2",)) is not None:
        return
    held = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+avx2"}
    assert interpreter("-c", UNEVEN, environment=held).split() == ["numpy"]
    refused = "try: make_product(9, 9, 1, backend='numba', ternary=False)\nexcept ValueError as error: print(error)"
    program = f"from optical_dfa.emulator import make_product\n{refused}"
    said = interpreter("-c", program, environment=held)
    assert said.startswith("backend 'numba' cannot be used: AVX2 multiplies ternary vectors alone")


def test_an_uneven_beam_is_multiplied_exactly() -> None:
    vectors = np.random.default_rng(0).integers(0, ENVELOPE_STEPS + 1, (5, 3001)).astype(np.uint8)
    entries = reference.matrix(2, 700, 3001).astype(np.int64)
    for backend in ("auto", "numpy"):
        product = make_product(3001, 700, 2, backend=backend, ternary=False)
        np.testing.assert_array_equal(product(vectors), vectors.astype(np.int64) @ entries.T)
