"""How well fidelity `statistical` agrees with frames, measured on many outputs and repeated vectors."""

import math
import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from optical_dfa.devices import DigitalDevice, EmulatedDevice, SaturationWarning
from optical_dfa.emulator.statistical import FEW_FEATURES

BIAS, VARIANCE, CLIPPED, CLIPPED_LEAST, CORRELATION = 0.03, 0.03, 0.03, 1e-4, 0.02
"""Largest differences: bias in σ of the noise, variance and clipped fraction relative (or that much), correlation."""

N_INPUTS = 512
"""Few vectors share a feature: their light is independent."""

BINS = 20
"""Groups of outputs of nearly equal field, where the light of the two is not the same."""

CORRELATED = 96
"""Outputs whose correlations are compared, each with each."""

Real = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A bench, and what is shown."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    lit: tuple[int, int] = (2, 0)
    """Features of + and of -."""

    @property
    def same_light(self) -> bool:
        """Whether nothing of the light is drawn."""
        return 0 in self.lit or sum(self.lit) < FEW_FEATURES


@dataclass(frozen=True)
class Agreement:
    """Statistical against frames."""

    case: Case
    snr_db: float
    bias: float
    """Root mean square difference of the mean error, in σ: of each output where the light is the same in both, else of
    outputs of nearly equal field."""
    variance: float
    """Relative difference."""
    clipped: tuple[float, float]
    """Fraction, of frames and of statistical."""
    correlation: tuple[float, float]
    """Root mean square correlation of outputs in frames, and its difference: of each pair of outputs where the light is
    the same in both, else of the root mean square."""

    def check(self) -> None:
        assert self.bias <= BIAS, self
        assert abs(self.variance) <= VARIANCE, self
        frames, statistical = self.clipped
        assert abs(statistical - frames) <= max(CLIPPED * frames, CLIPPED_LEAST), self
        assert self.correlation[1] <= CORRELATION, self

    @staticmethod
    def heading() -> str:
        titles = ("bias/σ", "variance", "clipped, frames", "statistical", "correlation", "difference")
        return f"| {'bench':24} | + / - | SNR, dB | " + " | ".join(f"{title:>15}" for title in titles) + " |"

    def __str__(self) -> str:
        plus, minus = self.case.lit
        values = (f"{self.bias:.4f}", f"{self.variance:+.2%}", *(f"{part:.4%}" for part in self.clipped))
        values += tuple(f"{part:.4f}" for part in self.correlation)
        start = f"| {self.case.name:24} | {plus} / {minus} | {self.snr_db:7.1f} | "
        return start + " | ".join(f"{value:>15}" for value in values) + " |"


def agreement(case: Case, n_vectors: int, repeats: int, n_outputs: int) -> Agreement:
    """Both fidelities on the same vectors, shown `repeats` times in turn.

    Squared differences are products of two independent halves: what chance adds to each does not add up. Halves are
    even and odd repeats where the light of the two fidelities is the same, else two seeds each.
    """
    vectors = _vectors(case, n_vectors)
    found = [_measured(case, vectors, repeats, n_outputs, seed) for seed in ((5,) if case.same_light else (5, 6, 7, 8))]
    spread = [np.mean([each.spread[which] for each in found]) for which in (0, 1)]
    if case.same_light:
        differences = [bias[1] - bias[0] for bias in found[0].bias]
    else:
        differences = [
            np.mean([bias[1] - bias[0] for each in half for bias in each.bias], axis=0)
            for half in (found[0::2], found[1::2])
        ]
    squared = float(np.mean(differences[0] * differences[1])) / spread[0]
    even, odd = found[0].correlations
    frames, statistical = (math.sqrt(max(float(np.mean(a * b)), 0.0)) for a, b in zip(even, odd, strict=True))
    off = float(np.mean((even[1] - even[0]) * (odd[1] - odd[0])))
    # of the same light each pair of outputs has the same correlation, of other light their root mean square is
    difference = math.sqrt(max(off, 0)) if case.same_light else abs(statistical - frames)
    return Agreement(
        case,
        snr_db=found[0].snr_db,
        bias=math.sqrt(max(float(squared), 0.0)),
        variance=float(spread[1] / spread[0]) - 1,
        clipped=(
            float(np.mean([each.clipped[0] for each in found])),
            float(np.mean([each.clipped[1] for each in found])),
        ),
        correlation=(frames, difference),
    )


@dataclass(frozen=True)
class _Measured:
    """Of one seed; pairs are of frames and statistical."""

    snr_db: float
    spread: list[float]
    clipped: list[float]
    bias: list[list[Real]]
    """By even and odd repeats: of each output, or of each group of outputs of nearly equal field."""
    correlations: list[list[Real]]
    """Likewise, of all pairs of outputs."""


def _measured(case: Case, vectors: npt.NDArray[np.int8], repeats: int, n_outputs: int, seed: int) -> _Measured:
    size: dict[str, Any] = {"n_inputs": N_INPUTS, "n_outputs": n_outputs, "seed": seed}
    with DigitalDevice(**size) as digital:
        exact = digital.project(vectors)
    fidelities: tuple[Literal["frames", "statistical"], ...] = ("frames", "statistical")
    errors, clipped = [], []
    for fidelity in fidelities:
        with EmulatedDevice(**size, fidelity=fidelity, **case.options) as device, warnings.catch_warnings():
            warnings.simplefilter("ignore", SaturationWarning)
            fields = device.project(np.tile(vectors, (repeats, 1)))
            errors.append(fields.reshape(repeats, *exact.shape) - exact)
            clipped.append(device.usage.saturated_pixels / device.usage.pixel_readings)
    bias: list[list[Real]] = [
        [error[start::2].mean(axis=0, dtype=np.float64).reshape(-1) for error in errors] for start in (0, 1)
    ]
    if not case.same_light:
        order = np.argsort(exact.reshape(-1))
        groups = [[np.array_split(values[order], BINS) for values in half] for half in bias]
        bias = [[np.array([part.mean() for part in values]) for values in half] for half in groups]
    return _Measured(
        snr_db=10 * math.log10(float(np.square(exact).mean() / np.square(errors[0]).mean())),
        spread=[float(error.var(axis=0, dtype=np.float64, ddof=1).mean()) for error in errors],
        clipped=clipped,
        bias=bias,
        correlations=[[_correlations(error[start::2, :, :CORRELATED]) for error in errors] for start in (0, 1)],
    )


def _vectors(case: Case, count: int) -> npt.NDArray[np.int8]:
    generator = np.random.default_rng(1)
    vectors = np.zeros((count, N_INPUTS), np.int8)
    plus, minus = case.lit
    for vector in vectors:
        chosen = generator.permutation(N_INPUTS)
        vector[chosen[:plus]] = 1
        vector[chosen[plus : plus + minus]] = -1
    return vectors


def _correlations(errors: npt.NDArray[np.float32]) -> Real:
    """Correlations of all pairs of outputs over the repeats, (vectors, pairs); errors (repeats, vectors, outputs)."""
    centred = errors - errors.mean(axis=0)
    centred /= np.sqrt(np.square(centred).sum(axis=0)) + 1e-30
    each = centred.transpose(1, 2, 0)
    matrix = each @ each.transpose(0, 2, 1)
    upper = np.triu_indices(matrix.shape[1], 1)
    pairs: Real = matrix[:, upper[0], upper[1]].astype(np.float64)
    return pairs
