"""The audit as a table of plain text, 100 columns wide."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile

from optical_dfa.audit import SOURCES, Audit, AuditRow

WIDTH = 100
NAMES_SHOWN = 4
"""Weights that are named of those that a gradient passes through; the JSON names all."""
FEWEST_ALIKE = 3
"""Blocks in a row that differ in their numbers alone are written once from here on."""


@dataclass(frozen=True)
class Group:
    """Parameters that have the same source: those of one block, or all that are exact, frozen or without."""

    title: str
    points: tuple[str, ...]
    rows: tuple[AuditRow, ...]


def groups_of(audit: Audit) -> list[Group]:
    """Blocks in the order of their points, then what several points reach, then the rest."""
    by_points: dict[tuple[str, ...], list[AuditRow]] = {(point,): [] for point in audit.points}
    for row in audit.rows:
        if row.source in ("feedback", "backpropagated"):
            by_points.setdefault(row.points, []).append(row)
    found = [Group(f"feedback at {_quoted(points)}", points, tuple(rows)) for points, rows in by_points.items()]
    for source in ("exact", "frozen", "none"):
        if rows := [row for row in audit.rows if row.source == source]:
            found.append(Group({"none": "no gradient"}.get(source, SOURCES[source]), (), tuple(rows)))
    return found


def to_text(audit: Audit) -> str:
    """The whole table."""
    lines = [_head(audit)]
    for alike in runs_of(groups_of(audit)):
        first = alike[0]
        prefix = prefix_of(first)
        note = f"  (.x stands for {prefix}.x)" if prefix else ""
        lines += ["", *textwrap.wrap(first.title + note, WIDTH, subsequent_indent="  ", break_long_words=False)]
        lines += _rows(first.rows, prefix)
        if len(alike) > 1:
            others = [group.points[0] for group in alike[1:]]
            same = f"  the same in {len(others)} more: {_quoted(others)}"
            lines += textwrap.wrap(same, WIDTH, subsequent_indent="    ")
    lines += ["", *_totals(audit)]
    for note in _notes(audit):
        lines += ["", *textwrap.wrap(note, WIDTH)]
    return "\n".join(line.rstrip() for line in lines)


def _rows(rows: Sequence[AuditRow], prefix: str) -> Iterator[str]:
    """A line for the parameters of one module that have the same source, two columns wide: names, then source."""
    if not rows:
        yield "  no parameter of its own"
    cells = []
    for _, same in groupby(rows, key=lambda row: (row.parameter.rpartition(".")[0], _words(row, prefix))):
        first, *others = same
        names = [short(first.parameter, prefix), *(row.parameter.rpartition(".")[2] for row in others)]
        shapes = ", ".join(_shape(row) for row in (first, *others))
        cells.append((", ".join(names), shapes, _words(first, prefix)))
    names_width, shapes_width = (
        min(most, max((len(cell[n]) for cell in cells), default=0)) for n, most in ((0, 40), (1, 24))
    )
    for name, shape, words in cells:
        start = f"  {_fitted(name, names_width):<{names_width}}  {_fitted(shape, shapes_width):<{shapes_width}}  "
        wrapped = textwrap.wrap(words, WIDTH - len(start), break_long_words=False, break_on_hyphens=False)
        yield start + wrapped[0]
        yield from (" " * len(start) + line for line in wrapped[1:])


def prefix_of(group: Group) -> str:
    """Name of a module that is left out of the names of its parameters: the point itself, or what holds all of them."""
    names = [row.parameter for row in group.rows]
    parts = [name.split(".")[:-1] for name in names]
    if len({tuple(part) for part in parts}) < 2:
        return ""
    if any(name.startswith(f"{point}.") for name in names for point in group.points[:1]):
        return group.points[0]
    return ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False)))


def short(name: str, prefix: str) -> str:
    """The name without the prefix: `.x` for `prefix.x`."""
    return name.removeprefix(prefix) if prefix and name.startswith(prefix + ".") else name


def _head(audit: Audit) -> str:
    parts = [f"{len(audit.points)} feedback point{'s' * (len(audit.points) != 1)}"]
    parts += [f"device {audit.device}"] if audit.device else []
    parts += [f"layout {audit.layout}"] if audit.layout else []
    return f"{audit.net or 'Net'}: {', '.join(parts)}"


def _words(row: AuditRow, prefix: str = "") -> str:
    through = f", through {_some(row.through, prefix)}" if row.through else ""
    if row.source == "exact":
        words = "exact" + (f", through {_some(row.exact_through, prefix)}" if row.exact_through else "")
        return words + (f"; and feedback at {_quoted(row.points)}{through}" if row.points else "")
    return {"backpropagated": f"backpropagated{through}", "none": "no gradient"}.get(row.source, row.source)


def _totals(audit: Audit) -> Iterator[str]:
    totals = audit.totals()
    whole = sum(values for _, values in totals.values()) or 1
    width = max(map(len, SOURCES.values()))
    yield f"{'gradient':<{width}}  {'tensors':>8}  {'values':>15}  {'%':>6}"
    for source, (tensors, values) in totals.items():
        if tensors:
            yield f"{SOURCES[source]:<{width}}  {tensors:>8,}  {values:>15,}  {100 * values / whole:>6.1f}"


def _notes(audit: Audit) -> Iterator[str]:
    if audit.error_through:
        yield (
            f"The error itself passes through {_some(audit.error_through)} before it is projected: weight transport "
            "that every feedback point takes part in."
        )
    if audit.unseen:
        yield (
            f"{audit.unseen} operations keep their operands elsewhere (checkpointing, offloading): frozen weights in "
            "them were not looked for."
        )


def runs_of(groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Blocks one after the other that differ in their numbers alone, if there are enough of them; others one by one."""
    for _, run in groupby(groups, key=_pattern):
        alike = list(run)
        yield from [alike] if len(alike) >= FEWEST_ALIKE else [[group] for group in alike]


def _pattern(group: Group) -> object:
    def blank(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(re.sub(r"\d+", "#", name) for name in names)

    if not group.points:
        return group.title
    rows = tuple((blank([row.parameter]), row.shape, row.source, blank(row.through)) for row in group.rows)
    return blank(group.points), rows


def _some(names: Sequence[str], prefix: str = "") -> str:
    shown = ", ".join(short(name, prefix) for name in names[:NAMES_SHOWN])
    return shown + (f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else "")


def _quoted(names: Sequence[str]) -> str:
    if len(names) > 2 * NAMES_SHOWN:
        return f"{_quoted(names[:2])} … {names[-1]!r}"
    return ", ".join(map(repr, names))


def _shape(row: AuditRow) -> str:
    return " x ".join(map(str, row.shape)) or "scalar"


def _fitted(name: str, width: int) -> str:
    """The name, cut in its middle if it is too long."""
    tail = (width - 1) * 2 // 3
    return name if len(name) <= width else f"{name[: width - 1 - tail]}…{name[-tail:]}"
