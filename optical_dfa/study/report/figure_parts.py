"""What the figures of a report share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from optical_dfa.study.report.conditions import Condition

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

MARKERS = "osD^vP*X"

GREYS = (("black", (5, 2)), ("0.35", (1, 1.5)), ("0.5", (5, 2, 1, 2)), ("0.62", (2, 2)))
"""Colours and dashes of methods that are only compared with."""

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


def one_panel(size: tuple[float, float]) -> tuple[Figure, "Axes"]:
    """Figure of that many inches, and its axes."""
    figure = Figure(figsize=size, layout="constrained")  # not pyplot: no global state, no display
    return figure, figure.subplots()


def accuracy_axis(axis: "Axis", conditions: Sequence[Condition]) -> None:
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


def slug(name: str) -> str:
    """As part of a file's name."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split())


def finite_or(value: float, otherwise: float) -> float:
    """The value, if it is finite."""
    return value if math.isfinite(value) else otherwise
