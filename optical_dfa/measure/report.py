"""What a measured matrix is like: gain, noise, singular values, and how far it is from the known one."""

import math
from dataclasses import dataclass

import numpy as np

from optical_dfa.devices import ProjectionDevice
from optical_dfa.devices.matrix_file import MatrixFile
from optical_dfa.measure import marchenko_pastur
from optical_dfa.measure.spectrum import Spectrum, spectrum

ROUNDING = 1e-6
"""Noise below this part of the gain is the rounding of float32: the device has none."""


@dataclass(frozen=True)
class Comparison:
    """A measured matrix beside the one that the device knows it has."""

    correlation: float
    """Of all entries, about zero: Σ m t / √(Σ m² Σ t²)."""
    expected_correlation: float
    """What the stated noise alone leaves of it: 1/√(1 + noise power)."""
    slope: float
    """Measured gain over known gain, Σ m t / Σ t²."""
    chi_square: float
    """Mean of ((m - t) / standard error)²: 1 if the measurement is as good as it says; NaN without noise."""


@dataclass(frozen=True)
class Report:
    """A measured matrix in numbers."""

    file: MatrixFile
    spectrum: Spectrum
    gain: float
    """Root mean square of the entries, less their noise; 1 for a calibrated device."""
    gain_spread: float
    """Standard deviation of the gain over the outputs, relative."""
    noise: float
    """Root mean square of the standard errors of the entries; NaN where unknown."""
    comparison: Comparison | None
    """None where the device does not know its matrix."""

    def lines(self) -> list[tuple[str, str]]:
        """Name and value of each quantity, in words."""
        file, record, spec = self.file, self.file.record, self.spectrum
        pairs = f", {file.n_outputs // 2:,} complex modes" if record.outputs_per_mode == 2 else ""
        lines = [("matrix", f"{file.n_outputs:,} outputs x {file.n_inputs:,} inputs{pairs}")]
        if record.probes:
            times = "once" if record.repeats == 1 else f"{record.repeats:,} times"
            shown = f"{record.probes:,} of {record.lit:,} lit inputs, {times} each"
            lines.append(("probes", shown))
        if record.frames:
            lines.append(("frames", f"{record.frames:,}, {record.device_seconds:.3g} s of the device"))
        if record.saturated_fraction is not None:
            lines.append(("saturated pixel readings", _percent(record.saturated_fraction)))
        lines.append(("gain", f"{self.gain:.4f}"))
        lines.append(("  spread over outputs", f"{self.gain_spread:.4f} (Gaussian: {self._gaussian_spread():.4f})"))
        lines.append(("noise of an entry", _noise(self.noise, self.gain)))
        if compared := self.comparison:
            known = f"{compared.correlation:.6f} (noise leaves {compared.expected_correlation:.6f})"
            lines.append(("known matrix, correlation", known))
            lines.append(("  gain over it", f"{compared.slope:.4f}"))
            if not math.isnan(compared.chi_square):
                lines.append(("  mean (error / noise)²", f"{compared.chi_square:.3f} (expected: 1)"))
        low, high = marchenko_pastur.edges(spec.ratio)
        cut = "" if spec.shape[1] == file.n_inputs else f" of {spec.shape[0]:,} modes x {spec.shape[1]:,} inputs"
        lines.append(("singular values" + cut, f"{spec.values[0]:.3f} … {spec.values[-1]:.3f}"))
        lines.append(("  Marchenko-Pastur", f"{low:.3f} … {high:.3f}, largest difference {spec.distance:.3f}"))
        lines.append(
            ("  of the noise alone", "unknown" if math.isnan(spec.noise_edge) else f"up to {spec.noise_edge:.3f}")
        )
        return lines

    def _gaussian_spread(self) -> float:
        """The mean square of n Gaussian entries scatters by √(2/n), its root by half of it."""
        return math.sqrt(0.5 / self.file.n_inputs)


def report(file: MatrixFile, device: ProjectionDevice | None = None) -> Report:
    """What a matrix file holds, in numbers.

    Args:
        file: the matrix.
        device: the one it was measured on; compared with if it knows its matrix.
    """
    noise_power = np.square(file.noise().astype(np.float64))
    known_noise = float(noise_power.mean())
    power = np.empty(file.n_outputs)
    for first, rows in file.blocks():
        power[first : first + len(rows)] = np.square(rows, dtype=np.float64).mean(axis=1)
    mean_power = float(power.mean()) - (0 if math.isnan(known_noise) else known_noise)
    gain = math.sqrt(max(mean_power, 0))
    spread = float(np.sqrt(power).std() / np.sqrt(power).mean()) if power.any() else 0.0
    comparison = compare(file, device) if device is not None else None
    return Report(file, spectrum(file), gain, spread, math.sqrt(known_noise), comparison)


def compare(file: MatrixFile, device: ProjectionDevice) -> Comparison | None:
    """A matrix file beside `device.effective_matrix`, a block of rows at a time; None if the device knows no matrix."""
    noise_power = np.square(file.noise().astype(np.float64))
    products = np.zeros(3)
    chi_square = 0.0
    for first, rows in file.blocks():
        part = slice(first, first + len(rows))
        known = device.effective_matrix(part)
        if known is None:
            return None
        m, t = rows.astype(np.float64), known.astype(np.float64)
        products += (m * m).sum(), (m * t).sum(), (t * t).sum()
        errors = np.square(m - t).mean(axis=1)
        chi_square += float(np.divide(errors, noise_power[part], out=errors, where=noise_power[part] > 0).sum())
    mm, mt, tt = products
    noise, entries = float(noise_power.mean()), file.n_outputs * file.n_inputs
    return Comparison(
        correlation=float(mt / math.sqrt(mm * tt)),
        expected_correlation=1 / math.sqrt(1 + noise * entries / tt),
        slope=float(mt / tt),
        chi_square=chi_square / file.n_outputs if noise > ROUNDING**2 * mm / entries else math.nan,
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2g}%" if fraction else "none"


def _noise(noise: float, gain: float) -> str:
    if math.isnan(noise):
        return "unknown: measure with two repeats or more"
    if noise <= ROUNDING * gain:
        return "none"
    return f"{noise:.2g}, {20 * math.log10(gain / noise):.1f} dB below its gain" if gain else f"{noise:.2g}"
