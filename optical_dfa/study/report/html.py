"""Pieces of HTML."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, and what of a row is sorted by and what is shown."""

    title: str
    is_text: bool = False
    digits: int = 4
    percent: bool = False


def table(columns: Sequence[Column], rows: Sequence[Sequence[Any]], name: str) -> str:
    """A table that sorts by a click on a heading. A cell is a value, or a pair of value and text to show."""
    head = "".join(
        f'<th{_kind(column)} scope="col"><button type="button">{escape(column.title)}</button></th>'
        for column in columns
    )
    body = "\n".join(
        "<tr>" + "".join(_cell(column, value) for column, value in zip(columns, row, strict=True)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table class="sortable" id="{name}">\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def definitions(values: Mapping[str, str]) -> str:
    """Names and what they are."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in values.items()) + "</dl>"


def folded(title: str, text: str) -> str:
    """A text under a title that opens."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def _kind(column: Column) -> str:
    return ' class="text"' if column.is_text else ""


def _cell(column: Column, value: Any) -> str:
    key, text = value if isinstance(value, tuple) else (value, None)
    missing = key is None or (isinstance(key, float) and math.isnan(key))
    if text is None:
        text = "–" if missing else _shown(column, key)
    stored = "" if missing else "1e999" if key == math.inf else str(key)
    return f'<td{_kind(column)} data-value="{escape(stored)}">{escape(text)}</td>'


def _shown(column: Column, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if value == math.inf:
        return "exact"
    if column.percent:
        return f"{100 * value:.2f}"
    return f"{value:.{column.digits}g}"
