"""The estimate on a terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from optical_dfa.estimate.report import Estimate
from optical_dfa.estimate.tables import Section, facts, sections, title

NARROW = 90
"""Columns of a terminal below which less space is between those of a table."""


def show(estimate: Estimate, console: Console) -> None:
    """Print the estimate."""
    console.print(Text(title(estimate), style="bold"))
    table = _plain_table()
    for name, value in facts(estimate):
        table.add_row(Text(name, style="dim"), Text(value))
    console.print(table)
    for section in sections(estimate):
        console.print()
        console.print(Text(section.title, style="bold"))
        console.print(_table(section, narrow=console.width < NARROW))
        for note in section.notes:
            console.print(Text(note, style="dim"))


def _table(section: Section, narrow: bool) -> Table:
    table = _plain_table(1 if narrow else 2)
    table.show_header = True
    for number, name in enumerate(section.columns):
        table.add_column(name, header_style="dim", justify="left" if number < section.n_text else "right")
    for line in section.lines:
        table.add_row(*map(Text, line))
    return table


def _plain_table(space: int = 2) -> Table:
    return Table(box=None, pad_edge=False, padding=(0, space, 0, 0), show_header=False)
