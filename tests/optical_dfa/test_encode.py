"""Ternary encoders against their definitions, written as plain loops, and against closed forms."""

import math
from importlib.util import find_spec
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from optical_dfa import BitPlanes, Ternarize
from optical_dfa.encode import Encoded, Encoder

SCALE_EQUIVARIANT = [Ternarize(), Ternarize(threshold=0.3), Ternarize(kind="stochastic", seed=7), BitPlanes(bits=3)]


def errors(rows: int, features: int, seed: int = 0) -> Tensor:
    """Gaussian error vectors of very different lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.logspace(-6, 2, rows)[:, None]
    return torch.randn(rows, features, generator=generator) * lengths


def encode_by_loops(
    error: npt.NDArray[np.float64], kind: str, threshold: float
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float64]]:
    """The definition of the two deterministic kinds, entry by entry."""
    vectors = np.zeros(error.shape, np.int8)
    scale = np.zeros((len(error), 1))
    for row, entries in enumerate(error):
        limit = threshold * max(abs(e) for e in entries) if kind == "relative" else threshold / len(error)
        for column, e in enumerate(entries):
            vectors[row, column] = 1 if e > limit else -1 if e < -limit else 0
        shown = sum(int(t) ** 2 for t in vectors[row])
        scale[row] = math.sqrt(sum(e * e for e in entries) / shown) if shown else 0.0
    return vectors, scale


@pytest.mark.parametrize(
    ("kind", "threshold"),
    [("relative", 0.0), ("relative", 0.3), ("relative", 0.5), ("relative", 0.9), ("absolute", 0.0), ("absolute", 0.1)],
)
def test_deterministic_kinds_are_their_definition(kind: Any, threshold: float) -> None:
    error = errors(64, 10)
    encoded = Ternarize(threshold=threshold, kind=kind)(error)
    vectors, scale = encode_by_loops(error.double().numpy(), kind, threshold)
    assert encoded.vectors.dtype == torch.int8
    assert encoded.scale.dtype == torch.float32
    assert (encoded.vectors.numpy() == vectors).all()
    np.testing.assert_allclose(encoded.scale.numpy(), scale, rtol=1e-6)
    assert vectors.any()
    assert (vectors == 0).any() == (threshold > 0)


HARD = {
    "lengths": errors(64, 13),
    "many features": errors(3, 5001),
    "one feature": errors(5, 1),
    "no rows": torch.zeros(0, 8),
    "zeros": torch.zeros(3, 8),
    "signed zeros": torch.tensor([[0.0, -0.0, 1.0], [-0.0, -0.0, -0.0]]),
    "at the limit": torch.tensor([[1.0, 0.5, -0.5, 0.50000006], [-4.0, 2.0, -2.0, -2.0000002]]),
    "squares overflow": torch.tensor([[3e38, -3e38, 1e38], [1e-30, 2e-30, -2e-30]]),
    "subnormal": torch.tensor([[1e-45, -1e-45, 0.0], [3e-39, 1e-39, -3e-39]]),
    "one side": errors(16, 10).abs(),
    "not contiguous": errors(10, 16).T,
}


@pytest.mark.skipif(find_spec("numba") is None, reason="one path only")
@pytest.mark.parametrize("error", HARD.values(), ids=HARD)
@pytest.mark.parametrize(
    "encode",
    [Ternarize(), Ternarize(0.0), Ternarize(0.9), Ternarize(0.3, "absolute"), Ternarize(0.0, "absolute")],
    ids=str,
)
def test_one_pass_gives_the_vectors_of_torch(encode: Ternarize, error: Tensor) -> None:
    """And its scale to the last bit but one: sums of squares, float64 in both, are added up in another order."""
    at_once, expected = encode.in_one_pass(error, 0.3), encode(error)
    assert at_once is not None
    found, gain = at_once
    assert torch.equal(found.vectors, expected.vectors)
    assert found.vectors.dtype == torch.int8
    assert found.scale.dtype == torch.float32
    assert found.scale.shape == expected.scale.shape
    torch.testing.assert_close(found.scale, expected.scale, rtol=1.2e-7, atol=0)
    assert torch.equal(gain, found.scale * 0.3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 9, 12])
def test_one_pass_refuses_what_is_not_finite(bad: float, place: int) -> None:
    error = errors(4, 13)
    error[2, place] = bad
    assert Ternarize().in_one_pass(error, 1.0) is None


def test_what_one_pass_is_not_for() -> None:
    error = errors(4, 13)
    assert Ternarize(kind="stochastic").in_one_pass(error, 1.0) is None
    assert Ternarize().in_one_pass(error.double(), 1.0) is None
    assert Ternarize().in_one_pass(error.requires_grad_(), 1.0) is not None


def test_default_thresholds() -> None:
    assert (Ternarize().kind, Ternarize().threshold) == ("relative", 0.5)
    assert Ternarize(kind="absolute").threshold == 0.1
    assert Ternarize(kind="stochastic").threshold is None


def test_relative_threshold_is_strict() -> None:
    vectors = Ternarize(threshold=0.5)(torch.tensor([[1.0, 0.5, -0.5, -0.501]])).vectors
    assert vectors.tolist() == [[1, 0, 0, -1]]


def test_absolute_threshold_is_on_the_error_per_sample() -> None:
    """The papers' rule q = 1[g > t/B] on the gradient g of a batch mean: the batch size must not matter."""
    per_sample = torch.tensor([[0.3, -0.05, -0.25], [0.11, -0.2, 0.09]])
    shown = [[1, 0, -1], [1, -1, 0]]
    encode = Ternarize(kind="absolute")
    assert encode(per_sample / 2).vectors.tolist() == shown
    assert [encode(row[None]).vectors[0].tolist() for row in per_sample] == shown


@pytest.mark.parametrize("encode", SCALE_EQUIVARIANT, ids=str)
@pytest.mark.parametrize("exponent", [-30, -10, -1, 1, 10, 30])
def test_powers_of_two_scale_exactly(encode: Encoder, exponent: int) -> None:
    error = errors(200, 10)
    plain, scaled = encode(error, 3), encode(error * 2.0**exponent, 3)
    assert torch.equal(scaled.vectors, plain.vectors)
    assert torch.equal(scaled.scale, plain.scale * 2.0**exponent)


@pytest.mark.parametrize("encode", SCALE_EQUIVARIANT, ids=str)
@pytest.mark.parametrize("factor", [0.37, 3.0, 1000.0])
def test_any_factor_scales(encode: Encoder, factor: float) -> None:
    error = errors(200, 10)
    plain, scaled = encode(error, 3), encode(error * factor, 3)
    assert torch.equal(scaled.vectors, plain.vectors)
    torch.testing.assert_close(scaled.scale, plain.scale * factor, rtol=1e-6, atol=0.0)


def test_absolute_is_not_scale_equivariant() -> None:
    """Its documented caveat: loss scaling changes what is displayed, and a confident net shows nothing."""
    encode, error = Ternarize(kind="absolute"), torch.tensor([[0.05, 0.2]])
    assert encode(error).vectors.tolist() == [[0, 1]]
    assert encode(10 * error).vectors.tolist() == [[1, 1]]
    assert encode(error / 10).vectors.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    "encode", [Ternarize(), Ternarize(threshold=0.9), Ternarize(threshold=1e-7, kind="absolute")], ids=str
)
def test_magnitude_is_restored_per_sample(encode: Ternarize) -> None:
    error = errors(200, 10)
    encoded = encode(error)
    assert (encoded.vectors != 0).any(1).all()
    lengths = (encoded.scale.double() * encoded.vectors).norm(dim=1)
    torch.testing.assert_close(lengths, error.double().norm(dim=1), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("kind", ["relative", "absolute", "stochastic"])
def test_zero_rows_stay_zero(kind: Any) -> None:
    encoded = Ternarize(kind=kind)(torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, -0.5]]))
    assert encoded.vectors[0].tolist() == [0, 0, 0]
    assert encoded.scale[0].item() == 0.0
    assert encoded.vectors[1].tolist() == [1, 0, -1]


@pytest.mark.parametrize("kind", ["relative", "absolute", "stochastic"])
def test_an_empty_batch_is_encoded_as_one(kind: Any) -> None:
    encoded = Ternarize(kind=kind)(torch.zeros(0, 5))
    assert encoded.vectors.shape == (0, 5)
    assert encoded.scale.shape == (0, 1)


def repeated(error: Tensor, rows: int, seed: int = 0) -> Encoded:
    return Ternarize(kind="stochastic", seed=seed)(error.expand(rows, -1))


def test_stochastic_is_unbiased() -> None:
    """Mean of 40,000 draws of 9 entries, each a Bernoulli variable of known variance.

    |z| < 5.5 for all of them: false-alarm rate 9 · 3.8e-8 = 3.4e-7 for a free seed. The seed is fixed.
    """
    error = torch.tensor([0.8, -0.7, 0.5, -0.3, 0.2, 0.1, -0.05, 0.01, 0.0])
    rows = 40_000
    encoded = repeated(error, rows)
    mean = (encoded.scale.double() * encoded.vectors).mean(0)
    size = error.double().abs()
    deviation = (size * (size.max() - size) / rows).sqrt()
    certain = deviation == 0
    assert certain.tolist() == [True] + [False] * 7 + [True]
    assert torch.equal(mean[certain].float(), error[certain])
    assert ((mean - error)[~certain] / deviation[~certain]).abs().max() < 5.5
    assert bool((encoded.vectors * error.sign() >= 0).all()), "an entry is shown with its own sign or not at all"


def test_stochastic_entries_are_independent() -> None:
    """Correlations between 8 entries at p = 1/2 over 40,000 rows: 28 normal variables of deviation 1/√rows.

    |z| < 5.5 for all of them: false-alarm rate 1.1e-6 for a free seed. The seed is fixed.
    """
    rows = 40_000
    error = torch.tensor([1.0] + [0.5] * 8)
    shown = repeated(error, rows).vectors[:, 1:].double() * 2 - 1
    correlations = (shown.T @ shown / rows).fill_diagonal_(0.0)
    assert correlations.abs().max() * math.sqrt(rows) < 5.5


def test_stochastic_draws_depend_on_seed_and_call_alone() -> None:
    error = torch.rand(50, 40, generator=torch.Generator().manual_seed(0)) - 0.5
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = Ternarize(kind="stochastic", seed=3)(error, 5).vectors
    assert torch.equal(torch.get_rng_state(), state), "the generator of the user is left alone"
    torch.manual_seed(2)
    assert torch.equal(Ternarize(kind="stochastic", seed=3)(error, 5).vectors, first)
    for seed, call in [(3, 6), (4, 5), (5, 3), (0, 5), (3 + 2**31, 5)]:
        assert not torch.equal(Ternarize(kind="stochastic", seed=seed)(error, call).vectors, first), (seed, call)


def cosine_of_gaussian(threshold: float) -> float:
    """Cosine between a long Gaussian vector and its ternary image: E|x|1[|x|>t] / √P[|x|>t] = 2 φ(t) / √(2 Q(t))."""
    normal = NormalDist()
    return 2 * normal.pdf(threshold) / math.sqrt(2 * (1 - normal.cdf(threshold)))


def test_figures_of_a_gaussian_vector() -> None:
    """Best cosine .900 at t = .612 σ, 54 % non-zero, sign only .798; formula and encoder.

    The encoder sees 10^6 entries: deviation of a measured cosine below 1e-3, of the fraction 5e-4; 5e-3 is five
    deviations or more, false-alarm rate below 1e-6 for a free seed. The seed is fixed.
    """
    thresholds = [step / 1000 for step in range(1500)]
    best = max(thresholds, key=cosine_of_gaussian)
    assert abs(best - 0.612) <= 0.001
    assert round(cosine_of_gaussian(best), 3) == 0.900
    assert round(cosine_of_gaussian(0.0), 3) == 0.798

    gaussian = torch.randn(1, 1_000_000, generator=torch.Generator().manual_seed(0))

    def measured(threshold: float) -> tuple[float, float]:
        shown = Ternarize(threshold=threshold, kind="absolute")(gaussian).vectors.float()
        return torch.cosine_similarity(gaussian, shown).item(), (shown != 0).float().mean().item()

    cosine, fraction = measured(0.612)
    assert cosine == pytest.approx(0.900, abs=5e-3)
    assert fraction == pytest.approx(0.54, abs=5e-3)
    assert measured(0.0)[0] == pytest.approx(0.798, abs=5e-3)
    for threshold in (0.3, 1.0):
        assert measured(threshold)[0] == pytest.approx(cosine_of_gaussian(threshold), abs=5e-3)
        assert measured(threshold)[0] < cosine


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"kind": "ternary"}, "kind must be one of relative, absolute, stochastic; got 'ternary'"),
        ({"threshold": 1.0}, "threshold of kind 'relative' must be from 0 to below 1; got 1.0"),
        ({"threshold": -0.1}, "threshold of kind 'relative' must be from 0 to below 1; got -0.1"),
        ({"threshold": math.nan}, "threshold of kind 'relative' must be from 0 to below 1; got nan"),
        (
            {"threshold": -1.0, "kind": "absolute"},
            "threshold of kind 'absolute' must be finite and not negative; got -1.0",
        ),
        ({"threshold": math.inf, "kind": "absolute"}, "must be finite and not negative; got inf"),
        ({"threshold": 0.5, "kind": "stochastic"}, "kind 'stochastic' takes no threshold; got 0.5: leave it out"),
        ({"seed": -1}, "seed must be an int from 0 to 2^32-1; got -1"),
        ({"seed": 1 << 32}, "seed must be an int from 0 to 2^32-1; got 4294967296"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=r"^.*$") as caught:
        Ternarize(**arguments)
    assert text in str(caught.value)


# ---- bit planes


def decoded(encoded: Encoded) -> Tensor:
    """The error that the planes stand for, float64."""
    return Encoded(encoded.vectors, encoded.scale.double()).combine(encoded.vectors.double())


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8, 16])
def test_bit_planes_are_their_definition(bits: int) -> None:
    error = errors(16, 10)
    encoded = BitPlanes(bits)(error)
    assert (encoded.vectors.dtype, encoded.scale.dtype) == (torch.int8, torch.float32)
    assert encoded.scale.shape == (16, bits)
    planes = encoded.vectors.reshape(16, bits, 10).numpy()
    for row, entries in enumerate(error.double().numpy()):
        largest = max(abs(e) for e in entries)
        whole = [math.ceil((2**bits - 1) * abs(e) / largest - 0.5) for e in entries]
        for column, (e, m) in enumerate(zip(entries, whole, strict=True)):
            digits = [int(digit) for digit in f"{m:0{bits}b}"]
            assert planes[row, :, column].tolist() == [int(math.copysign(1, e)) * digit for digit in digits]
        unit = math.sqrt(sum(e * e for e in entries) / sum(m * m for m in whole))
        assert encoded.scale[row].tolist() == pytest.approx([unit * 2 ** (bits - 1 - j) for j in range(bits)], rel=1e-6)


def test_one_bit_is_the_relative_threshold_of_a_half() -> None:
    error = torch.cat([errors(200, 10), torch.tensor([[1.0, 0.5, -0.5, -0.500001, *[0.0] * 6], [0.0] * 10])])
    one, half = BitPlanes(1)(error), Ternarize(0.5)(error)
    assert torch.equal(one.vectors, half.vectors)
    torch.testing.assert_close(one.scale, half.scale, rtol=2.4e-7, atol=0.0)  # the last bit is float32's


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_cosine_of_bit_planes_is_that_of_a_rounding(bits: int) -> None:
    """Even errors on [-1, 1] rounded to steps of d = 1/(2^k - 1): q is the centre of its cell.

    E[q²] and E[e·q] are sums over whole cells and the half one at the end, E[e²] = 1/3. Of n = 200,000 entries the
    cosine is known to sqrt(2(1 - cos²)/n) and better: six of these are a false-alarm rate below 2e-9 for a free seed.
    """
    n, step = 200_000, 1 / (2**bits - 1)
    error = 2 * torch.rand(1, n, generator=torch.Generator().manual_seed(bits)) - 1
    error[0, 0] = 1.0
    found = decoded(BitPlanes(bits)(error))
    levels = [step * i for i in range(1, 2**bits)]
    ends = [min(level + step / 2, 1.0) for level in levels]
    starts = [level - step / 2 for level in levels]
    of_q = sum((b - a) * q * q for q, a, b in zip(levels, starts, ends, strict=True))
    of_both = sum((b * b - a * a) / 2 * q for q, a, b in zip(levels, starts, ends, strict=True))
    expected = of_both / math.sqrt(of_q / 3)
    cosine = float(torch.nn.functional.cosine_similarity(found, error.double()).item())
    assert cosine == pytest.approx(expected, abs=6 * math.sqrt(2 * (1 - expected**2) / n))
    if bits >= 3:  # fine steps: noise d²/12 beside a signal of 1/3
        assert cosine == pytest.approx(1 / math.sqrt(1 + step**2 / 4), abs=0.01 * step)


@pytest.mark.parametrize("bits", [1, 4, 16])
def test_bit_planes_keep_length_zero_and_emptiness(bits: int) -> None:
    error = errors(50, 10)
    found = decoded(BitPlanes(bits)(error))
    torch.testing.assert_close(found.norm(dim=1), error.double().norm(dim=1), rtol=1e-6, atol=0.0)
    dark = BitPlanes(bits)(torch.zeros(2, 4))
    assert not dark.vectors.any()
    assert not dark.scale.any()
    assert BitPlanes(bits)(torch.zeros(0, 4)).vectors.shape == (0, 4)


@pytest.mark.parametrize("bits", [0, 17, 1.5, True, "3"])
def test_refused_bits(bits: Any) -> None:
    with pytest.raises(ValueError, match="bits must be an int from 1 to 16; got "):
        BitPlanes(bits)
