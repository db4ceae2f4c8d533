"""The figures of a report. matplotlib is loaded only here."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from optical_dfa.figures import COLOURS, DASHES
from optical_dfa.study.models import Scalar, StudyConfig
from optical_dfa.study.report.conditions import Condition, Estimate, varying
from optical_dfa.study.report.speckle import frame
from optical_dfa.study.tables import text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

MARKERS = "osD^vP*X"

LOG_SPAN = 20
"""Positive numbers that span this factor go on a logarithmic axis."""

MOST_CURVES = 8

STRETCHED = 15
"""Accuracies that span more points than this, up to above 90 %, go on an axis that is stretched towards 100 %, else the
good ones, which are what is compared, coincide."""

ACCURACY_TICKS = (0, 50, 80, 90, 95, 98, 99, 100)


@dataclass(frozen=True)
class Drawn:
    """A figure of the report."""

    name: str
    """Of its files."""
    caption: str
    figure: Figure = field(repr=False)


def draw_all(study: StudyConfig, conditions: Sequence[Condition]) -> Iterator[Drawn]:
    """Every figure that the results give, in the order of the report."""
    done = [condition for condition in conditions if condition.results]
    for number, factor in enumerate(study.factors, start=1):
        if any(factor in condition.levels for condition in done):
            drawn = _factor if _numbers(_values(study, factor)) else _named
            yield drawn(study, done, factor, number)
    if study.design == "grid":
        for one, other in itertools.combinations(study.factors, 2):
            having = [condition for condition in done if {one, other} <= condition.levels.keys()]
            for method in dict.fromkeys(condition.method for condition in having):
                yield _heat_map(study, [c for c in having if c.method == method], one, other, method)
    if any(condition.has_optics for condition in done):
        yield _against_snr(done)
        yield _speckle([condition for condition in done if condition.has_optics])
    if done:
        yield _learning(study, done)


def _named(study: StudyConfig, done: Sequence[Condition], factor: str, number: int) -> Drawn:
    """A factor whose levels have names: one row each, in the order of the file, and no lines between them."""
    chosen = varying(study, done, factor)
    levels, by = _values(study, factor), _other(study, factor)
    curves = _curves(study, chosen, by)
    figure, axes = _one((8.2, 1.7 + 0.42 * len(levels)))
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
    _accuracies(axes.xaxis, chosen)
    axes.set_yticks(range(len(levels)), [text(level) for level in levels])
    axes.set_ylim(len(levels) - 0.4, -0.6)
    axes.grid(alpha=0.3)
    return _finished(study, figure, axes, factor, number, by)


def _factor(study: StudyConfig, done: Sequence[Condition], factor: str, number: int) -> Drawn:
    figure, axes = _one((7.6, 4.6))
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
    _accuracies(axes.yaxis, chosen)
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
        f"factor-{number}-{_slug(factor)}",
        f"Test accuracy against {study.factors[factor].label or factor}: mean over seeds, with its 95 % interval."
        f"{averaged} Dashed lines: methods that this factor does not touch.",
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
    greys = ("black", "0.35", "0.5", "0.62")
    dashes: tuple[tuple[int, ...], ...] = ((5, 2), (1, 1.5), (5, 2, 1, 2), (2, 2))  # type: ignore[assignment]
    for index, condition in enumerate(condition for condition in plain if not condition.levels):
        accuracy = condition.estimate("test_accuracy")
        colour = greys[index % len(greys)]
        line(
            100 * accuracy.mean, color=colour, linewidth=1.3, dashes=dashes[index % len(dashes)], label=condition.method
        )
        if accuracy.n > 1:
            low, high = 100 * (accuracy.mean - accuracy.ci), 100 * (accuracy.mean + accuracy.ci)
            span(low, high, color=colour, alpha=0.07, linewidth=0)


def _heat_map(study: StudyConfig, mine: Sequence[Condition], one: str, other: str, method: str) -> Drawn:
    columns, rows = ([level.value for level in study.factors[name].resolved()] for name in (one, other))
    values = np.full((len(rows), len(columns)), np.nan)
    for (i, row), (j, column) in itertools.product(enumerate(rows), enumerate(columns)):
        at = [c for c in mine if (repr(c.levels[one]), repr(c.levels[other])) == (repr(column), repr(row))]
        if at:
            values[i, j] = _pooled(at).mean
    figure, axes = _one((1.6 + 0.85 * max(4, len(columns)), 1.6 + 0.55 * max(4, len(rows))))
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
        f"map-{_slug(method)}-{_slug(one)}-{_slug(other)}",
        f"{method}: test accuracy in percent, mean over seeds{averaged}.",
        figure,
    )


def _against_snr(done: Sequence[Condition]) -> Drawn:
    figure = Figure(figsize=(10.4, 8.2), layout="constrained")
    snr, field = ("snr_db", "measured SNR (dB)"), ("feedback_cosine", "cosine of the field")
    alignment, accuracy = ("alignment", "gradient alignment"), ("test_accuracy", "test accuracy (%)")
    panels = ((snr, field), (snr, alignment), (snr, accuracy), (field, accuracy))
    axes = figure.subplots(2, 2).flat
    optical = [c for c in done if c.has_optics and not c.is_dark and math.isfinite(c.estimate("snr_db").mean)]
    methods = list(dict.fromkeys(condition.method for condition in optical))
    for panel, ((across, xlabel), (metric, ylabel)) in zip(axes, panels, strict=True):
        unit = 100 if metric == "test_accuracy" else 1
        for index, method in enumerate(methods):
            mine = [condition for condition in optical if condition.method == method]
            x, y = ([c.estimate(name) for c in mine] for name in (across, metric))
            panel.errorbar(
                [e.mean for e in x],
                [unit * e.mean for e in y],
                xerr=np.nan_to_num([e.ci for e in x]),
                yerr=np.nan_to_num([unit * e.ci for e in y]),
                fmt=MARKERS[index % len(MARKERS)],
                markersize=4.5,
                color=COLOURS[index % len(COLOURS)],
                elinewidth=0.8,
                label=f"{method}, one condition each",
            )
        panel.set(xlabel=xlabel, ylabel=ylabel)
        panel.grid(alpha=0.3)
        panel.set_ylim(*np.clip(panel.get_ylim(), -1.05, 100.5 if unit == 100 else 1.05))
    if optical:
        _theory(axes[0], optical)
        _accuracies(axes[2].yaxis, optical)
        _accuracies(axes[3].yaxis, optical)
    plain = [c for c in done if not c.has_optics and not c.levels]
    for panel, metric, unit in (
        (axes[1], "alignment", 1),
        (axes[2], "test_accuracy", 100),
        (axes[3], "test_accuracy", 100),
    ):
        for index, condition in enumerate(plain):
            value = condition.estimate(metric).mean
            if math.isfinite(value):
                style = ((5, 2), (1, 1.5), (5, 2, 1, 2), (2, 2))[index % 4]
                grey = ("black", "0.35", "0.5", "0.62")[index % 4]
                panel.axhline(unit * value, color=grey, dashes=style, linewidth=1.3, label=condition.method)
    labelled = {
        label: handle for panel in axes for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        labelled.values(), labelled.keys(), loc="outside lower center", ncols=min(4, len(labelled)), fontsize=9,
        frameon=False,
    )  # fmt: skip
    figure.suptitle("Feedback and learning against noise", fontsize=12)
    return Drawn(
        "against-snr",
        "After the last epoch; bars: 95 % intervals. SNR: of the projection of the encoded errors, measured; an error "
        "of gain counts as noise. Cosine of the field: between what the device gives and the exact projection of the "
        "unencoded error; the line is what encoding and noise leave of it, cos(encoding) / √(1 + 1/SNR). Points above "
        "it have a wrong gain, which an optimiser such as Adam hardly notices. Gradient alignment: cosine between the "
        "gradient of the hidden weights and that of backpropagation. Benches that gave nothing but zeros are left out.",
        figure,
    )


def _theory(axes: "Axes", optical: Sequence[Condition]) -> None:
    snr = np.array([condition.estimate("snr_db").mean for condition in optical])
    cosines = np.array([condition.estimate("encoding_cosine").mean for condition in optical])
    grid = np.linspace(snr.min() - 1, snr.max() + 1, 200)
    low, high = (limit / np.sqrt(1 + 10 ** (-grid / 10)) for limit in (np.nanmin(cosines), np.nanmax(cosines)))
    axes.fill_between(grid, low, high, color="0.75", linewidth=0, alpha=0.6)
    axes.plot(grid, (low + high) / 2, color="black", linewidth=1.2, label="expected of encoding and noise")


def _speckle(optical: Sequence[Condition]) -> Drawn:
    optical = list({_bench(condition): condition for condition in reversed(optical)}.values())[::-1]
    wanted = min(12, len(optical))
    order = sorted(optical, key=lambda condition: -_or(condition.estimate("snr_db").mean, -math.inf))
    picked = [order[round(index * (len(order) - 1) / max(1, wanted - 1))] for index in range(wanted)]
    picked = list({condition.name: condition for condition in picked}.values())
    columns = min(4, len(picked))
    rows = math.ceil(len(picked) / columns)
    figure = Figure(figsize=(2.75 * columns, 3.1 * rows + 0.5), layout="constrained")
    for number, condition in enumerate(picked, start=1):
        axes = figure.add_subplot(rows, columns, number)
        image, unit = frame(condition.config)
        top = max(float(np.percentile(image, 99.5)), 1.0)
        axes.imshow(image, cmap="inferno", vmin=0, vmax=top, interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        levels = ", ".join(f"{name} {text(value)}" for name, value in condition.levels.items()) or condition.method
        snr, saturated = condition.estimate("snr_db").mean, condition.estimate("saturated").mean
        axes.set_title(_wrapped(levels, 30), fontsize=8.5)
        axes.set_xlabel(
            f"0 … {top:.0f} {unit}, SNR {snr + 0.0:.1f} dB, {100 * saturated:.2g} % saturated", fontsize=8.5
        )
    figure.suptitle("A camera frame of each bench, from the best SNR to the worst", fontsize=12)
    return Drawn(
        "speckle",
        "A camera frame, 48 by 48 pixels, one of ten features ON and the reference arm in its first phase, each "
        "from black to the brightest pixels. Below: what these are in digital numbers (DN), SNR of the projection and "
        f"fraction of saturated pixel readings, measured. {len(picked)} of {len(optical)} benches.",
        figure,
    )


def _bench(condition: Condition) -> str:
    """What tells the bench of a condition from others, whatever is projected by it."""
    return repr({key: value for key, value in condition.config.device.items() if key not in ("fidelity", "backend")})


def _learning(study: StudyConfig, done: Sequence[Condition]) -> Drawn:
    figure, (accuracy, alignment) = _two((10.4, 4.4))
    plain = [condition for condition in done if not condition.levels]
    varied = sorted((c for c in done if c.levels), key=lambda c: -_or(c.estimate("test_accuracy").mean, 0))
    room = max(2, MOST_CURVES - len(plain))
    picked = [varied[round(i * (len(varied) - 1) / max(1, room - 1))] for i in range(min(room, len(varied)))]
    picked = [*plain, *{condition.name: condition for condition in picked}.values()]
    palette = (*COLOURS, "black", "0.55")
    for index, condition in enumerate(picked):
        colour, dashes = palette[index % len(palette)], DASHES[index % len(DASHES)]
        for axes, metric, unit in ((accuracy, "test_accuracy", 100), (alignment, "alignment", 1)):
            curve = condition.curve(metric)
            means = unit * np.array([estimate.mean for estimate in curve])
            if not np.isfinite(means).any():
                continue
            half = unit * np.nan_to_num([estimate.ci for estimate in curve])
            epochs = np.arange(1, len(curve) + 1)
            axes.plot(epochs, means, color=colour, dashes=dashes, linewidth=1.6, label=condition.name)
            axes.fill_between(epochs, means - half, means + half, color=colour, alpha=0.15, linewidth=0)
    accuracy.set(xlabel="epoch", ylabel="test accuracy (%)", title="test accuracy")
    alignment.set(xlabel="epoch", ylabel="cosine with backpropagation's gradient", title="gradient alignment")
    for axes in (accuracy, alignment):
        axes.grid(alpha=0.3)
        axes.set_ylim(*np.clip(axes.get_ylim(), *((0, 100.5) if axes is accuracy else (-1.05, 1.05))))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = accuracy.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    figure.suptitle("Learning curves", fontsize=12)
    shown = "" if len(picked) == len(done) else f" {len(picked)} of {len(done)} conditions, from best to worst."
    return Drawn("learning", f"Mean over seeds, band: 95 % interval.{shown}", figure)


def _accuracies(axis: "Axis", conditions: Sequence[Condition]) -> None:
    """Label an axis of accuracies; limit it to what can be, and stretch it where they lie far apart."""
    means = [100 * condition.estimate("test_accuracy").mean for condition in conditions]
    axes, name = axis.axes, axis.axis_name  # type: ignore[attr-defined]
    low, high = axis.get_view_interval()
    stretched = max(means) > 90 and max(means) - min(means) > STRETCHED
    # where the axis is not stretched, the interval of few seeds may leave no room for all else
    low, high = max(low, 0.0 if stretched else min(means) - 10), min(high, max(means) + 5, 100.0)
    if stretched:
        stretch = (lambda percent: -np.log10(101 - np.clip(percent, 0, 100)), lambda at: 101 - 10.0**-at)
        getattr(axes, f"set_{name}scale")("function", functions=stretch)
        axis.set_ticks([tick for tick in ACCURACY_TICKS if low <= tick <= high])
    getattr(axes, f"set_{name}lim")(low, high)
    axis.set_label_text("test accuracy (%)")


def _one(size: tuple[float, float]) -> tuple[Figure, "Axes"]:
    figure = Figure(figsize=size, layout="constrained")  # not pyplot: no global state, no display
    return figure, figure.subplots()


def _two(size: tuple[float, float]) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(1, 2)


def _shades(count: int) -> list[Any]:
    """Dark to light, told apart by brightness alone."""
    from matplotlib import colormaps

    return [colormaps["viridis"](position) for position in np.linspace(0.0, 0.85, max(2, count))]


def _slug(name: str) -> str:
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split())


def _or(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise


def _wrapped(words: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(words, width))
