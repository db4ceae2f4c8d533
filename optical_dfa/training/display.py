"""What a run shows while it trains: a line per epoch, and a live bar on a terminal."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from optical_dfa.training.log import EpochMetrics
from optical_dfa.training.monitoring import in_words
from optical_dfa.training.run import Run


class Display:
    """Live progress of a run, on standard output; without a terminal, a line per epoch only.

    Args:
        run: what is shown.
        enabled: False shows nothing.
    """

    def __init__(self, run: Run, enabled: bool) -> None:
        self._run = run
        self._console = Console(quiet=not enabled, highlight=False, soft_wrap=True)
        self._has_frames = run.feedback is not None and run.feedback.device.info.frames_per_vector > 0
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=10),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not (enabled and self._console.is_terminal),
            transient=True,
        )
        self._task = self._bar.add_task("", total=run.steps_per_epoch, epoch="", metrics="")

    def __enter__(self) -> Self:
        self._console.print(self._title(), style="bold")
        if self._run.epoch or self._run.step:
            self._console.print(f"resumed at {self._run.position}")
        header = "epoch    loss   train    test  seconds"
        self._console.print(header + "      frames  device s  device J" * self._has_frames)
        for row in self._run.history:
            self.epoch(row)
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self) -> None:
        """Show where the run is after a step."""
        totals = self._run.totals
        metrics = f"loss {totals.loss / totals.images:.4f}  train {totals.correct / totals.images:.1%}"
        self._bar.update(
            self._task,
            completed=self._run.step,
            epoch=f"{self._run.epoch + 1}/{self._run.config.training.epochs}",
            metrics=metrics + f"  {totals.frames:,} frames" * self._has_frames + self._health(),
        )

    def _health(self) -> str:
        return f"  {in_words(self._run.health[-1])}" if self._run.health else ""

    def epoch(self, row: EpochMetrics) -> None:
        """Print the line of a finished epoch."""
        self._bar.reset(self._task)  # the time that is left counts from here
        line = f"{row.epoch:5}  {row.train_loss:6.4f}  {row.train_accuracy:6.2%}  {row.test_accuracy:6.2%}"
        line += f"  {row.seconds:7.1f}"
        if self._has_frames:
            line += f"  {row.frames:10,}  {row.device_seconds:8.1f}  {row.device_joules:8.0f}"
        self._console.print(line)

    def _title(self) -> str:
        run, config = self._run, self._run.config
        widths = "-".join(map(str, (run.task.n_features, *config.model.hidden, run.task.n_classes)))
        parts = [config.training.method, run.task.name, f"{widths} {config.model.activation}"]
        if run.feedback is not None:
            parts.append(" ".join(str(config.device[key]) for key in ("name", "preset") if key in config.device))
        return ", ".join([*parts, f"seed {config.training.seed}"])
