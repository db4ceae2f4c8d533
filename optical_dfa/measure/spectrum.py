"""Singular values of a measured matrix, beside the law of Marchenko and Pastur."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.matrix_file import MatrixFile
from optical_dfa.measure import marchenko_pastur

MAX_SIDE = 2048
"""Longest short side: its eigenvalues take seconds. A larger matrix is cut; the law holds for its parts as well."""


@dataclass(frozen=True)
class Spectrum:
    """Singular values of a matrix, in units of √(mean square entry · long side)."""

    values: npt.NDArray[np.float64]
    """(short side,), ascending."""
    shape: tuple[int, int]
    """Modes and inputs of the matrix they belong to; smaller than the measured one if that was cut."""
    is_complex: bool
    """Row pairs were taken as the two quadratures of a mode."""
    noise_edge: float
    """Largest singular value of a matrix that is noise of the stated standard errors alone; NaN where unknown."""

    @property
    def ratio(self) -> float:
        """λ = short side / long side."""
        return min(self.shape) / max(self.shape)

    @property
    def distance(self) -> float:
        """Kolmogorov-Smirnov distance to the law: the largest difference of the distributions."""
        law = marchenko_pastur.distribution(self.values, self.ratio)
        steps = np.arange(len(self.values) + 1) / len(self.values)
        return float(max(np.max(steps[1:] - law), np.max(law - steps[:-1])))


def spectrum(file: MatrixFile) -> Spectrum:
    """Singular values of a matrix file; row pairs are one complex row each if it has two outputs a mode.

    They come from the Gram matrix of the short side, a block of rows at a time: memory is that of the short side, at
    most `MAX_SIDE`, times itself (tall) or times the inputs (wide).
    """
    per_mode = file.record.outputs_per_mode if file.n_outputs > 1 else 1
    modes, inputs = file.n_outputs // per_mode, file.n_inputs
    if modes >= inputs:
        inputs = min(inputs, MAX_SIDE)
        gram = np.zeros((inputs, inputs), np.complex128)
        for first, rows in file.blocks():
            part = _modes(rows[: modes * per_mode - first, :inputs], per_mode)
            gram += part.conj().T @ part
    else:
        modes = min(modes, MAX_SIDE)
        part = _modes(file.rows(0, modes * per_mode), per_mode)
        gram = part @ part.conj().T
    eigenvalues = np.clip(np.linalg.eigvalsh(gram), 0, None)
    mean_square = float(np.trace(gram).real) / (modes * inputs)
    noise = per_mode * float(np.square(file.noise().astype(np.float64)).mean())
    edge = math.sqrt(noise / mean_square) * marchenko_pastur.edges(min(modes, inputs) / max(modes, inputs))[1]
    values = np.sqrt(eigenvalues / (mean_square * max(modes, inputs)))
    return Spectrum(values, (modes, inputs), per_mode == 2, edge)


def _modes(rows: npt.NDArray[np.float32], per_mode: int) -> npt.NDArray[np.complex128]:
    """One complex row for each mode: row 2m + i · row 2m+1, or the real rows as they are."""
    if per_mode == 1:
        return rows.astype(np.complex128)
    return rows[0::2] + 1j * rows[1::2].astype(np.float64)
