"""Figures: matplotlib is needed (extra `plot`) and loaded only here."""

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optical_dfa.devices import EmulatedDevice, load_preset
from optical_dfa.emulator import EmulatedBench, FrameStamp
from optical_dfa.measure import marchenko_pastur
from optical_dfa.measure.spectrum import Spectrum
from optical_dfa.run_errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with any colour vision
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
DASHES = ((), (), (), (4, 2), (), (1, 1))  # two curves that coincide both stay visible

CLOSE_POINTS = 4
"""Methods that end within so many points of the best one are shown again, enlarged."""


def learning_curves(curves: Mapping[str, Sequence[Sequence[float]]], title: str, path: Path) -> None:
    """Test accuracy against epoch: mean over seeds as a line, their range as a band.

    A second panel shows the last points, if there are methods that end close together.

    Args:
        curves: method → one list of test accuracies (fractions, one an epoch) for each seed.
        title: of the figure.
        path: PNG file to write.
    """
    last = np.array([100 * np.mean([run[-1] for run in runs]) for runs in curves.values()])
    top = float(last.max())
    close_by = last[last > top - CLOSE_POINTS]
    figure, panels = _subplots(1, 2, (9.6, 4.2)) if len(close_by) > 1 else _subplots(1, 1, (6.4, 4.2))
    panels = np.atleast_1d(panels)
    for axes in panels:
        for (method, runs), colour, dashes in zip(curves.items(), COLOURS, DASHES, strict=False):
            accuracy = 100 * np.asarray(runs, np.float64)
            epochs = np.arange(1, accuracy.shape[1] + 1)
            axes.plot(epochs, accuracy.mean(0), color=colour, label=method, linewidth=1.8, dashes=dashes)
            axes.fill_between(epochs, accuracy.min(0), accuracy.max(0), color=colour, alpha=0.18, linewidth=0)
        axes.set(xlabel="epoch", ylabel="test accuracy (%)")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    if len(panels) > 1:
        panels[0].set_title("all of it", fontsize=10)
        panels[1].set_title("the last points", fontsize=10)
        panels[1].set_ylim(min(float(close_by.min()) - 2, top - 3), top + 1)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(curves), fontsize=9, frameon=False
    )
    figure.suptitle(title)
    _save(figure, path)


def speckle(preset: str, seed: int, path: Path) -> None:
    """What the bench sees: a camera frame, its histogram against exp(-I), and the field recovered from its frames.

    Args:
        preset: name of a bench preset.
        seed: seed of matrix and noise.
        path: PNG file to write.
    """
    n_inputs, n_on, side = 64, 6, 96
    parameters = load_preset(preset).bench
    bench = EmulatedBench(n_inputs, side * 2040, seed, parameters)  # the camera's full width, `side` rows
    pattern = np.zeros((1, n_inputs), np.uint8)
    pattern[0, :n_on] = 1
    frame = np.asarray(bench.expose(pattern, reference=False, at=FrameStamp(0, 0)))[0].astype(np.float64)
    electrons = frame / parameters.camera.gain_dn_per_e

    device = EmulatedDevice(n_inputs=n_inputs, n_outputs=4000, seed=seed, preset=preset)
    vectors = np.zeros((1, n_inputs), np.int8)
    vectors[0, :3], vectors[0, 3:4] = 1, -1
    with device:
        recovered = device.project(vectors)[0]
    true = device.effective_matrix() @ vectors[0].astype(np.float32)

    figure, (image, histogram, scatter) = _subplots(1, 3, (12.6, 4.0))
    shown = image.imshow(frame[:, :side], cmap="inferno", vmin=0, vmax=np.percentile(frame, 99.5))
    image.set(title="camera frame, no reference", xlabel="pixel", ylabel="pixel")
    figure.colorbar(shown, ax=image, label="digital number", fraction=0.046)
    _intensity_histogram(histogram, electrons, n_on * parameters.photometry.signal_e_per_feature, parameters)
    _field_scatter(scatter, true, recovered)
    figure.suptitle(f"Emulated bench, preset “{preset}”: {n_on} of {n_inputs} features ON")
    _save(figure, path)


def _intensity_histogram(axes: "Axes", electrons: Any, mean_e: float, parameters: Any) -> None:
    """Histogram of I/⟨I⟩ in bins of whole digital numbers, beside the law of fully developed speckle."""
    camera = parameters.camera
    step = 1 / camera.gain_dn_per_e if camera.adc_bits else mean_e / 20
    width = max(1, round(0.1 * mean_e / step)) * step
    edges = np.arange(-step / 2, electrons.max() + width, width)  # half-way between digital numbers
    axes.hist(
        electrons.ravel() / mean_e,
        bins=(edges / mean_e).tolist(),
        density=True,
        color=COLOURS[4],
        label="camera pixels",
    )
    intensity = np.linspace(0, edges[-1] / mean_e, 200)
    axes.plot(intensity, np.exp(-intensity), color="black", linewidth=1.5, label="fully developed speckle, exp(-I/⟨I⟩)")
    if electrons.max() * camera.gain_dn_per_e > camera.saturation_dn - 0.5:
        axes.annotate("saturated", (edges[-2] / mean_e, 2e-2), ha="right", fontsize=8)
    axes.set_yscale("log")
    axes.set(title="intensity", xlabel=f"I / ⟨I⟩   (⟨I⟩ = {mean_e:,.0f} e⁻)", ylabel="probability density")
    axes.set_ylim(1e-4, 2)
    axes.legend(fontsize=8)


def _field_scatter(axes: "Axes", true: Any, recovered: Any) -> None:
    snr_db = 10 * math.log10(float(np.square(true).sum() / np.square(recovered - true).sum()))
    limit = 1.05 * float(np.abs(true).max())
    axes.plot([-limit, limit], [-limit, limit], color="black", linewidth=1)
    axes.scatter(true, recovered, s=4, color=COLOURS[0], alpha=0.4, linewidths=0)
    axes.set(title=f"phase stepping, SNR {snr_db:.1f} dB", xlabel="true field, (T·x)/σ", ylabel="recovered field")
    axes.set_xlim(-limit, limit)
    axes.set_aspect("equal")
    axes.set_yticks(axes.get_xticks())
    axes.set_ylim(-limit, limit)
    axes.grid(alpha=0.3)


def singular_values(spectrum: Spectrum, title: str, path: Path) -> None:
    """Histogram of the singular values of a measured matrix beside the law of Marchenko and Pastur.

    Args:
        spectrum: from `optical_dfa.measure.spectrum`.
        title: of the figure.
        path: PNG file to write.
    """
    modes, inputs = spectrum.shape
    low, high = marchenko_pastur.edges(spectrum.ratio)
    figure, axes = _subplots(1, 1, (7.2, 4.4))
    values = spectrum.values
    margin = 0.05 * (high - low) if high > low else 0.05
    left, right = min(low, float(values[0])) - margin, max(high, float(values[-1])) + margin
    bins = np.linspace(low, high, max(8, min(60, len(values) // 12)) + 1)
    step = float(bins[1] - bins[0])
    bins = np.arange(low - step * math.ceil((low - left) / step), right + step, step)  # a bin begins at the lower edge
    axes.hist(values, bins=bins.tolist(), density=True, color=COLOURS[4], label=f"measured, {len(values):,} values")
    grid = np.linspace(low, high, 800)
    kind = "complex" if spectrum.is_complex else "real"
    curve = marchenko_pastur.density(grid, spectrum.ratio)
    axes.plot(grid, curve, color="black", linewidth=1.8, label=f"Marchenko-Pastur, λ = {spectrum.ratio:.3g}")
    if spectrum.noise_edge > 0:
        axes.axvspan(0, spectrum.noise_edge, color=COLOURS[5], alpha=0.15, linewidth=0)
        edge = f"noise alone: up to {spectrum.noise_edge:.3f}"
        axes.axvline(spectrum.noise_edge, color=COLOURS[5], linewidth=1.5, linestyle="--", label=edge)
        left = min(left, 0)
    axes.set_xlim(max(left, 0), right)
    axes.set(xlabel="singular value / √(mean square entry · long side)", ylabel="probability density")
    axes.set_title(f"{modes:,} modes x {inputs:,} inputs, {kind}", fontsize=10)
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    figure.suptitle(title)
    _save(figure, path)


def require_matplotlib() -> None:
    """Raise `MissingExtra` if matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise MissingExtra("figures need matplotlib: pip install 'optical_dfa[plot]'")


def _subplots(rows: int, columns: int, size: tuple[float, float]) -> tuple["Figure", Any]:
    require_matplotlib()
    from matplotlib.figure import Figure  # optional, and slow to import

    figure = Figure(figsize=size, layout="constrained")  # not pyplot: no global state, no display
    return figure, figure.subplots(rows, columns)


def _save(figure: "Figure", path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
