"""The break-even as a figure: seconds of a step along each axis. matplotlib (extra `plot`) is loaded only here."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optical_dfa.estimate.analysis import on_axis
from optical_dfa.estimate.report import BreakEven, Case, Curves, Estimate
from optical_dfa.estimate.size import AXES
from optical_dfa.estimate.tables import title, where
from optical_dfa.figures import COLOURS, require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WORST: Case = "all lit"
_SHOWN: Case = "as displayed"

_BP, _OPTICAL_DFA, _DIGITAL, _OPTICS = COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[3]


def draw(estimate: Estimate, path: Path) -> None:
    """Write the figure as a PNG.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure  # optional, and slow to import
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(9.4, 8.4), layout="constrained")  # not pyplot: no global state, no display
    panels = list(figure.subplots(2, 2).flat)
    for axes, curves in zip(panels, estimate.curves, strict=True):
        _panel(axes, estimate, curves)
    # the first panel's, and one for what is dotted in all
    handles, labels = panels[0].get_legend_handles_labels()
    handles.append(Line2D([], [], color="0.3", linestyle=":"))
    handles.append(Line2D([], [], color="black", linewidth=0.9, dashes=(6, 3)))
    figure.legend(
        handles,
        [*labels, "extrapolated", "break-even of the backward passes"],
        loc="outside lower center",
        ncols=2,
        fontsize=9,
        frameon=False,
    )
    here = f"{estimate.machine.cpu}, {estimate.threads} thread{'s' * (estimate.threads > 1)}"
    figure.suptitle(
        f"Time of a training step: {title(estimate)}\n"
        f"measured on {here}; optics modelled, preset {estimate.optics.preset}",
        fontsize=11,
    )
    figure.savefig(path, dpi=100)


def _panel(axes: "Axes", estimate: Estimate, curves: Curves) -> None:
    axis = AXES[curves.axis]
    points = [point for point in estimate.points if on_axis(curves.axis, estimate.size, [point.size])]
    measured = [axis.of(point.size) for point in points]
    for seconds, found, colour, marker, label in (
        (curves.bp, [point.times.bp_backward for point in points], _BP, "o", "backpropagation, backward pass"),
        (curves.digital, [point.times.projection for point in points], _DIGITAL, "s", "digital projection"),
    ):
        inside = sum(value <= max(measured) for value in curves.values)
        axes.plot(curves.values[:inside], _ms(seconds[:inside]), color=colour, label=f"{label}: law")
        axes.plot(curves.values[inside - 1 :], _ms(seconds[inside - 1 :]), ":", color=colour)
        axes.plot(measured, _ms(found), marker, color=colour, markersize=5, label=f"{label}: measured")
    low, high = (_ms(curves.optical_dfa[case]) for case in (_SHOWN, _WORST))
    label = "DFA with optics, backward pass: as displayed … all lit"
    axes.fill_between(curves.values, low, high, color=_OPTICAL_DFA, alpha=0.5, linewidth=0, label=label)
    for case, dashes in ((_SHOWN, (4, 2)), (_WORST, (5, 1, 1, 1))):
        label = f"optical projection alone: {case}"
        axes.plot(curves.values, _ms(curves.optics[case]), color=_OPTICS, dashes=dashes, label=label)
    axes.axvline(axis.of(estimate.size), color="0.5", linewidth=0.9, label="this net")
    wins = [each for each in estimate.break_even if (each.axis, each.reference) == (curves.axis, "backward pass")]
    for each in wins:
        for first, last in each.spans:
            for end in {first, last} - {1, each.limit}:
                axes.axvline(end, color="black", linewidth=0.9, dashes=(6, 3))
    axes.set(xscale="log", yscale="log", xlabel=axis.label, ylabel="time of a step, ms")
    axes.xaxis.set_major_formatter(_short)
    axes.yaxis.set_major_formatter(_short)
    axes.set_title(_verdict(wins), fontsize=10)
    axes.grid(alpha=0.25)


def _ms(seconds: Sequence[float]) -> list[float]:
    return [1e3 * each for each in seconds]


def _short(value: float, _position: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def _verdict(found: Sequence[BreakEven]) -> str:
    """Where DFA with optics has the shorter backward pass, in two lines."""
    texts = {each.case: where(each) for each in found}
    if set(texts.values()) == {"nowhere"}:
        return f"{found[0].axis}: DFA with optics is faster than\nbackpropagation nowhere up to {found[0].limit:,}"
    both = ", ".join(f"{text} ({case})" for case, text in sorted(texts.items(), key=lambda pair: pair[0] == _WORST))
    return f"{found[0].axis}: DFA with optics is faster than backpropagation\n{both}"
