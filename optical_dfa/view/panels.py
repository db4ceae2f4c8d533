"""Panels of the pictures: each draws on given axes."""

import math
from typing import TYPE_CHECKING

import numpy as np

from optical_dfa.figures import COLOURS
from optical_dfa.view.report import Floats, Histogram, Pair, View

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, PURPLE, SKY, RED = COLOURS
_SIDE = 64
"""Pixels of a frame that are shown, each way; of a coarse speckle `_GRAINS` grains."""
_GRAINS = 16
_SMALL = 8
_SOURCES = (BLUE, SKY, GREEN, RED, ORANGE, PURPLE)


def frame_without_reference(axes: "Axes", view: View) -> None:
    """Part of an image of the speckle alone."""
    _frame(axes, view, view.frames[0], "Camera frame, reference arm blocked")


def frame_with_reference(axes: "Axes", view: View) -> None:
    """The same part beside the reference arm."""
    _frame(axes, view, view.frames[1], "Camera frame with reference arm")


def _frame(axes: "Axes", view: View, image: Floats, title: str) -> None:
    side = max(_SIDE, math.ceil(_GRAINS * view.numbers.grain_px.predicted))
    rows, columns = (min(side, each) for each in image.shape)
    top, left = ((each - part) // 2 for each, part in zip(image.shape, (rows, columns), strict=True))
    part = image[top : top + rows, left : left + columns]
    extent = (left - 0.5, left + columns - 0.5, top + rows - 0.5, top - 0.5)
    low, high = (float(np.percentile(part, each)) for each in (0.1, 99.8))
    low = low if low < 0 or low > 0.3 * high else 0.0  # dark is black, unless nothing is dark
    shown = axes.imshow(
        part,
        cmap="inferno",
        vmin=low,
        vmax=high,
        extent=extent,
        aspect="equal" if columns < 8 * rows else "auto",
        interpolation="nearest",
    )
    axes.set(title=title, xlabel="column, px", ylabel="row, px")
    axes.locator_params(axis="both", nbins=7, integer=True)
    axes.figure.colorbar(shown, ax=axes, label="digital number", extend="max", fraction=0.046, format=_short)


def intensity_without_reference(axes: "Axes", view: View) -> None:
    """Histogram beside the exponential law, or the gamma law where a pixel sees several modes."""
    modes = view.numbers.modes_per_pixel
    law = "exponential" if modes == 1 else f"gamma, {modes} modes a pixel"
    _intensity(axes, view, view.histograms[0], f"theory, no camera noise: {law}", "Intensity, reference arm blocked")


def intensity_with_reference(axes: "Axes", view: View) -> None:
    """Histogram beside Rice's law."""
    modes = view.numbers.modes_per_pixel
    law = "Rician" if modes == 1 else f"noncentral χ², {modes} modes a pixel"
    _intensity(axes, view, view.histograms[1], f"theory, no camera noise: {law}", "Intensity with reference arm")


def _intensity(axes: "Axes", view: View, found: Histogram, law: str, title: str) -> None:
    axes.stairs(found.measured, found.edges_e, fill=True, color=SKY, label="camera pixels")
    axes.plot(found.light_e, found.predicted, color="black", linewidth=1.5, label=law)
    top_e = view.numbers.saturation_e
    if top_e < found.edges_e[-1]:
        share = view.numbers.clipped_fraction.measured
        axes.axvline(top_e, color=RED, linestyle="--", linewidth=1.2, label=f"saturation at {top_e:,.0f} e⁻")
        if found is view.histograms[1]:
            axes.plot([], [], " ", label=f"{100 * share:.2g} % of the readings clipped")
    axes.set_yscale("log")
    highest = float(found.measured.max())
    axes.set_ylim(max(highest * 1e-5, 0.3 * float(found.measured[found.measured > 0].min())), 20 * highest)
    axes.set(title=title, xlabel="light of a pixel, e⁻", ylabel="probability density, 1/e⁻")
    axes.xaxis.set_major_formatter(_short)
    axes.locator_params(axis="x", nbins=6)
    axes.legend(fontsize=_SMALL, loc="upper right")
    axes.grid(alpha=0.25)


def field(axes: "Axes", view: View) -> None:
    """Recovered against true field."""
    true, found = view.fields.T
    snr_db = view.numbers.snr_db
    limit = 1.05 * float(np.abs(view.fields).max())
    axes.plot([-limit, limit], [-limit, limit], color="black", linewidth=0.8)
    axes.scatter(true, found, s=5, color=BLUE, alpha=0.5, linewidths=0, rasterized=True, zorder=3)
    axes.set(xlabel="true field, T·x", ylabel="recovered field", xlim=(-limit, limit), ylim=(-limit, limit))
    axes.set_title("Recovered field")
    axes.set_aspect("equal")
    axes.grid(alpha=0.25)
    if snr_db.measured == math.inf:
        axes.text(0.04, 0.95, "exact, no noise", transform=axes.transAxes, va="top", fontsize=9)
        return
    text = f"SNR {snr_db.measured:.1f} dB\ntheory {snr_db.predicted:.1f} dB"
    axes.text(0.04, 0.95, text, transform=axes.transAxes, va="top", fontsize=9)
    inset = axes.inset_axes((0.63, 0.12, 0.34, 0.26))
    inset.hist(found - true, bins=40, color=BLUE, histtype="stepfilled")
    inset.set_yticks([])
    inset.tick_params(labelsize=_SMALL - 1)
    inset.set_title("recovered - true", fontsize=_SMALL)


def autocorrelation(axes: "Axes", view: View) -> None:
    """Autocorrelation of the images without reference along a row."""
    found, grain = view.numbers.correlation, view.numbers.grain_px
    axes.axhline(0, color="0.6", linewidth=0.8)
    label = "theory, speckle alone" if view.numbers.grain_px.predicted > 1 else "theory, overlap of two pixels"
    axes.plot(*view.correlation_curve.T, color="black", linewidth=1.3, label=label)
    axes.plot(
        found.lag_px, found.predicted, "s", mfc="none", color=ORANGE, markersize=9, label="theory, pixels and noise"
    )
    axes.plot(found.lag_px, found.measured, "o", color=BLUE, markersize=4.5, label="measured")
    text = f"grain {grain.measured:.2f} px, set to {grain.predicted:g} px"
    axes.set(
        title="Autocorrelation of the speckle", xlabel="lag along a row, px", ylabel="correlation of the intensity"
    )
    axes.set_ylim(-0.08, 1.08)
    axes.locator_params(axis="x", integer=True)
    axes.legend(fontsize=_SMALL, title=text, title_fontsize=9, loc="upper right")
    axes.grid(alpha=0.25)


def budget(axes: "Axes", view: View) -> None:
    """Sources of the error stacked beside what was measured."""
    axes.set_title("Noise budget")
    found = view.numbers.budget
    if found is None:
        _empty(axes, "no noise on this bench,\nthe projection is exact")
        return
    sources = found.sources()
    total, base = sum(sources.values()), 0.0
    for (name, value), colour in zip(sources.items(), _SOURCES, strict=True):
        label = f"{name}: {100 * value / total:.1f} %" if value else f"{name}: off"
        axes.bar(0, value, 0.62, base, color=colour, label=label, edgecolor="white", linewidth=0.6)
        base += value
    measured = f"measured: {100 * found.measured_e2 / total:.1f} %"
    axes.bar(1, found.measured_e2, 0.62, color="0.35", label=measured)
    axes.set_xticks([0, 1], ["sum of\nsources", "measured"])
    axes.set(
        xlim=(-0.5, 3.1), ylabel="squared error of a reading, (e⁻)²", ylim=(0, 1.08 * max(total, found.measured_e2))
    )
    axes.yaxis.set_major_formatter(_short)
    handles, labels = axes.get_legend_handles_labels()
    order = [*range(len(sources) - 1, -1, -1), len(sources)]  # as stacked
    axes.legend(
        [handles[n] for n in order], [labels[n] for n in order], fontsize=_SMALL, loc="center right", frameon=False
    )
    axes.grid(alpha=0.25, axis="y")
    axes.set_axisbelow(True)


def exposure(axes: "Axes", view: View) -> None:
    """SNR against exposure."""
    axes.set_title("SNR against exposure")
    points = view.numbers.exposure
    if not points:
        _empty(axes, "no noise on this bench,\nthe projection is exact")
        return
    label = "theory, without clipping" if view.numbers.left_out else "theory"
    axes.plot(*view.exposure_curve.T, color="black", linewidth=1.3, label=label)
    exposures = [each.exposure_us for each in points]
    axes.plot(exposures, [each.snr_db.measured for each in points], "o", color=BLUE, label="measured")
    here = next((each.exposure_us for each in points if each.factor == 1), None)
    if here is not None:
        axes.axvline(here, color=ORANGE, linestyle="--", linewidth=1.2, label=f"preset, {here:g} µs")
    axes.set(xscale="log", xlabel="exposure, µs (signal and reference grow with it)", ylabel="SNR, dB")
    axes.set_xticks(exposures, [f"{each:g}" for each in exposures])
    axes.minorticks_off()
    axes.legend(fontsize=_SMALL)
    axes.grid(alpha=0.25)


def alignment(axes: "Axes", view: View) -> None:
    """Cosines of ternarisation, optics and both, expected and measured."""
    kinds = view.numbers.alignment
    groups = ("ternarisation\nalone", "optics\nalone", "both")
    width = 0.8 / len(kinds)
    for number, (each, colour) in enumerate(zip(kinds, (SKY, ORANGE), strict=False)):
        pairs: tuple[Pair, ...] = (each.ternarisation, each.optics, each.both)
        at = np.arange(len(groups)) + (number - (len(kinds) - 1) / 2) * width
        measured = [pair.measured for pair in pairs]
        axes.bar(at, measured, 0.92 * width, color=colour, label=f"{each.errors} errors")
        marks = axes.plot(at, [pair.predicted for pair in pairs], "_", color="black", markersize=26, markeredgewidth=2)
        if number == len(kinds) - 1:
            marks[0].set_label("expected")
        for x, value in zip(at, measured, strict=True):
            axes.text(x, 0.03, f"{value:.3f}", ha="center", va="bottom", fontsize=_SMALL)
    axes.set_xticks(range(len(groups)), groups)
    axes.set(title="Alignment of the feedback", ylabel="cosine with the exact projection", ylim=(0, 1.2))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.legend(fontsize=_SMALL, loc="upper center", ncols=3, frameon=False)
    axes.grid(alpha=0.25, axis="y")
    axes.set_axisbelow(True)


def _empty(axes: "Axes", why: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color="0.35")


def _short(value: float, _position: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"
