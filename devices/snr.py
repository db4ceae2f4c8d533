"""How noisy a device is, measured on vectors it is used for."""

import math

import numpy as np

from optical_dfa.devices.base import ProjectionDevice, Vectors


def measured_snr_db(device: ProjectionDevice, vectors: Vectors) -> float:
    """Signal-to-noise ratio of `device.project(vectors)`, decibels; inf if it is exact.

    10 log₁₀(Σ exact² / Σ (measured - exact)²) over all vectors and outputs, against `device.effective_matrix`. Displays
    the vectors once more.

    Raises:
        ValueError: the device does not know its matrix, or every vector is zero.
    """
    if (matrix := device.effective_matrix()) is None:
        raise ValueError(f"device {device.info.name!r} does not know its matrix: measure it first")
    exact = vectors.astype(np.float64) @ matrix.T.astype(np.float64)
    if not (signal := float(np.square(exact).sum())):
        raise ValueError("the SNR of no signal is undefined: give vectors that are not all zero")
    if device.info.exact:
        return math.inf
    noise = float(np.square(device.project(vectors) - exact).sum())
    return 10 * math.log10(signal / noise) if noise else math.inf  # a twin that stands in may be exact
