"""The command `optical-dfa device check`: table, files, figure."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from optical_dfa.cli.overrides import options_from
from optical_dfa.config import load_config
from optical_dfa.devices import FrameTap, ProjectionDevice, make_device
from optical_dfa.devices.calibration import CalibrationFileError, CalibrationRecord, calibration_bytes, read_calibration
from optical_dfa.figures import require_matplotlib
from optical_dfa.files import write_text_whole, write_whole
from optical_dfa.health import Health, Probing, Verdict, check, health_of, verdicts
from optical_dfa.health.check import last_frames
from optical_dfa.health.verdict import worst
from optical_dfa.run_errors import InputError

CLASSES = 10
"""Of every task that a configuration can name: inputs of its device."""

_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red", "": ""}


@dataclass(frozen=True)
class Options:
    """What to check, as the command takes it."""

    target: str
    overrides: Sequence[str] = ()
    inputs: int | None = None
    outputs: int | None = None
    since: Path | None = None
    pairs: int = 32
    lit: int = 4
    out: Path | None = None


def run_check(options: Options, console: Console) -> bool:
    """Check a device, print the table, and write files where `options.out` says.

    Returns:
        False if a figure fails.

    Raises:
        InputError, DeviceError: something given cannot be used, or the device cannot be opened or failed.
    """
    if options.out is not None:
        require_matplotlib()
    device = _device(options)
    earlier, since, probes = None, None, None
    if options.since is not None:
        try:
            arrays, record = read_calibration(options.since, device.fingerprint)
            earlier, probes, since = arrays["fields"], arrays["probes"], record.date
        except (CalibrationFileError, KeyError) as error:
            raise InputError(f"--since: {error}") from None
    with device, console.status("showing vectors"):
        tap = last_frames(device) if options.out is not None else None
        lit = min(options.lit, device.info.n_inputs)
        found = check(device, pairs=options.pairs, lit=lit, probes=probes)
        health = health_of(device, found, earlier, since)
        calibration = device.calibration()
    rows = verdicts(health)
    show(health, rows, console)
    if options.out is not None:
        _write(options.out, device, health, found, rows, calibration, tap, earlier)
        names = "check.json, check.safetensors, check.png"
        console.print(f"In {options.out}: {names}", soft_wrap=True)
    return worst(rows) != "fail"


def show(health: Health, rows: Sequence[Verdict], console: Console) -> None:
    """Print the figures of a check as a table."""
    title = f"Device {health.device}: {health.n_inputs:,} inputs, {health.n_outputs:,} outputs"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("figure", "measured", "passes", "warns", "verdict"):
        table.add_column(name, header_style="dim")
    for row in rows:
        style = _STYLES[row.word]
        table.add_row(row.name, row.value, row.passes, row.warns, f"[{style}]{row.word}[/]" if style else row.word)
    console.print(table)
    console.print(f"{health.vectors} vectors with at most {health.lit} inputs lit, each shown twice", style="dim")


def _device(options: Options) -> ProjectionDevice:
    sizes = {"n_inputs": options.inputs, "n_outputs": options.outputs}
    if options.target.endswith((".yaml", ".yml")):
        config = load_config(Path(options.target), list(options.overrides))
        hidden = config.model.hidden
        of_net = max(hidden) if config.feedback.layout == "shared" else sum(hidden)
        sizes = {"n_inputs": options.inputs or CLASSES, "n_outputs": options.outputs or of_net}
        given: dict[str, Any] = dict(config.device)
    else:
        given = {"name": options.target, **options_from(options.overrides)}
    return make_device(**{**{name: size for name, size in sizes.items() if size is not None}, **given})


def _write(
    folder: Path,
    device: ProjectionDevice,
    health: Health,
    found: Probing,
    rows: Sequence[Verdict],
    calibration: dict[str, Any],
    tap: FrameTap | None,
    earlier: Any,
) -> None:
    from optical_dfa.health.figure import draw

    folder.mkdir(parents=True, exist_ok=True)
    values = {key: str(v) if isinstance(v, float) and not math.isfinite(v) else v for key, v in asdict(health).items()}
    report = {**values, "verdicts": [asdict(row) for row in rows]}
    write_text_whole(folder / "check.json", json.dumps(report, indent=2) + "\n")
    frames = {} if tap is None or tap.last is None else {f"last.{name}": array for name, array in tap.last.items()}
    arrays = {"probes": found.probes, "fields": found.fields, **calibration, **frames}
    settings = json.loads(json.dumps(dict(device.settings), default=str))
    record = CalibrationRecord(health.device, health.fingerprint, health.date, settings)
    content = calibration_bytes(arrays, record)
    write_whole(folder / "check.safetensors", lambda file: file.write(content))
    images = frames.get("last.images")
    saturation_dn = np.inf if tap is None else tap.info.saturation_dn
    draw(health, found, folder / "check.png", images, saturation_dn, earlier)
