"""`optical-dfa demo`: five ways to train one net on handwritten digits, side by side."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from optical_dfa.config import RunConfig
from optical_dfa.data import ImageTask, load_task
from optical_dfa.figures import learning_curves, require_matplotlib, speckle
from optical_dfa.training.log import Result
from optical_dfa.training.run import Run
from optical_dfa.training.trainer import epochs_of, torch_threads

SEEDS = (0, 1, 2)

_TERNARY = {"kind": "relative", "threshold": 0.5}

METHODS: dict[str, dict[str, Any]] = {
    "backpropagation": {"training": {"method": "bp"}},
    "exact DFA": {"feedback": {"ternarize": None}, "device": "digital"},
    "ternarised DFA": {"feedback": {"ternarize": _TERNARY}, "device": "digital"},
    "optical DFA, emulated": {
        "feedback": {"ternarize": _TERNARY},
        "device": {"name": "emulator", "preset": "phase-stepping"},
    },
    "shallow control": {"training": {"method": "shallow"}},
}
"""What each row changes; net, optimiser, data order and seeds are the same."""


@dataclass(frozen=True)
class Row:
    """One method over all seeds."""

    method: str
    results: Sequence[Result]

    def cells(self) -> tuple[str, ...]:
        """Method, accuracy, seconds, frames, device seconds, device joules and SNR; means over the seeds."""
        accuracy = [100 * result.test_accuracy for result in self.results]
        frames = statistics.mean(result.frames for result in self.results)
        snr_db = self.results[-1].snr_db
        return (
            self.method,
            f"{statistics.mean(accuracy):.1f} ± {statistics.stdev(accuracy):.1f}",
            f"{statistics.mean(result.seconds for result in self.results):.1f}",
            f"{frames:,.0f}" if frames else "–",
            f"{statistics.mean(result.device_seconds for result in self.results):.1f}" if frames else "–",
            f"{statistics.mean(result.device_joules for result in self.results):,.0f}" if frames else "–",
            f"{snr_db:.1f}" if snr_db is not None and math.isfinite(snr_db) else "–",
        )


COLUMNS = ("method", "test %", "time s", "frames", "device s", "device J", "SNR dB")


def config_of(method: str, seed: int) -> RunConfig:
    """Configuration of one run of the demo."""
    changes = {key: value for key, value in METHODS[method].items() if key != "training"}
    # one thread: with a net this small a second one only waits, and badly so on a busy machine
    training = {"epochs": 30, "batch_size": 32, "threads": 1, "seed": seed, **METHODS[method].get("training", {})}
    return RunConfig.model_validate({"task": {"name": "digits"}, "training": training, **changes})


def demo(out: Path) -> None:
    """Train every method and seed, print the table, and write `summary.png`, `speckle.png` and `table.md` to `out`."""
    require_matplotlib()
    console = Console(highlight=False)
    task = load_task("digits")
    console.print(
        "[bold]Five ways to train a 64-256-256-10 tanh net on handwritten digits[/]\n"
        f"{len(task.train_images):,} training and {len(task.test_images)} test images, {len(SEEDS)} seeds"
    )
    bar = Progress(
        TextColumn("{task.description:<21}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[accuracy]}"),
        TimeElapsedColumn(),
        console=console,
    )
    rows = []
    with bar:
        for method in METHODS:
            epochs = config_of(method, 0).training.epochs
            line = bar.add_task(method, total=epochs * len(SEEDS), accuracy="")

            def show(accuracy: float, line: object = line) -> None:
                bar.update(line, advance=1, accuracy=f"test {accuracy:.1%}")  # type: ignore[arg-type]

            rows.append(Row(method, [_train(config_of(method, seed), task, out, show) for seed in SEEDS]))
    _print_table(console, rows)
    _write_files(rows, out)
    console.print(f"In {out}: summary.png, speckle.png, table.md")


def _train(config: RunConfig, task: ImageTask, out: Path, show: Callable[[float], None]) -> Result:
    with torch_threads(config.training.threads), torch.random.fork_rng(devices=[]), Run(config, task) as run:
        torch.manual_seed(config.training.seed)
        for row in epochs_of(run):
            show(row.test_accuracy)
        return Result.of(out, run.history, run.measured_snr_db())


def _print_table(console: Console, rows: Sequence[Row]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.cells())
    console.print(table)
    console.print("test: mean ± standard deviation of the seeds; the rest: means of the seeds.")
    console.print("time: training here. device: the modelled optical machine. SNR: measured.")


def _write_files(rows: Sequence[Row], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    lines = [COLUMNS, ("---",) + ("---:",) * (len(COLUMNS) - 1), *(row.cells() for row in rows)]
    (out / "table.md").write_text("".join(f"| {' | '.join(line)} |\n" for line in lines), "utf-8")
    curves = {row.method: [[epoch.test_accuracy for epoch in result.history] for result in row.results] for row in rows}
    learning_curves(curves, "Handwritten digits: test accuracy, mean and range of three seeds", out / "summary.png")
    speckle("phase-stepping", 0, out / "speckle.png")
