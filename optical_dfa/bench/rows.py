"""From what a process found to rows of the report: medians, rates, verdicts."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optical_dfa.bench.bars import QUANTITIES, Quantity
from optical_dfa.bench.jobs import JOBS, Job
from optical_dfa.bench.report import Row, Verdict

PRODUCTS = ("numpy", "numba", "auto")
"""Contenders that are the exact product and nothing else."""

FULL_THREADS = 2
"""What the bar of the full product is for."""


@dataclass(frozen=True)
class Conditions:
    """What a process ran under."""

    setting: str
    scale: float
    threads: int
    peak: float | None
    """Of `vpdpbusd`, GMAC/s of a core."""


@dataclass(frozen=True)
class _Found:
    value: float | None
    wall: float | None = None
    pairs: list[float] = field(default_factory=list)
    note: str = ""


def rows_of(job: str, result: Mapping[str, Any], conditions: Conditions) -> list[Row]:
    """The rows that a job gives.

    Args:
        job: its name.
        result: what `child` found, or `{"lacking": why it did not run}`.
        conditions: of the process.
    """
    quantities = (quantity for quantity in QUANTITIES if job in quantity.jobs + quantity.reported)
    return [_row(quantity, JOBS[job].scaled(conditions.scale), result, conditions) for quantity in quantities]


def _row(quantity: Quantity, job: Job, result: Mapping[str, Any], conditions: Conditions) -> Row:
    must, aim = quantity.bar(job.name, conditions.setting)
    found = _found(quantity, job, result)
    verdict, note = _verdict(found.value, must, aim), found.note
    if verdict in ("aim", "met", "missed"):
        if conditions.scale != 1:
            verdict = "not judged"
        elif job.name == "full" and conditions.threads != FULL_THREADS:
            verdict, note = "not judged", f"the bar is for {FULL_THREADS} threads; these are {conditions.threads}"
    gmacs = _gmacs(quantity, job, result) if found.value is not None else None
    peak, backend = conditions.peak, quantity.pair[0] if quantity.pair else ""
    return Row(
        quantity=quantity.name,
        job=job.name,
        n_in=job.n_in,
        n_pixels=job.n_pixels,
        batch=job.batch,
        setting=conditions.setting,
        unit=quantity.unit,
        value=found.value,
        pairs=found.pairs,
        wall=found.wall if conditions.threads > 1 or quantity.unit == "s" else None,
        must=must,
        aim=aim,
        verdict=verdict,
        gmacs=gmacs,
        of_peak=gmacs / peak if gmacs and peak and backend == "numba" else None,
        floor=_floor(quantity, job, result, peak) if found.value is not None else None,
        checked_rows=result.get(quantity.name, result).get("checked_rows", 0),
        note=note,
    )


def _found(quantity: Quantity, job: Job, result: Mapping[str, Any]) -> _Found:
    part: Mapping[str, Any] = result.get(quantity.name, result)  # the job `start` has one for each quantity
    if isinstance(part.get("lacking"), str):
        return _Found(None, note=part["lacking"])
    if quantity.unit == "GMAC/s":
        note = ""
        if part["g1_pixels"] < job.n_pixels:
            note = f"G1 of {job.name} is timed on {part['g1_pixels']:,} pixels: T would not fit 1 GB"
        return _Found(_macs(job) / part["cpu"]["g1"] / 1e9, note=note)
    if quantity.unit == "MB":
        return _Found(part["bytes"] / 1e6)
    if quantity.pair is None:
        return _Found(part["wall" if job.kind == "full" else "cpu"], part["wall"])
    timings = part["pairs"].get("/".join(quantity.pair))
    if timings is None:
        lacking: Mapping[str, str] = part["lacking"]
        return _Found(None, note=next(lacking[name] for name in quantity.pair if name in lacking))
    if quantity.unit == "ns":
        each = 1e9 / (2 * job.n_pixels * job.batch)
        cpu, wall = ([(contender[i] - reference[i]) * each for contender, reference in timings] for i in (0, 1))
    else:
        cpu, wall = ([contender[i] / reference[i] for contender, reference in timings] for i in (0, 1))
    return _Found(statistics.median(cpu), statistics.median(wall), cpu)


def _verdict(value: float | None, must: float | None, aim: float | None) -> Verdict:
    if value is None:
        return "not measured"
    if must is None:
        return "no bar"
    if value > must:
        return "missed"
    return "aim" if aim is not None and value <= aim else "met"


def _macs(job: Job) -> float:
    """Multiply-adds of G1; the exact product has twice as many."""
    return float(job.n_in) * job.n_pixels * job.batch


def _gmacs(quantity: Quantity, job: Job, result: Mapping[str, Any]) -> float | None:
    if job.kind == "full":
        return 2 * _macs(job) / float(result["cpu"]) / 1e9
    if quantity.pair is None or quantity.pair[0] not in PRODUCTS:
        return None
    return 2 * _macs(job) / float(result["cpu"][quantity.pair[0]]) / 1e9


def _floor(quantity: Quantity, job: Job, result: Mapping[str, Any], peak: float | None) -> float | None:
    """No kernel of `vpdpbusd` gets below this ratio to G1, with all of the job's inputs lit."""
    if not peak or job.lit < 1 or quantity.pair is None or quantity.pair[1] != "g1":
        return None
    if not quantity.pair[0].endswith("numba"):
        return None
    return 2 * _macs(job) / peak / 1e9 / float(result["cpu"]["g1"])
