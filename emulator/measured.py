"""Light that was measured on a bench, in place of the procedural matrix: what a digital twin is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.checks import require
from optical_dfa.emulator.matrix import VARIANCE
from optical_dfa.emulator.numpy_product import STREAM_BYTES, MatrixPlan

Floats = npt.NDArray[np.float32]

SLAB_ENTRIES = 1 << 20
"""Entries of the matrix that are converted to float64 at once, 8 MB."""


@dataclass(frozen=True)
class MeasuredLight:
    """What a bench does with light, pixel by pixel, as it was measured. One speckle mode a pixel, P pixels."""

    image_shape: tuple[int, int]
    matrix: Floats
    """(2 · P, n_inputs): rows 2p and 2p + 1 are the quadratures at pixel p; mean square 1."""
    background: Floats
    """(2 · P,): the field that is there in every frame, in units of the matrix."""
    reference: Floats
    """(P,): amplitude of the reference arm, of mean square 1."""
    dark_dn: Floats
    """(P,): reading of each pixel in the dark less the black level of the camera, digital numbers."""

    def __post_init__(self) -> None:
        rows, columns = self.image_shape
        pixels = rows * columns
        for name, shape in (
            ("matrix", (2 * pixels, self.matrix.shape[-1])),
            ("background", (2 * pixels,)),
            ("reference", (pixels,)),
            ("dark_dn", (pixels,)),
        ):
            array = getattr(self, name)
            accepted = f"float32 of shape {shape}, finite, for an image of {rows} x {columns} pixels"
            fits = array.shape == shape and array.dtype == np.float32 and bool(np.isfinite(array).all())
            require(fits, name, f"{array.dtype} {array.shape}", accepted)


class MeasuredProduct:
    """Products with the matrix of a `MeasuredLight`, float32, in units of the procedural matrix (√`VARIANCE`).

    A field depends neither on how vectors are split nor on BLAS: sums are exact, and rounded once; see `on_exact_grid`.

    Args:
        light: its first `n_inputs` inputs are used.
        n_inputs: at most those of the matrix.
    """

    def __init__(self, light: MeasuredLight, n_inputs: int) -> None:
        known = light.matrix.shape[1]
        require(n_inputs <= known, "n_inputs", n_inputs, f"at most {known:,}, the inputs that were measured")
        self.n_inputs, self.n_outputs = n_inputs, len(light.matrix)
        self._rows = on_exact_grid(light.matrix[:, :n_inputs] * np.float32(VARIANCE**0.5))
        why = "a measured matrix has no procedure that makes it"
        self.plan = MatrixPlan("numpy", "stored", self._rows.nbytes, why)

    def __call__(self, vectors: npt.NDArray[np.int8] | npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """Fields float32 (batch, n_outputs) of vectors (batch, n_inputs) of small integers."""
        return exact_products(self._rows, vectors)

    def stream(
        self,
        vectors: npt.NDArray[np.int8] | npt.NDArray[np.uint8],
        consume: Callable[[int, int, Any], None],
    ) -> None:
        """As `__call__`, a block of rows at a time: `consume` gets (first vector, first row, fields)."""
        rows = 2 * max(1, STREAM_BYTES // (8 * max(1, len(vectors))))
        for first in range(0, self.n_outputs if len(vectors) else 0, rows):
            consume(0, first, exact_products(self._rows[first : first + rows], vectors))

    def matrix(self, rows: slice) -> Floats:
        """Rows of the matrix, float32 (rows, n_inputs)."""
        return self._rows[rows].copy()


def exact_products(rows: Floats, vectors: npt.NDArray[np.generic]) -> Floats:
    """Products of rows that `on_exact_grid` made with vectors, rounded once, float32 (vectors, rows)."""
    products = np.empty((len(vectors), len(rows)), np.float32)
    shown = vectors.astype(np.float64)
    height = max(1, SLAB_ENTRIES // rows.shape[1])
    for first in range(0, len(rows), height):
        slab = rows[first : first + height].astype(np.float64)
        products[:, first : first + height] = shown @ slab.T
    return products


def on_exact_grid(rows: Floats) -> Floats:
    """Entries rounded, row by row, to multiples of a power of two on which float64 adds them up without rounding.

    A row of n entries below 2^e, in multiples of 2^(e + ⌈log₂ n⌉ - 52), adds up to less than 2^53 of them.
    """
    _, exponent = np.frexp(np.abs(rows).max(axis=1, keepdims=True).astype(np.float64))
    step = np.ldexp(1.0, exponent + (rows.shape[1] - 1).bit_length() - 52)
    on_grid: Floats = (np.rint(rows / step) * step).astype(np.float32)
    return on_grid
