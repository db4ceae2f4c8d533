"""The result of an estimate, as it goes to JSON, to the tables and to the figure. No torch."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from optical_dfa.bench.machine import Machine
from optical_dfa.estimate.breakeven import Span
from optical_dfa.estimate.laws import Law
from optical_dfa.estimate.model import Cost, Sized
from optical_dfa.estimate.size import AxisName, Size
from optical_dfa.estimate.times import Times

SCHEMA = 1
"""Number of this layout of the JSON file."""

Case = Literal["all lit", "as displayed"]
"""Frames of the optics: every side of every vector, or without those that were dark in the first step."""

Reference = Literal["digital projection", "backward pass"]
"""What the optics competes with: the projection alone, or the whole backward pass of backpropagation."""


@dataclass(frozen=True)
class Spent:
    """What the modelled machine spends on a net in one case."""

    case: Case
    dark_fraction: float
    """Fraction of the sides (+ and -) of the vectors that have no feature ON."""
    vector: Cost
    step: Cost
    epoch: Cost
    run: Cost


@dataclass(frozen=True)
class Point:
    """One size that was measured."""

    size: Size
    times: Times


@dataclass(frozen=True)
class Curves:
    """Seconds of a step along an axis, by the laws and the model: what the figure draws."""

    axis: AxisName
    values: list[int]
    digital: list[float]
    """Digital projection."""
    bp: list[float]
    """Backward pass of backpropagation."""
    optics: dict[Case, list[float]]
    """Projection by the modelled machine."""
    optical_dfa: dict[Case, list[float]]
    """Backward pass of DFA with that projection."""


@dataclass(frozen=True)
class BreakEven:
    """Where along an axis the modelled machine takes less time."""

    axis: AxisName
    reference: Reference
    """`digital projection`: against the optical projection; `backward pass`: against that of DFA with the optical
    projection."""
    case: Case
    spans: list[Span]
    """First and last value of each stretch; empty: nowhere."""
    limit: int
    """Last value looked at."""
    measured_to: int
    """Largest value that was measured; beyond it, the laws of time are extrapolated."""


@dataclass(frozen=True)
class Estimate:
    """All of one estimate. Seconds are per step where nothing else is said."""

    schema: int
    optical_dfa: str
    date: str
    """UTC, ISO 8601."""
    seconds: float
    """Time taken by the estimate."""
    quick: bool
    threads: int
    clock: Literal["cpu", "wall"]
    """CPU time of the process with one thread, wall time with more."""
    load: list[float | None]
    """Processes that wanted a core, mean of the last minute, at the beginning and at the end."""
    machine: Machine
    name: str
    """Of the configuration, for titles."""
    config: dict[str, Any]
    size: Size
    steps_per_epoch: int
    epochs: int
    optics: Sized
    """The modelled machine at the size of the net."""
    whole_camera: Sized
    """The same with as many outputs as it can give."""
    stands_in: bool
    """Whether the preset stands in for a device that has no optics."""
    digital_backend: str
    vectors_looked_at: int
    """Vectors of the first step that the dark sides were counted on."""
    spent: list[Spent]
    times: Times
    """Of the configured net."""
    points: list[Point]
    laws: list[Law]
    break_even: list[BreakEven]
    curves: list[Curves]

    def of_case(self, case: Case) -> Spent:
        """What the modelled machine spends in that case."""
        return next(spent for spent in self.spent if spent.case == case)


_ESTIMATE = TypeAdapter(Estimate)


def to_json(estimate: Estimate) -> str:
    """The estimate as JSON text."""
    return _ESTIMATE.dump_json(estimate, indent=1).decode() + "\n"


def from_json(text: str) -> Estimate:
    """The estimate of that text.

    Raises:
        pydantic.ValidationError: it is not one.
    """
    return _ESTIMATE.validate_json(text, strict=True)
