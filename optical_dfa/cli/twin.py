"""The command `optical-dfa twin`: progress, table, files, figure."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from optical_dfa.cli.overrides import options_from
from optical_dfa.devices import make_device
from optical_dfa.devices.presets.summary import unit
from optical_dfa.figures import require_matplotlib
from optical_dfa.run_errors import ConfigError, InputError
from optical_dfa.twin import Estimate, Observed, Plan, Twin, fit, read_recording, save, show_plan
from optical_dfa.twin.save import PRESET
from optical_dfa.twin.truth import known_values

BY_THE_CLOCK = ("bench",)
"""Devices whose time passes by itself."""


UNITS = {"light always there": "e-/px/exposure", "medium.piston_walk_rad": "rad/√s"}
"""Of what no preset has, and where a name says less."""


@dataclass(frozen=True)
class Options:
    """What to make a twin of, as the command takes it."""

    source: str
    out: Path
    inputs: int | None = None
    outputs: int | None = None
    overrides: Sequence[str] = ()
    repeats: int = 8
    watch_s: float = 0.0


def run_twin(options: Options, console: Console) -> None:
    """Make a twin of a device or of a recording, print it, and write its files and figure.

    Raises:
        InputError, DeviceError: something given cannot be used, or the device failed; nothing was written.
    """
    require_matplotlib()
    if (options.out / PRESET).exists():
        raise InputError(f"{options.out / PRESET}: exists already: remove it, or give another folder")
    plan = Plan(options.repeats, options.watch_s)
    seen = _recorded(options) if Path(options.source).is_file() else _shown(options, plan, console)
    with console.status("fitting"):
        twin = fit(seen)
    known = known_values(twin)
    show(twin, known, console)
    files = save(twin, options.out)
    from optical_dfa.twin.figure import draw

    with console.status("drawing"):
        draw(twin, known, options.out / "twin.png")
    names = ", ".join(path.name for path in vars(files).values())
    console.print(f"\nIn {options.out}: {names}, twin.png", soft_wrap=True)
    console.print(f"device: {{name: emulator, preset: {files.preset}}}", soft_wrap=True)


def show(twin: Twin, known: Mapping[str, float], console: Console) -> None:
    """Print the values of a twin, and what was not told."""
    source, light = twin.seen.source, twin.light
    title = f"Digital twin of device {source.device}: {len(light.columns):,} inputs, {len(light.reference):,} pixels, "
    title += f"{len(twin.seen):,} frames"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("value", header_style="dim", no_wrap=True)
    table.add_column("measured", header_style="dim", justify="right")
    table.add_column("95 % interval", header_style="dim")
    if known:
        table.add_column("true", header_style="dim", justify="right")
    table.add_column("unit", header_style="dim")
    for e in twin.estimates:
        if e.kind != "not told":
            true = [_number(known[e.name]) if e.name in known else ""] if known else []
            table.add_row(e.name, *_cells(e), *true, UNITS.get(e.name, unit(e.name)))
    console.print(table)
    console.print("\nNot told by these frames:", style="bold")
    for e in twin.estimates:
        if e.kind == "not told":
            console.print(f"  {e.name}: {e.why}", soft_wrap=True)


def _cells(estimate: Estimate) -> tuple[str, str]:
    if estimate.kind == "measured":
        if estimate.low == estimate.high:
            return _number(estimate.value), "exact"
        return _number(estimate.value), f"{_number(estimate.low)} … {_number(estimate.high)}"
    if math.isinf(estimate.high):
        return "none seen", f"≥ {_number(estimate.low)}"
    return "none seen", f"≤ {_number(estimate.high)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1e4 and math.isfinite(value) else f"{value:.4g}"


def _recorded(options: Options) -> Observed:
    if options.inputs or options.outputs or options.overrides:
        raise ConfigError(f"{options.source} is a recording, which has its sizes: leave --inputs, --outputs, --set out")
    return read_recording(options.source)


def _shown(options: Options, plan: Plan, console: Console) -> Observed:
    if options.source.endswith((".npys", ".npy")):
        raise InputError(f"{options.source}: no such recording: record one with the device record")
    sizes: dict[str, Any] = {"n_inputs": options.inputs, "n_outputs": options.outputs}
    given = options_from(options.overrides)
    if fixed := given.keys() & sizes.keys():
        raise ConfigError(f"--set {min(fixed)}: give the sizes as --inputs and --outputs")
    device = make_device(options.source, **{k: v for k, v in sizes.items() if v is not None}, **given)
    bar = Progress(
        TextColumn("showing frames"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True,
    )  # fmt: skip
    with device, bar:
        task = bar.add_task("", total=None)
        pause = time.sleep if device.info.name in BY_THE_CLOCK else None
        return show_plan(
            device, plan, pause=pause, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
