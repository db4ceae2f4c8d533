"""The report as tables of text, which Markdown and the terminal then draw."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from optical_dfa.bench.bars import FIELD, G1, QUANTITIES, REST, Quantity
from optical_dfa.bench.jobs import SETTINGS
from optical_dfa.bench.report import MARKS, Report, Row, Verdict, quantity_of

BEYOND = "†"
LEGEND = (
    f"{MARKS['missed']} missed, {MARKS['met']} met, {MARKS['aim']} aim reached; {BEYOND} beyond this CPU: two products "
    "at the peak of vpdpbusd take longer than the bar allows"
)
NOTHING = "–"
SHOWN_FLOOR = 0.4
"""What the CPU allows is shown from this part of a bar on."""


@dataclass(frozen=True)
class Cell:
    """Text, and what it says of a bar."""

    text: str
    verdict: Verdict = "no bar"


@dataclass(frozen=True)
class Section:
    """One table."""

    title: str
    columns: tuple[str, ...]
    n_text: int
    """Columns at the left that hold text; the others hold numbers."""
    lines: list[list[Cell]]
    notes: list[str]


def sections(report: Report, spread: bool) -> list[Section]:
    """The tables of a report, those that have a row. `spread`: with the smallest and largest pair of each ratio."""
    groups = list(dict.fromkeys(quantity.group for quantity in QUANTITIES))
    found = (_section(report, group, spread) for group in groups)
    return [section for section in found if section.lines]


def number(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def facts(report: Report) -> list[tuple[str, str]]:
    """What was measured on, and how, in words."""
    machine, numerics, peak = report.machine, report.numerics, report.peak
    cores = ", ".join(f"{core or 'not known'} ({setting})" for setting, core in numerics.blas_core.items())
    caches = ", ".join(f"{level} {size}" for level, size in machine.caches.items())
    load = " … ".join(NOTHING if value is None else number(value) for value in report.load)
    memory = f", {number(machine.memory_gb)} GB" if machine.memory_gb else ""
    family = f" (family/model {machine.family_model})" if machine.family_model else ""
    rates = [
        f"{name} {number(rate)}"
        for name, rate in (("vpdpbusd", peak.vpdpbusd_512), ("fma 512", peak.fma_512), ("fma 256", peak.fma_256))
        if rate
    ]
    return [
        ("command", report.command),
        ("date, time taken", f"{report.date[:10]}, {number(report.seconds)} s"),
        ("CPU", f"{machine.cpu}{family}, {machine.cores} cores{memory}"),
        ("caches; features", f"{caches or NOTHING}; {', '.join(machine.features) or NOTHING}"),
        (
            "software",
            f"{machine.system}, Python {machine.python}, NumPy {numerics.numpy}, Numba {numerics.numba or NOTHING}",
        ),
        ("BLAS", f"{numerics.blas}; takes the CPU for: {cores}"),
        ("threads", f"{report.threads} (OPENBLAS_NUM_THREADS, OMP_NUM_THREADS, OPTICAL_DFA_THREADS)"),
        ("load before … after", load),
        ("peak of a core, GMAC/s", ", ".join(rates) or NOTHING),
    ]


def _section(report: Report, group: str, spread: bool) -> Section:
    rows = [row for row in report.rows if quantity_of(row).group == group]
    notes = list(dict.fromkeys(row.note for row in rows if row.note and row.value is not None))
    notes += _reasons(rows)
    if group == FIELD:
        notes.append("GMAC/s are those of the exact product, in brackets their part of the peak of vpdpbusd")
        notes += _floors(rows)
    lines = list(_lines(rows, group, spread))
    columns = ("", "job", *_HEADINGS.get(group, (*SETTINGS, "must", "aim")))
    if group == G1:
        columns = ("job", "inputs → pixels, batch", *SETTINGS)
    return Section(group, columns, 2, lines, notes)


_HEADINGS = {FIELD: (*SETTINGS, "must", "aim", "GMAC/s"), REST: ("measured", "must", "aim")}


def _floors(rows: list[Row]) -> list[str]:
    """What the CPU allows, for the jobs whose bar a faster kernel could reach."""
    floors: dict[str, list[str]] = {}
    for row in rows:
        if row.floor and row.quantity == "field-numba" and row.floor > SHOWN_FLOOR * (row.must or math.inf):
            floors.setdefault(row.job, []).append(f"{number(row.floor)} ({row.setting})")
    if not floors:
        return []
    shown = "; ".join(f"{job} {', '.join(values)}" for job, values in floors.items())
    return [f"least ratio that vpdpbusd allows here, two products at its peak: {shown}"]


def _reasons(rows: list[Row]) -> list[str]:
    """Why rows have no value, each reason once."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.value is None:
            reasons.setdefault(row.note, []).append(quantity_of(row).title)
    return [f"not measured: {', '.join(dict.fromkeys(titles))}: {reason}" for reason, titles in reasons.items()]


def _lines(rows: list[Row], group: str, spread: bool) -> Iterator[list[Cell]]:
    last = ""
    for quantity in QUANTITIES:
        mine = [row for row in rows if row.quantity == quantity.name]
        for job in dict.fromkeys(row.job for row in mine):
            by_setting = {row.setting: row for row in mine if row.job == job}
            some = next(iter(by_setting.values()))
            if group == G1:
                size = f"{some.n_in:,} → {some.n_pixels:,}, {some.batch}"
                yield [Cell(job), Cell(size), *(_value(by_setting.get(name), False) for name in SETTINGS)]
                continue
            line = [Cell("" if quantity.title == last else quantity.title), Cell(job)]
            last = quantity.title
            line += [_value(by_setting.get(name), spread) for name in (("any",) if group == REST else SETTINGS)]
            line += [Cell(_limits(quantity, by_setting, "must")), Cell(_limits(quantity, by_setting, "aim"))]
            if group == FIELD:
                line.append(_rate(by_setting))
            yield line


def _value(row: Row | None, spread: bool) -> Cell:
    if row is None or row.value is None:
        return Cell(NOTHING, "no bar" if row is None else row.verdict)
    beyond = BEYOND if row.floor and row.must and row.floor > row.must and row.verdict != "not judged" else ""
    text = f"{MARKS[row.verdict]}{beyond} {number(row.value)}".strip()
    if row.unit in ("s", "MB"):
        text += f" {row.unit}"
    elif spread and row.pairs:
        text += f" ({number(min(row.pairs))}–{number(max(row.pairs))})"
    if row.wall is not None and row.unit == "ratio":
        text += f", wall {number(row.wall)}"
    return Cell(text, row.verdict)


def _limits(quantity: Quantity, by_setting: dict[str, Row], which: str) -> str:
    values = {name: getattr(row, which) for name, row in by_setting.items()}
    shown = [NOTHING if value is None else number(value) for value in values.values()]
    if all(value == NOTHING for value in shown):
        return NOTHING
    unit = f" {quantity.unit}" if quantity.unit in ("s", "MB") else ""
    return (shown[0] if len(set(shown)) == 1 else "/".join(shown)) + unit


def _rate(by_setting: dict[str, Row]) -> Cell:
    """Of the faster of the settings, which differ by chance alone: BLAS has no part in it."""
    best = max(by_setting.values(), key=lambda row: row.gmacs or 0)
    if best.gmacs is None:
        return Cell(NOTHING)
    return Cell(number(best.gmacs) + (f" ({best.of_peak:.0%})" if best.of_peak else ""))
