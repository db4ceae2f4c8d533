"""Alignment against training steps, as a figure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optical_dfa.alignment.report import Alignment
from optical_dfa.figures import COLOURS, require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curves = Mapping[str, Sequence[float | None]]


def draw_alignment(history: Sequence[Alignment], title: str, path: Path) -> None:
    """Draw cosines of signals, gradients, weights and of the projection against the step.

    Args:
        history: measurements in order, one or more.
        title: of the figure.
        path: file to write.

    Raises:
        optical_dfa.run_errors.MissingExtra: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure  # optional, and slow to import

    last = history[-1]
    panels: list[tuple[str, Curves, Sequence[float | None]]] = [
        (
            "signal at each feedback point, cos(δ, δ*)",
            _each(history, last.points, lambda one, name: one.points[name].delta if name in one.points else None),
            [one.delta for one in history],
        ),
        (
            "gradient of each module, cos(g, g*)",
            _each(history, last.layers, lambda one, name: one.layers[name].cosine if name in one.layers else None),
            [one.gradient.cosine for one in history],
        ),
        (
            "weights with their feedback matrices",
            _each(history, last.weights, lambda one, name: one.weights.get(name)),
            [one.weight for one in history],
        ),
    ]
    figure = Figure(figsize=(10.4, 7.6), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True)
    steps = [one.step for one in history]
    for axes, (name, curves, together) in zip(grid.flat, panels, strict=False):
        _panel(axes, steps, curves, together)
        axes.set_title(name, fontsize=10)
    _projection(grid[1, 1], steps, history)
    for axes in grid.flat:
        axes.grid(alpha=0.3)
        axes.set_ylabel("cosine")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, ncols=2)
    for axes in grid[1]:
        axes.set_xlabel("training step")
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _each(
    history: Sequence[Alignment], names: Iterable[str], value: Callable[[Alignment, str], float | None]
) -> Curves:
    return {name: [value(one, name) for one in history] for name in names}


def _panel(axes: "Axes", steps: Sequence[int], curves: Curves, together: Sequence[float | None]) -> None:
    """A line for each name, all of them together in black; where there are many, colours from input to output."""
    names = list(curves)
    many = len(names) > len(COLOURS)
    if many:
        from matplotlib import colormaps

        colours: list[Any] = [colormaps["cividis"](number / (len(names) - 1)) for number in range(len(names))]
    else:
        colours = list(COLOURS)
    for number, (name, colour) in enumerate(zip(names, colours, strict=False)):
        label = name if not many or number in (0, len(names) - 1) else None
        axes.plot(steps, _numbers(curves[name]), color=colour, linewidth=1.6, label=label, marker=_marker(steps))
    if names:
        axes.plot(steps, _numbers(together), color="black", linewidth=2, dashes=(4, 2), label="all together")
    else:
        axes.text(0.5, 0.5, "nothing to measure in this net", transform=axes.transAxes, ha="center", color="0.4")
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set_ylim(top=1.05)


def _projection(axes: "Axes", steps: Sequence[int], history: Sequence[Alignment]) -> None:
    axes.set_title("the projection with the exact one, T·e", fontsize=10)
    found = [one.projection for one in history]
    if not any(found):
        axes.text(0.5, 0.5, "the matrix of the device is not known", transform=axes.transAxes, ha="center", color="0.4")
        return
    for field, label, colour, dashes in (
        ("ternary", "ternarisation alone", COLOURS[1], ()),
        ("noise", "noise alone", COLOURS[0], ()),
        ("optical", "both", COLOURS[2], (4, 2)),
    ):
        values = [None if one is None else getattr(one, field) for one in found]
        axes.plot(steps, _numbers(values), color=colour, linewidth=1.8, label=label, dashes=dashes)
    expected = _numbers([None if one is None else one.expected_noise for one in found])
    axes.plot(
        steps, expected, color="black", linestyle="none", marker="x", markersize=4, label="noise, expected of the SNR"
    )
    axes.set_ylim(top=1.01)


def _marker(steps: Sequence[int]) -> str | None:
    return "o" if len(steps) == 1 else None


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]
