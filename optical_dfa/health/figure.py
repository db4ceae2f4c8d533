"""The figure of a check: repeatability, superposition, outputs, and what the camera saw or what has drifted."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from optical_dfa.figures import COLOURS, require_matplotlib
from optical_dfa.health.check import DEAD, Health, Probing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 4000


def draw(
    health: Health,
    found: Probing,
    path: Path,
    images: npt.NDArray[Any] | None = None,
    saturation_dn: float = float("inf"),
    earlier: npt.NDArray[np.float32] | None = None,
) -> None:
    """Draw a check.

    Args:
        health: figures of the device.
        found: what it answered.
        path: PNG file to write.
        images: raw images of the last request; None for a device without frames.
        saturation_dn: digital number of a saturated pixel.
        earlier: fields of an earlier check.
    """
    require_matplotlib()
    from matplotlib.figure import Figure  # optional, and slow to import

    figure = Figure(figsize=(9.6, 8.2), layout="constrained")
    (repeat, superposition), (outputs, last) = figure.subplots(2, 2)
    one, other = found.fields
    _scatter(repeat, one, other, "first showing", "second showing")
    repeat.set_title(f"the same vectors twice: correlation {health.repeatability:.4f}", fontsize=10)
    x, y, both = np.split(one, 3)
    _scatter(superposition, x + y, both, "P(x) + P(y)", "P(x + y)")
    superposition.set_title(f"superposition error {health.superposition_error:.2%}, without noise", fontsize=10)
    _power_histogram(outputs, found, health)
    if images is not None:
        _images_histogram(last, images, saturation_dn)
    elif earlier is not None:
        _scatter(last, earlier.mean(axis=0), found.fields.mean(axis=0), f"field at {health.since}", "field now")
        last.set_title(f"drift: correlation {health.drift:.4f}, without noise", fontsize=10)
    else:
        last.set_axis_off()
    figure.suptitle(f"Device {health.device}, {health.n_inputs:,} inputs, {health.n_outputs:,} outputs, {health.date}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _scatter(axes: "Axes", across: npt.NDArray[Any], up: npt.NDArray[Any], xlabel: str, ylabel: str) -> None:
    across, up = across.ravel(), up.ravel()
    chosen = np.linspace(0, len(across) - 1, min(MOST_POINTS, len(across))).astype(np.int64)
    limit = 1.05 * float(max(np.abs(across[chosen]).max(), np.abs(up[chosen]).max(), 1e-9))
    axes.plot([-limit, limit], [-limit, limit], color="black", linewidth=1, zorder=1)
    axes.scatter(across[chosen], up[chosen], s=4, color=COLOURS[0], alpha=0.35, linewidths=0, zorder=2)
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axes.grid(alpha=0.3)


def _power_histogram(axes: "Axes", found: Probing, health: Health) -> None:
    lit = np.abs(found.probes).sum(axis=1, dtype=np.int64)[:, None]
    power = (found.fields[0].astype(np.float64) * found.fields[1] / lit).mean(axis=0)
    axes.hist(power, bins=60, color=COLOURS[4], label="outputs")
    axes.axvline(DEAD * float(np.median(power)), color=COLOURS[5], linewidth=1.5, linestyle="--", label="dead below")
    axes.axvline(1, color="black", linewidth=1.2, label="unit gain")
    axes.set(xlabel="mean field² / |x|², without noise", ylabel="outputs")
    axes.set_title(f"power of the outputs: gain {health.gain:.3f}, {health.dead_outputs:,} dead", fontsize=10)
    axes.legend(fontsize=8)
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3)


def _images_histogram(axes: "Axes", images: npt.NDArray[Any], saturation_dn: float) -> None:
    low, high = float(images.min()), float(images.max())
    step = max(1.0, np.ceil((high - low) / 80)) if images.dtype.kind == "u" else max((high - low) / 80, 1e-9)
    edges = np.arange(low - step / 2, high + 1.5 * step, step)
    axes.hist(images.ravel(), bins=edges.tolist(), color=COLOURS[4], label=f"{len(images)} raw images")
    if np.isfinite(saturation_dn):
        axes.axvline(saturation_dn, color=COLOURS[5], linewidth=1.5, linestyle="--", label="saturation")
    axes.set_yscale("log")
    axes.set(xlabel="digital number", ylabel="pixel readings")
    axes.set_title("what the camera saw in the last request", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
