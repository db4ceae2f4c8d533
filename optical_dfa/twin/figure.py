"""The figure of a twin: speckle measured and predicted, what is left, photon transfer, values."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optical_dfa.figures import COLOURS, require_matplotlib
from optical_dfa.twin.estimate import Estimate
from optical_dfa.twin.fit import Twin
from optical_dfa.twin.light import readings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_COLUMNS = 64
"""Pixels of an image that are drawn side by side."""

SHOWN = (
    ("photometry.signal_e_per_feature", "signal of a feature, e⁻"),
    ("photometry.reference_e", "reference arm, e⁻"),
    ("camera.gain_dn_per_e", "gain, DN/e⁻"),
    ("camera.read_noise_e", "read noise, e⁻"),
    ("camera.black_level_dn", "black level, DN"),
    ("camera.dsnu_e", "dark pattern (DSNU), e⁻"),
    ("dmd.contrast", "contrast of the DMD"),
    ("contrast of the interferometer", "contrast of the interferometer"),
    ("medium.piston_walk_rad", "walk of the phase, rad/√s"),
    ("medium.vibration_rad", "vibration, rad"),
    ("laser.intensity_noise", "noise of the laser"),
    ("laser.phase_step_error", "error of the phase steps"),
    ("medium.decorrelation_tau_s", "decorrelation, s"),
)


def draw(twin: Twin, known: Mapping[str, float], path: Path) -> None:
    """Draw a twin.

    Args:
        twin: to draw.
        known: true values by name, of an emulated device; may be empty.
        path: PNG file to write.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure  # optional, and slow to import

    figure = Figure(figsize=(12.4, 8.4), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=[1, 1.05])
    above, below = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    measured, predicted, left = above.subplots(1, 3)
    curve, values = below.subplots(1, 2, width_ratios=[1, 1.25])
    _images(twin, above, measured, predicted)
    _left(twin, left)
    _curve(twin, curve)
    _values(twin, known, values)
    source = twin.seen.source
    figure.suptitle(
        f"Digital twin of device {source.device}: {len(twin.light.columns):,} inputs, {len(twin.light.reference):,} "
        f"pixels, {len(twin.seen):,} frames"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _images(twin: Twin, figure: Any, measured: "Axes", predicted: "Axes") -> None:
    """The brightest frame as it was seen, and as it is predicted."""
    seen, light = twin.seen, twin.light
    on = np.where(seen.reference, seen.patterns.sum(axis=1), 0)
    chosen = int(np.argmax(on))
    one = seen.frames(slice(chosen, chosen + 1))
    mean = readings(one, light, twin.moments.of(slice(chosen, chosen + 1)))[0]
    shape = _drawn_shape(len(mean), seen.info.image_shape)
    number = shape[0] * shape[1]
    image = one.images[0].astype(np.float64)
    low, high = float(min(image.min(), mean.min())), float(np.percentile(image, 99.5))
    for axes, values, title in ((measured, image, "measured"), (predicted, mean, "predicted")):
        shown = axes.imshow(values[:number].reshape(shape), cmap="inferno", vmin=low, vmax=high)
        axes.set(xlabel="pixel", ylabel="pixel")
        axes.set_title(f"{title}, {int(on[chosen])} features ON", fontsize=10)
        figure.colorbar(shown, ax=axes, label="digital number", fraction=0.046)


def _left(twin: Twin, axes: "Axes") -> None:
    """What the prediction leaves of all frames with the reference arm, in standard deviations."""
    seen, light, moments = twin.seen.frames(twin.seen.reference), twin.light, twin.moments.of(twin.seen.reference)
    means = readings(seen, light, moments)
    clear = light.alive & (seen.images < seen.info.saturation_dn)
    z = ((seen.images - means) / np.sqrt(twin.transfer.of(means - light.dark)))[clear]
    edges = np.linspace(-5, 5, 81)
    axes.hist(np.clip(z, -5, 5), bins=edges.tolist(), density=True, color=COLOURS[4], label=f"{z.size:,} readings")
    grid = np.linspace(-5, 5, 300)
    axes.plot(grid, np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi), color="black", linewidth=1.5, label="normal law")
    axes.set(yscale="log", ylim=(1e-6, 6), xlabel="(measured - predicted) / predicted noise", ylabel="density")
    axes.set_title(f"what is left: mean square {float(np.mean(z**2)):.3f}", fontsize=10)
    axes.legend(fontsize=8, loc="upper center", ncols=2)
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3)


def _drawn_shape(pixels: int, shape: tuple[int, int]) -> tuple[int, int]:
    """A picture of about square pixels: images of few rows are folded."""
    rows, columns = shape
    if rows >= MOST_COLUMNS // 2:
        return rows, columns
    width = min(MOST_COLUMNS, max(1, math.isqrt(pixels)))
    return pixels // width, width


def _curve(twin: Twin, axes: "Axes") -> None:
    transfer = twin.transfer
    axes.errorbar(
        transfer.mean, transfer.variance, 2 * transfer.error, fmt="o", markersize=3.5, color=COLOURS[0], linewidth=1,
        label="pairs of equal frames, 95 %",
    )  # fmt: skip
    grid = np.linspace(0, float(transfer.mean.max()) * 1.03, 200)
    line = f"σ² = {transfer.gain:.4g} μ + {transfer.floor:.3g}"
    axes.plot(grid, transfer.gain * grid + transfer.floor, color="black", linewidth=1.5, label=line)
    axes.set(xlabel="mean signal μ, DN", ylabel="variance σ², DN²")
    axes.set_title("photon transfer", fontsize=10)
    axes.set_xlim(left=-0.02 * grid[-1])
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, loc="upper left")
    axes.grid(alpha=0.3)


def _values(twin: Twin, known: Mapping[str, float], axes: "Axes") -> None:
    """Distance of each value from the true one in standard errors, or its interval, where no truth is known."""
    rows = [(twin[name], words) for name, words in SHOWN]
    for place, (estimate, _) in enumerate(rows):
        true = known.get(estimate.name)
        if estimate.kind == "measured" and estimate.error > 0:
            unit = estimate.error if known else abs(estimate.value) / 100
            base = estimate.value if true is None else true
            if unit > 0 and (true is not None or not known):
                low, value, high = ((v - base) / unit for v in (estimate.low, estimate.value, estimate.high))
                axes.plot([low, high], [place, place], color=COLOURS[4], linewidth=3, solid_capstyle="butt")
                axes.plot([value], [place], "o", color=COLOURS[0], markersize=5)
        axes.annotate(
            _text(estimate, true), (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=8.5
        )
    axes.axvline(0, color="black", linewidth=1.2, zorder=0)
    if known:
        axes.set_xlim(-5.5, 5.5)
    axes.set_yticks(range(len(rows)), [words for _, words in rows], fontsize=8.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("distance from the true value, standard errors" if known else "95 % interval, % of the value")
    axes.set_title("values, 95 % intervals" + (", and the truth" if known else ""), fontsize=10)
    axes.grid(alpha=0.3, axis="x")


def _text(estimate: Estimate, true: float | None) -> str:
    if estimate.kind == "measured":
        value = with_error(estimate.value, estimate.error)
    elif estimate.kind == "limit":
        value = f"≥ {estimate.low:,.3g}" if math.isinf(estimate.high) else f"≤ {estimate.high:.2g}"
    else:
        value = "not told"
    return value if true is None else f"{value}   (true {_plain(true)})"


def with_error(value: float, error: float) -> str:
    """Value and standard error, to two digits of the error."""
    if not error > 0 or not math.isfinite(error):
        return _plain(value)
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:,.{digits}f} ± {error:,.{digits}f}"


def _plain(value: float) -> str:
    return f"{value:,.0f}" if 1e4 <= abs(value) < math.inf else f"{value:.4g}"
