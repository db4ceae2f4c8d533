"""The report as one HTML file: text, tables, and the figures inside it. It loads nothing."""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from optical_dfa.config.yaml_marks import dump_yaml
from optical_dfa.study.file import Study
from optical_dfa.study.queue import Progress
from optical_dfa.study.report.conditions import Condition, Estimate, beside, references_of
from optical_dfa.study.report.html import Column, definitions, folded, table
from optical_dfa.study.tables import Tables

_SECTIONS = {
    "summary": "Summary",
    "figures": "Figures",
    "conditions": "Conditions",
    "cells": "Runs",
    "configurations": "Configurations",
    "provenance": "Provenance",
}


def page(
    study: Study,
    conditions: Sequence[Condition],
    found: Tables,
    progress: Progress,
    sentences: Sequence[str],
    figures: Sequence[tuple[str, str, bytes]],
    provenance: Mapping[str, str],
) -> str:
    """The whole page.

    Args:
        study: what was asked.
        conditions: with their results.
        found: tables.
        progress: where the study stands.
        sentences: of the summary.
        figures: name, caption and SVG of each.
        provenance: name → what it is.
    """
    bodies = {
        "summary": _summary(sentences, progress),
        "figures": "\n".join(_figure(*figure) for figure in figures),
        "conditions": _conditions(study, conditions),
        "cells": _cells(study, found, progress),
        "configurations": _configurations(study, conditions),
        "provenance": definitions(provenance),
    }
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in _SECTIONS.items())
    sections = "\n".join(
        f'<section id="{name}"><h2>{title}</h2>\n{bodies[name]}\n</section>' for name, title in _SECTIONS.items()
    )
    files = resources.files("optical_dfa.study.report")
    style, script = (files.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    title, question = escape(study.config.title), escape(study.config.question)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{f'<p class="question">{question}</p>' if question else ""}
<nav>{links}</nav>
{sections}
</main>
<script>
{script}</script>
</body>
</html>
"""


def _summary(sentences: Sequence[str], progress: Progress) -> str:
    warning = ""
    if progress.open:
        warning = f'<p class="warning">{progress.open} of {progress.total} runs are still to be done.</p>'
    if progress.failed:
        warning += f'<p class="warning">{len(progress.failed)} runs failed; the table of runs says why.</p>'
    return warning + "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def _figure(name: str, caption: str, svg: bytes) -> str:
    source = base64.b64encode(svg).decode()
    return (
        f'<figure id="{name}"><img alt="{escape(caption)}" src="data:image/svg+xml;base64,{source}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _conditions(study: Study, conditions: Sequence[Condition]) -> str:
    factors, references = list(study.config.factors), references_of(conditions)
    columns = [
        Column("method", is_text=True),
        *_factor_columns(study, conditions),
        Column("runs"),
        Column("test accuracy, %", percent=True),
        Column("std, %", percent=True),
        *(Column(f"beside {reference.method}, points", percent=True) for reference in references),
        Column("SNR, dB"),
        Column("cos encoding"),
        Column("cos field"),
        Column("cos expected"),
        Column("alignment"),
        Column("saturated, %", percent=True),
        Column("frames"),
    ]
    rows = [_condition_row(condition, factors, references) for condition in conditions]
    note = (
        "<p>Means over seeds, ± half of the 95 % interval; click a heading to sort. Differences are paired by "
        "seed. cos expected: cos encoding / "
        "√(1 + 1/SNR), to be held against cos field, the measured cosine between the field and the exact projection of "
        "the unencoded error. SNR, cosines and alignment are those after the last epoch.</p>"
    )
    return note + table(columns, rows, "table-conditions")


def _factor_columns(study: Study, conditions: Sequence[Condition]) -> list[Column]:
    """A factor whose levels are text is aligned as text."""

    def is_text(name: str) -> bool:
        return any(isinstance(condition.levels.get(name), str) for condition in conditions)

    return [Column(name, is_text=is_text(name)) for name in study.config.factors]


def _condition_row(condition: Condition, factors: Sequence[str], references: Sequence[Condition]) -> list[Any]:
    accuracy, snr = condition.estimate("test_accuracy"), condition.estimate("snr_db")
    encoding, frames = condition.estimate("encoding_cosine"), condition.estimate("frames")
    accuracies = [result["test_accuracy"] for result in condition.results.values()]
    mean = accuracy.mean
    std = (
        math.sqrt(sum((x - mean) ** 2 for x in accuracies) / (len(accuracies) - 1)) if len(accuracies) > 1 else math.nan
    )
    expected = encoding.mean / math.sqrt(1 + 10 ** (-snr.mean / 10)) if math.isfinite(snr.mean) else encoding.mean
    return [
        condition.method,
        *(_level(condition.levels, name) for name in factors),
        (len(condition.results), f"{len(condition.results)} of {condition.n_cells}"),
        (mean, accuracy.percent().removesuffix(" %")),
        std,
        *(_difference(condition, reference) for reference in references),
        (snr.mean, _with_interval(snr, 1)),
        (encoding.mean, _with_interval(encoding, 3)),
        (_of(condition, "feedback_cosine").mean, _with_interval(_of(condition, "feedback_cosine"), 3)),
        (expected, "–" if math.isnan(expected) else f"{expected:.3f}"),
        (_of(condition, "alignment").mean, _with_interval(_of(condition, "alignment"), 3)),
        condition.estimate("saturated").mean,
        (frames.mean, f"{frames.mean:,.0f}" if frames.n else "–"),
    ]


def _difference(condition: Condition, reference: Condition) -> Any:
    difference = beside(condition, reference)
    if condition is reference or math.isnan(difference.mean):
        return None
    interval = "" if math.isnan(difference.ci) else f" ± {100 * difference.ci:.2f}"
    return difference.mean, f"{100 * difference.mean:+.2f}{interval}".replace("-", "\N{MINUS SIGN}")


def _of(condition: Condition, metric: str) -> Estimate:
    return condition.estimate(metric)


def _with_interval(value: Estimate, digits: int) -> str:
    if math.isnan(value.mean):
        return "–"
    if value.mean == math.inf:
        return "exact"
    mean = round(value.mean, digits) + 0.0  # no -0.0
    return f"{mean:.{digits}f}" + ("" if math.isnan(value.ci) else f" ± {value.ci:.{digits}f}")


def _level(levels: Mapping[str, Any], name: str) -> Any:
    from optical_dfa.study.tables import text

    if name not in levels:
        return None
    value = levels[name]
    return (value if isinstance(value, int | float) else text(value), text(value))


def _cells(study: Study, found: Tables, progress: Progress) -> str:
    names = ["test_accuracy", "train_loss", "alignment", "feedback_cosine", "snr_db"]
    columns = [
        Column("run", is_text=True),
        Column("state", is_text=True),
        Column("method", is_text=True),
        *(Column(name, is_text=str(found.cells[name].dtype) != "float64") for name in study.config.factors),
        Column("seed"),
        *(Column(name.replace("_", " "), percent=name == "test_accuracy") for name in names),
        Column("failure", is_text=True),
    ]
    rows = []
    for record in found.cells.to_dict("records"):
        factors = [_missing(record[name]) for name in study.config.factors]
        metrics = [*(record[name] for name in names[:-1]), _decibels(record["snr_db"])]
        rows.append(
            [record["cell"], record["state"], record["method"], *factors, record["seed"], *metrics,
             progress.failed.get(record["cell"])]
        )  # fmt: skip
    return (
        "<p>Every run, its key, and its numbers after the last epoch; accuracy in percent. The same, and each epoch, "
        "are in <code>cells</code> and <code>epochs</code>, Parquet and CSV, beside this page.</p>"
        + table(columns, rows, "table-cells")
    )


def _decibels(snr_db: float) -> Any:
    return (snr_db, f"{round(snr_db, 1) + 0.0:.1f}") if math.isfinite(snr_db) else snr_db


def _missing(value: Any) -> Any:
    return None if value is None or value != value else value


def _configurations(study: Study, conditions: Sequence[Condition]) -> str:
    parts = [folded(f"The study: {study.path.name}", study.text)]
    if study.tuned:
        parts.append(folded(f"Found by the search: {study.config.tuned}", dump_yaml(dict(study.tuned))))
    parts.append("<p>The exact configuration of each condition, every default written out; seed: the first.</p>")
    parts += [folded(condition.name, condition.config.to_yaml()) for condition in conditions]
    return "\n".join(parts)
