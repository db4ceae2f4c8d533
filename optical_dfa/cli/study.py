"""The commands `optical-dfa study` and `optical-dfa tune`: progress, table, files."""

import os
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from optical_dfa.run_errors import InputError, StudyIncomplete
from optical_dfa.study.file import Study, load_study
from optical_dfa.study.storage import require_extra

MOST_ROWS = 60
"""Conditions in the table on the terminal; the report has them all."""


@dataclass(frozen=True)
class Options:
    """What to run, as the commands take it."""

    study: Path
    out: Path | None
    storage: str | None
    workers: int | None
    retry_failed: bool = False

    @property
    def folder(self) -> Path:
        """Where results go."""
        return self.out or Path("runs") / self.study.stem

    @property
    def processes(self) -> int:
        """Workers to start."""
        if self.workers is None:
            return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if self.workers < 0:
            raise InputError(f"--workers {self.workers}: must be 0 (write the report alone) or more")
        return self.workers


def run_study_command(options: Options, console: Console) -> None:
    """Run what is missing, write tables and report, print the conditions.

    Raises:
        InputError: the study cannot be run as asked; nothing was run.
        StudyIncomplete: some runs failed for good; the rest is in the report.
        ChildProcessError: every worker died.
    """
    require_extra()
    workers, study = options.processes, load_study(options.study)
    from optical_dfa.study.queue import Progress as Standing
    from optical_dfa.study.report.write import write_report
    from optical_dfa.study.run import Place, open_queue, run_study

    place = Place.of(options.folder, options.storage)
    queue = open_queue(study, place)
    console.print(
        f"[bold]{study.config.title}[/]: {len(study.cells)} runs, {workers} workers, {place.shown}", soft_wrap=True
    )
    if workers:
        bar = _bar(console, "runs")
        with bar:
            line = bar.add_task("", total=len(study.cells), more="")

            def show(standing: Standing) -> None:
                failed = f", {len(standing.failed)} failed" if standing.failed else ""
                bar.update(line, completed=standing.complete, more=f"{standing.running} under way{failed}")

            run_study(study, queue, place, workers, options.retry_failed, show)
    report = write_report(study, queue, place.folder, place.shown)
    _print(study, place.folder, console)
    standing = queue.progress()
    console.print(f"{standing.complete} of {standing.total} runs complete; report {report}", soft_wrap=True)
    if standing.failed:
        configs = {cell.key: cell for cell in study.cells}
        lines = [
            f"{key} ({configs[key].method}, seed {configs[key].seed}): {why}" for key, why in standing.failed.items()
        ]
        raise StudyIncomplete(
            f"{len(standing.failed)} runs failed and were given up after {study.config.attempts} attempts; "
            "--retry-failed tries them once more:\n  " + "\n  ".join(lines)
        )


def run_tune_command(options: Options, console: Console) -> None:
    """Search the settings of every method, and write them.

    Raises:
        InputError: the study cannot be searched as asked; nothing was run.
        ChildProcessError: every worker died.
    """
    require_extra()
    study = load_study(options.study, with_tuned=False)
    if not (workers := options.processes):
        raise InputError("--workers 0: a search needs at least one")
    from optical_dfa.study.run import Place
    from optical_dfa.study.tune import tune

    bar = _bar(console, "trials")
    with bar:
        line = bar.add_task("", total=None, more="")
        path = tune(
            study,
            Place.of(options.folder, options.storage),
            workers,
            lambda done, total: bar.update(line, completed=done, total=total),
        )
    console.print(path.read_text("utf-8"), markup=False, soft_wrap=True)
    console.print(f"written to {path}", soft_wrap=True)
    if study.config.tuned is None:
        relative = os.path.relpath(path, study.path.parent)
        console.print(f"to use it, add to {study.path}:  tuned: {relative}", soft_wrap=True)


def _bar(console: Console, what: str) -> Progress:
    return Progress(
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[more]}"), TimeElapsedColumn(),
        console=console, disable=not console.is_terminal, transient=True,
    )  # fmt: skip


def _print(study: Study, folder: Path, console: Console) -> None:
    """The conditions as a table, from what was written."""
    import pandas as pd

    from optical_dfa.study.tables import text

    summary = pd.read_parquet(folder / "summary.parquet")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("method", *study.config.factors):
        table.add_column(column, justify="left" if column == "method" else "right")
    for column in ("runs", "test %", "SNR dB", "alignment"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in summary.head(MOST_ROWS).to_dict("records"):
        levels = [
            text(row[name]) if row[name] == row[name] and row[name] is not None else "" for name in study.config.factors
        ]
        interval = f" ± {100 * row['test_accuracy_ci95']:.1f}" if row["n"] > 1 else ""
        accuracy = f"{100 * row['test_accuracy_mean']:.1f}{interval}"
        snr = row["snr_db_mean"]
        table.add_row(
            str(row["method"]), *levels, str(row["n"]), accuracy,
            "exact" if snr == float("inf") else f"{snr:.1f}" if snr == snr else "–",
            f"{row['alignment_mean']:.2f}" if row["alignment_mean"] == row["alignment_mean"] else "–",
        )  # fmt: skip
    console.print(table)
    if len(summary) > MOST_ROWS:
        console.print(f"… {len(summary) - MOST_ROWS} more in {folder / 'summary.csv'}")
    console.print("test: mean and half of the 95 % interval over seeds, after the last epoch. SNR, alignment: means.")
