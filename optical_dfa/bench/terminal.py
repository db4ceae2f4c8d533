"""The report on a terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from optical_dfa.bench.cells import LEGEND, Section, facts, sections
from optical_dfa.bench.report import Report, Verdict, summary

WIDE = 120
"""Columns from which on ratios come with their spread."""

NARROW = 90
"""Columns below which less space is between those of a table."""

COLOURS: dict[Verdict, str] = {"aim": "bold green", "met": "green", "missed": "bold red"}


def show(report: Report, console: Console) -> None:
    """Print the report."""
    table = _plain_table()
    for name, value in facts(report):
        table.add_row(Text(name, style="dim"), Text(value))
    console.print(table)
    for section in sections(report, spread=console.width >= WIDE):
        console.print()
        console.print(Text(section.title, style="bold"))
        console.print(_table(section, narrow=console.width < NARROW))
        for note in section.notes:
            console.print(Text(note, style="dim"))
    console.print()
    console.print(Text(LEGEND, style="dim"))
    console.print(Text(summary(report)))


def _table(section: Section, narrow: bool) -> Table:
    table = _plain_table(1 if narrow else 2)
    for number, name in enumerate(section.columns):
        # where the terminal is narrow, the words of the first column take more lines
        text = number < section.n_text
        table.add_column(name, header_style="dim", justify="left" if text else "right", no_wrap=number > 0)
    table.show_header = True
    for line in section.lines:
        table.add_row(*(Text(cell.text, style=COLOURS.get(cell.verdict, "")) for cell in line))
    return table


def _plain_table(space: int = 2) -> Table:
    return Table(box=None, pad_edge=False, padding=(0, space, 0, 0), show_header=False)
