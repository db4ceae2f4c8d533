"""Figures of what the bench does: learning against its noise, and its camera frames."""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from optical_dfa.figures import COLOURS
from optical_dfa.study.report.conditions import Condition
from optical_dfa.study.report.figure_parts import GREYS, MARKERS, Drawn, accuracy_axis, finite_or
from optical_dfa.study.report.speckle import frame
from optical_dfa.study.tables import text

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def against_snr(done: Sequence[Condition]) -> Drawn:
    """Fidelity of the field, gradient alignment and accuracy against the SNR; accuracy against fidelity."""
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
        accuracy_axis(axes[2].yaxis, optical)
        accuracy_axis(axes[3].yaxis, optical)
    plain = [c for c in done if not c.has_optics and not c.levels]
    for panel, metric, unit in (
        (axes[1], "alignment", 1),
        (axes[2], "test_accuracy", 100),
        (axes[3], "test_accuracy", 100),
    ):
        for index, condition in enumerate(plain):
            value = condition.estimate(metric).mean
            if math.isfinite(value):
                grey, dashes = GREYS[index % len(GREYS)]
                panel.axhline(unit * value, color=grey, dashes=dashes, linewidth=1.3, label=condition.method)
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


def speckle(optical: Sequence[Condition]) -> Drawn:
    """A camera frame of each bench, of twelve at most."""
    optical = list({_bench(condition): condition for condition in reversed(optical)}.values())[::-1]
    wanted = min(12, len(optical))
    order = sorted(optical, key=lambda condition: -finite_or(condition.estimate("snr_db").mean, -math.inf))
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
        axes.set_title("\n".join(textwrap.wrap(levels, 30)), fontsize=8.5)
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
