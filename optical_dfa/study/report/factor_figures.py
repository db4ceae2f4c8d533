"""Figures of factors: accuracy against one of them, and a map of two."""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from optical_dfa.figures import COLOURS
from optical_dfa.study.models import Scalar, StudyConfig
from optical_dfa.study.report.conditions import Condition, Estimate, varying
from optical_dfa.study.report.figure_parts import GREYS, MARKERS, Drawn, accuracy_axis, one_panel, slug
from optical_dfa.study.tables import text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOG_SPAN = 20
"""Positive numbers that span this factor go on a logarithmic axis."""


def against_factor(study: StudyConfig, done: Sequence[Condition], factor: str, number: int) -> Drawn:
    """Test accuracy against a factor: along an axis if its levels are numbers, else a row for each."""
    draw = _along_axis if _numbers(_values(study, factor)) else _in_rows
    return draw(study, done, factor, number)


def _in_rows(study: StudyConfig, done: Sequence[Condition], factor: str, number: int) -> Drawn:
    """A factor whose levels have names: one row each, in the order of the file, and no lines between them."""
    chosen = varying(study, done, factor)
    levels, by = _values(study, factor), _other(study, factor)
    curves = _curves(study, chosen, by)
    figure, axes = one_panel((8.2, 1.7 + 0.42 * len(levels)))
    for index, (label, mine) in enumerate(curves):
        at = {row: [c for c in mine if repr(c.levels[factor]) == repr(level)] for row, level in enumerate(levels)}
        found = {row: _pooled(same) for row, same in at.items() if same}
        shift = 0.5 * (index / max(1, len(curves) - 1) - 0.5) if len(curves) > 1 else 0.0
        axes.errorbar(
            [estimate.mean for estimate in found.values()],
            [row + shift for row in found],
            xerr=np.nan_to_num([estimate.ci for estimate in found.values()]),
            fmt=MARKERS[index % len(MARKERS)],
            markersize=6,
            capsize=3,
            color=COLOURS[index % len(COLOURS)],
            label=label,
        )
    _references(axes, [condition for condition in done if factor not in condition.levels], across=False)
    accuracy_axis(axes.xaxis, chosen)
    axes.set_yticks(range(len(levels)), [text(level) for level in levels])
    axes.set_ylim(len(levels) - 0.4, -0.6)
    axes.grid(alpha=0.3)
    return _finished(study, figure, axes, factor, number, by)


def _along_axis(study: StudyConfig, done: Sequence[Condition], factor: str, number: int) -> Drawn:
    figure, axes = one_panel((7.6, 4.6))
    chosen = varying(study, done, factor)
    by = _other(study, factor)
    positions = _axis(axes, study, factor)
    curves = _curves(study, chosen, by)
    shades = _shades(len(curves)) if by and len(dict.fromkeys(c.method for c in chosen)) == 1 else COLOURS
    for index, (label, mine) in enumerate(curves):
        points = {}
        for level in {repr(condition.levels[factor]): condition.levels[factor] for condition in mine}.values():
            at = [condition for condition in mine if repr(condition.levels[factor]) == repr(level)]
            points[positions[repr(level)]] = _pooled(at)
        xs = sorted(points)
        _line(axes, xs, [points[x] for x in xs], shades[index % len(shades)], MARKERS[index % len(MARKERS)], label)
    _references(axes, [condition for condition in done if factor not in condition.levels])
    accuracy_axis(axes.yaxis, chosen)
    return _finished(study, figure, axes, factor, number, by)


def _finished(study: StudyConfig, figure: Figure, axes: "Axes", factor: str, number: int, by: str | None) -> Drawn:
    """Title, legend and caption of a figure of one factor."""
    others = _others(study, factor)
    handles, labels = axes.get_legend_handles_labels()
    title = study.factors[by].label or by if by else None
    figure.legend(handles, labels, loc="outside right upper", fontsize=9, frameon=False, title=title, title_fontsize=9)
    axes.set_title(f"Test accuracy against {study.factors[factor].label or factor}", fontsize=12)
    averaged = f" Mean over {' and '.join(others)}." if len(others) > 1 else ""
    return Drawn(
        f"factor-{number}-{slug(factor)}",
        f"Test accuracy against {study.factors[factor].label or factor}: mean over seeds, with its 95 % interval."
        f"{averaged} Dashed lines: methods that this factor does not touch.",
        figure,
    )


def heat_map(study: StudyConfig, mine: Sequence[Condition], one: str, other: str, method: str) -> Drawn:
    """Test accuracy of a method by the levels of two factors."""
    columns, rows = ([level.value for level in study.factors[name].resolved()] for name in (one, other))
    values = np.full((len(rows), len(columns)), np.nan)
    for (i, row), (j, column) in itertools.product(enumerate(rows), enumerate(columns)):
        at = [c for c in mine if (repr(c.levels[one]), repr(c.levels[other])) == (repr(column), repr(row))]
        if at:
            values[i, j] = _pooled(at).mean
    figure, axes = one_panel((1.6 + 0.85 * max(4, len(columns)), 1.6 + 0.55 * max(4, len(rows))))
    image = axes.imshow(values, cmap="cividis", aspect="auto")
    low, high = np.nanmin(values), np.nanmax(values)
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = (value - low) / (high - low or 1) < 0.55
            axes.text(j, i, f"{value:.1f}", ha="center", va="center", color="white" if dark else "black", fontsize=9)
    axes.set_xticks(range(len(columns)), [text(level) for level in columns])
    axes.set_yticks(range(len(rows)), [text(level) for level in rows])
    axes.set_xlabel(study.factors[one].label or one)
    axes.set_ylabel(study.factors[other].label or other)
    figure.colorbar(image, ax=axes, label="test accuracy (%)")
    axes.set_title(f"{method}: test accuracy (%)", fontsize=12)
    rest = [name for name in study.factors if name not in (one, other)]
    averaged = f", and over {' and '.join(rest)}" if rest else ""
    return Drawn(
        f"map-{slug(method)}-{slug(one)}-{slug(other)}",
        f"{method}: test accuracy in percent, mean over seeds{averaged}.",
        figure,
    )


def _curves(study: StudyConfig, chosen: Sequence[Condition], by: str | None) -> list[tuple[str, list[Condition]]]:
    """Label and conditions of each curve: a method, or a method with one level of the other factor."""
    methods = list(dict.fromkeys(condition.method for condition in chosen))
    if by is None:
        return [(method, [c for c in chosen if c.method == method]) for method in methods]
    curves = []
    for method in methods:
        for level in study.factors[by].resolved():
            mine = [c for c in chosen if c.method == method and repr(c.levels.get(by)) == repr(level.value)]
            if mine:
                label = text(level.value) if len(methods) == 1 else f"{method}, {text(level.value)}"
                curves.append((label, mine))
    return curves


def _values(study: StudyConfig, factor: str) -> list[Scalar]:
    return [level.value for level in study.factors[factor].resolved()]


def _others(study: StudyConfig, factor: str) -> list[str]:
    """The factors that a figure of this one averages over or tells apart."""
    return [name for name in study.factors if name != factor] if study.design == "grid" else []


def _other(study: StudyConfig, factor: str) -> str | None:
    """The factor whose levels are told apart: the only other one."""
    others = _others(study, factor)
    return others[0] if len(others) == 1 else None


def _pooled(conditions: Sequence[Condition]) -> Estimate:
    """Accuracy, percent: of one condition, or the mean over several, seed by seed."""
    seeds = set.intersection(*(set(condition.results) for condition in conditions))
    values = [
        100 * math.fsum(condition.results[seed]["test_accuracy"] for condition in conditions) / len(conditions)
        for seed in sorted(seeds)
    ]
    return Estimate.of(values)


def _axis(axes: "Axes", study: StudyConfig, factor: str) -> dict[str, float]:
    """Label and scale the x axis; gives where each level stands."""
    settings = study.factors[factor]
    levels = [level.value for level in settings.resolved()]
    axes.set_xlabel(settings.label or factor)
    axes.grid(alpha=0.3)
    numbers = _numbers(levels)
    assert numbers is not None
    scale = settings.scale or ("log" if min(numbers) > 0 and max(numbers) >= LOG_SPAN * min(numbers) else "linear")
    if scale == "log":
        axes.set_xscale("log")
        axes.set_xticks(numbers, [text(level) for level in levels])
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif len(levels) <= 10:
        axes.set_xticks(numbers, [text(level) for level in levels])
    return {repr(level): number for level, number in zip(levels, numbers, strict=True)}


def _numbers(levels: Sequence[Scalar]) -> list[float] | None:
    if all(isinstance(level, int | float) and not isinstance(level, bool) and math.isfinite(level) for level in levels):
        return [float(level) for level in levels]  # type: ignore[arg-type]
    return None


def _line(
    axes: "Axes", xs: Sequence[float], estimates: Sequence[Estimate], colour: Any, marker: str, label: str
) -> None:
    means = np.array([estimate.mean for estimate in estimates])
    half = np.nan_to_num(np.array([estimate.ci for estimate in estimates]))
    axes.plot(xs, means, color=colour, marker=marker, markersize=5, linewidth=1.6, label=label)
    axes.fill_between(xs, means - half, means + half, color=colour, alpha=0.18, linewidth=0)


def _references(axes: "Axes", plain: Sequence[Condition], across: bool = True) -> None:
    """Methods that a factor does not touch, as lines across, or upright where accuracy is the x axis."""
    line, span = (axes.axhline, axes.axhspan) if across else (axes.axvline, axes.axvspan)
    for index, condition in enumerate(condition for condition in plain if not condition.levels):
        accuracy = condition.estimate("test_accuracy")
        colour, dashes = GREYS[index % len(GREYS)]
        line(100 * accuracy.mean, color=colour, linewidth=1.3, dashes=dashes, label=condition.method)
        if accuracy.n > 1:
            low, high = 100 * (accuracy.mean - accuracy.ci), 100 * (accuracy.mean + accuracy.ci)
            span(low, high, color=colour, alpha=0.07, linewidth=0)


def _shades(count: int) -> list[Any]:
    """Dark to light, told apart by brightness alone."""
    return [colormaps["viridis"](position) for position in np.linspace(0.0, 0.85, max(2, count))]
