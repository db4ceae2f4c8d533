"""What a study found, as tables: a row for each cell, each condition, each epoch. pandas is loaded only here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pandas as pd
from scipy import special

from optical_dfa.files import write_whole
from optical_dfa.study.design import Cell
from optical_dfa.study.models import Scalar
from optical_dfa.study.results import number, series

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

METRICS = (
    "test_accuracy",
    "train_loss",
    "train_accuracy",
    "alignment",
    "encoding_cosine",
    "feedback_cosine",
    "snr_db",
    "saturated",
    "frames",
    "device_seconds",
    "device_joules",
)
"""Columns of results, of the last epoch but for the last three, which are sums."""

EPOCH_METRICS = METRICS[:8]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Tables:
    """Everything that a study found."""

    cells: pd.DataFrame
    """A row for each cell, in the order of the design: key, state, method, factors, seed, `METRICS`. Holds nothing that
    differs from run to run: undisturbed or not, on one worker or on many, it is the same to the bit."""
    summary: pd.DataFrame
    """A row for each condition: method, factors, `n`, and `METRIC_mean`, `_std` and `_ci95` of its complete cells."""
    epochs: pd.DataFrame
    """A row for each epoch of each complete cell: key, epoch, `EPOCH_METRICS`."""
    timings: pd.DataFrame
    """A row for each complete cell: when, how long, by whom. Differs from run to run."""


def tables(
    cells: Sequence[Cell], results: Mapping[str, "FrozenTrial"], failed: Mapping[str, str], factors: Sequence[str]
) -> Tables:
    """The tables of a study.

    Args:
        cells: of the design.
        results: key → the trial that holds its result.
        failed: key → why it was given up.
        factors: names, in the order of the columns.
    """
    found = {key: trial.user_attrs["result"] for key, trial in results.items()}
    rows = [_row(cell, found.get(cell.key), failed, factors) for cell in cells]
    frame = pd.DataFrame(rows, columns=["cell", "state", "method", *factors, "seed", *METRICS])
    for name in factors:
        frame[name] = factor_column([cell.levels.get(name) for cell in cells], [name in cell.levels for cell in cells])
    epochs = [
        {"cell": cell.key, "epoch": index + 1, **{name: values[name][index] for name in EPOCH_METRICS}}
        for cell in cells
        if cell.key in found
        for values in [{name: series(found[cell.key], name) for name in EPOCH_METRICS}]
        for index in range(len(found[cell.key]["epochs"]))
    ]
    timings = [_timing(cell, results[cell.key]) for cell in cells if cell.key in results]
    return Tables(
        frame,
        summarise(frame, factors),
        pd.DataFrame(epochs, columns=["cell", "epoch", *EPOCH_METRICS]),
        pd.DataFrame(timings, columns=["cell", "started", "seconds", "cpu_seconds", "host", "pid", "cpu"]),
    )


def factor_column(values: Sequence[Scalar], applies: Sequence[bool]) -> "pd.Series[Any]":
    """A column of one type: numbers where all are, otherwise text; missing where the factor does not apply."""
    given = [value for value, here in zip(values, applies, strict=True) if here]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in given):
        return pd.Series([math.nan if value is None else float(value) for value in values], dtype="float64")
    return pd.Series([text(value) if here else None for value, here in zip(values, applies, strict=True)], dtype="str")


def text(value: Scalar) -> str:
    """A level as a file writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def summarise(cells: pd.DataFrame, factors: Sequence[str]) -> pd.DataFrame:
    """Mean, standard deviation and half of the 95 % interval by Student's t over the seeds of each condition."""
    complete = cells[cells["state"] == "complete"]
    grouped = complete.groupby(["method", *factors], sort=False, dropna=False)
    columns: dict[str, Any] = {"n": grouped.size()}
    quantile = columns["n"].map(half_interval)
    for name in METRICS:
        columns[f"{name}_mean"], columns[f"{name}_std"] = grouped[name].mean(), grouped[name].std(ddof=1)
        columns[f"{name}_ci95"] = columns[f"{name}_std"] * quantile
    return pd.DataFrame(columns).reset_index()


def half_interval(n: int) -> float:
    """Half of the confidence interval of a mean of n values, in standard deviations."""
    return float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2)) / math.sqrt(n) if n > 1 else math.nan


def write(found: Tables, folder: Path) -> list[Path]:
    """Write `cells`, `summary` and `epochs` as Parquet and CSV, and `timings.csv`."""
    paths = []
    for name, frame in (("cells", found.cells), ("summary", found.summary), ("epochs", found.epochs)):
        parquet, csv = folder / f"{name}.parquet", folder / f"{name}.csv"
        write_whole(parquet, _parquet(frame))
        write_whole(csv, _csv(frame))
        paths += [parquet, csv]
    write_whole(folder / "timings.csv", _csv(found.timings))
    return paths


def _parquet(frame: pd.DataFrame) -> Any:
    return lambda file: frame.to_parquet(file, engine="pyarrow", index=False)


def _csv(frame: pd.DataFrame) -> Any:
    def to(file: IO[bytes]) -> None:
        file.write(frame.to_csv(index=False, lineterminator="\n").encode())

    return to


def _row(
    cell: Cell, result: Mapping[str, Any] | None, failed: Mapping[str, str], factors: Sequence[str]
) -> dict[str, Any]:
    state = "complete" if result else "failed" if cell.key in failed else "missing"
    metrics = {name: number((result or {}).get(name)) for name in METRICS}
    return {"cell": cell.key, "state": state, "method": cell.method, "seed": cell.seed, **metrics}


def _timing(cell: Cell, trial: "FrozenTrial") -> dict[str, Any]:
    timing, worker = trial.user_attrs["timing"], trial.user_attrs["worker"]
    kept = {name: timing[name] for name in ("started", "seconds", "cpu_seconds")}
    return {"cell": cell.key, **kept, "host": worker["host"], "pid": worker["pid"], "cpu": timing["machine"]["cpu"]}
