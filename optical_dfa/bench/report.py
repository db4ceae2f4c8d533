"""The result of a benchmark: rows of measured values beside their bars, as it goes to JSON and to the tables."""

from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter

from optical_dfa.bench.bars import QUANTITIES, Quantity
from optical_dfa.bench.machine import Machine

SCHEMA = 1
"""Number of this layout of the JSON file."""

Verdict = Literal["aim", "met", "missed", "no bar", "not judged", "not measured"]
"""`not judged`: sizes were scaled, or the bar is for another machine."""

MARKS: dict[Verdict, str] = {
    "aim": "★", "met": "✓", "missed": "✗", "no bar": "", "not judged": "", "not measured": "",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One quantity, on one job, under one setting."""

    quantity: str
    job: str
    n_in: int
    n_pixels: int
    batch: int
    setting: str
    """`Haswell`, `unset`, or `any` where OpenBLAS has no part in it."""
    unit: str
    value: float | None
    """Median of the pairs; None if it was not measured."""
    pairs: list[float]
    """Ratio of process CPU time, pair by pair; empty for other units."""
    wall: float | None
    """The same by the clock on the wall, for ratios of more than one thread and for seconds."""
    must: float | None
    aim: float | None
    verdict: Verdict
    gmacs: float | None
    """Multiply-adds of the exact product, 10^9 a second of CPU time."""
    of_peak: float | None
    """That, over what `vpdpbusd` does with all operands in registers."""
    floor: float | None
    """The smallest ratio to G1 that `vpdpbusd` allows on this CPU: two products at its peak, and nothing else."""
    checked_rows: int
    """Rows of T whose product was compared with the reference, and equal."""
    note: str


@dataclass(frozen=True)
class Peak:
    """Largest rate of instructions whose operands are in registers, GMAC/s of one core."""

    vpdpbusd_512: float | None
    fma_512: float | None
    fma_256: float | None


@dataclass(frozen=True)
class Numerics:
    """The libraries of the processes, by setting."""

    numpy: str
    numba: str | None
    blas: str
    blas_core: dict[str, str | None]
    """Which CPU OpenBLAS took this one for, by setting of OPENBLAS_CORETYPE."""


@dataclass(frozen=True)
class Report:
    """All of one run."""

    schema: int
    command: str
    optical_dfa: str
    date: str
    """UTC, ISO 8601."""
    seconds: float
    """Wall time of the whole run."""
    scale: float
    threads: int
    load: list[float | None]
    """Processes that wanted a core, mean of the last minute, at the beginning and at the end."""
    machine: Machine
    numerics: Numerics
    peak: Peak
    rows: list[Row]


_REPORT = TypeAdapter(Report)


def to_json(report: Report) -> str:
    """The report as JSON text."""
    return _REPORT.dump_json(report, indent=1).decode() + "\n"


def from_json(text: str) -> Report:
    """The report of that text.

    Raises:
        pydantic.ValidationError: it is not one.
    """
    return _REPORT.validate_json(text, strict=True)


def quantity_of(row: Row) -> Quantity:
    """What the row is a value of."""
    return next(quantity for quantity in QUANTITIES if quantity.name == row.quantity)


def missed(report: Report) -> list[Row]:
    """Rows whose bar was missed."""
    return [row for row in report.rows if row.verdict == "missed"]


def summary(report: Report) -> str:
    """One line: how many bars were met, reached their aim, were missed or could not be judged."""
    if report.scale != 1:
        return f"sizes scaled by {report.scale:g}: the bars hold for full sizes only and are not judged"
    count = {verdict: sum(row.verdict == verdict for row in report.rows) for verdict in MARKS}
    bars = count["aim"] + count["met"] + count["missed"]
    return (
        f"{bars} bars measured: {count['aim'] + count['met']} met, {count['aim']} of them with the aim reached; "
        f"{count['missed']} missed; {count['not measured']} not measured"
    )
