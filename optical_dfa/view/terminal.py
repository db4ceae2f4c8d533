"""The numbers of a bench on a terminal."""

import math
from collections.abc import Callable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from optical_dfa.view.report import Numbers, Pair
from optical_dfa.view.words import title


def show(numbers: Numbers, console: Console) -> None:
    """Print the table, measured beside theory, and what is left out."""
    console.print(Text(title(numbers), style="bold"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    for name in ("measured", "theory"):
        table.add_column(name, justify="right")
    for name, pair, text in _lines(numbers):
        table.add_row(name, text(pair.measured), text(pair.predicted))
    console.print(table)
    for line in numbers.left_out:
        console.print(Text(f"Left out: {line}", style="dim"))


def _lines(numbers: Numbers) -> list[tuple[str, Pair, Callable[[float], str]]]:
    lines: list[tuple[str, Pair, Callable[[float], str]]] = [
        ("SNR of the projection", numbers.snr_db, _decibels),
        ("clipped readings", numbers.clipped_fraction, lambda value: f"{100 * value:.2g} %"),
        ("contrast of the speckle", numbers.contrast, lambda value: f"{value:.3f}"),
        ("grain", numbers.grain_px, lambda value: f"{value:.2f} px"),
    ]
    for each in numbers.alignment:
        pairs = (("ternarisation", each.ternarisation), ("optics", each.optics), ("both", each.both))
        lines += [(f"cosine, {each.errors} errors: {name}", pair, lambda value: f"{value:.4f}") for name, pair in pairs]
    return lines


def _decibels(value: float) -> str:
    return "exact" if value == math.inf else f"{value:.2f} dB"
