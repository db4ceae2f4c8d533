"""The command `optical-dfa measure-matrix`: progress, table, figure."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from optical_dfa.cli.overrides import options_from
from optical_dfa.devices import make_device
from optical_dfa.figures import require_matplotlib, singular_values
from optical_dfa.measure import Report, measure_matrix, report
from optical_dfa.measure.measure import check_free
from optical_dfa.run_errors import ConfigError


def run_measurement(
    device: str,
    out: Path,
    sizes: tuple[int, int],
    overrides: Sequence[str],
    repeats: int,
    weight: int | None,
    figure: Path | None,
    console: Console,
) -> None:
    """Measure the matrix of a device, write it, and print what it is like.

    Raises:
        InputError, DeviceError: see `measure_matrix`.
    """
    if figure:
        require_matplotlib()
    options = options_from(overrides)
    if fixed := options.keys() & {"n_inputs", "n_outputs"}:
        raise ConfigError(f"--set {min(fixed)}: give the sizes as --inputs and --outputs")
    check_free(out)  # before the device is touched
    with make_device(device, n_inputs=sizes[0], n_outputs=sizes[1], **options) as opened:
        bar = Progress(
            TextColumn("showing probes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console, transient=True,
        )  # fmt: skip
        with bar:
            task = bar.add_task("", total=None)
            file = measure_matrix(
                opened, out, repeats=repeats, weight=weight,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )  # fmt: skip
        with console.status("comparing"):
            result = report(file, opened)
    show(result, console)
    console.print(str(out), soft_wrap=True)
    if figure:
        singular_values(result.spectrum, f"{out.name}: measured on {file.record.device}", figure)
        console.print(str(figure), soft_wrap=True)


def show(result: Report, console: Console) -> None:
    """Print the report as a table of two columns."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, value in result.lines():
        table.add_row(name, value)
    console.print(table)
