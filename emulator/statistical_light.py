"""The light of vectors whose readings are drawn from their statistics, and what reads it."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.hashing import Key

STEPS = 4

COUNT = 1 << 24
"""Expected saturated readings are summed in units of one in so many: whole numbers, the same in any order."""

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class Optics(NamedTuple):
    """What lies between the product and the camera, pixel by pixel, and stays; None: nothing."""

    lit: Floats | None
    """(media, 2 · pixels) field of all features lit, where OFF mirrors leak."""
    always: Floats | None
    """(media, 2 · pixels) field that is there in every frame."""
    beam: Floats | None
    """(pixels,) amplitude of the speckle."""
    wave: Floats | None
    """(2, pixels) reference arm, real and imaginary part."""
    gain: Floats | None
    """(pixels,) relative response."""
    dark_e: Floats | None
    """(pixels,) dark signal, electrons."""


@dataclass(frozen=True)
class Shown:
    """What is displayed for some vectors, and their random keys."""

    row: Integers
    """(vectors,) of the outputs."""
    sides: Integers
    """(vectors,) 1 or 2 patterns displayed."""
    first_frame: Integers
    """(vectors,) of the request."""
    split: Floats
    """(vectors, 4): sign of the first side; coefficients of S on D and on U, and its standard deviation given them."""
    sum_row: Integers
    """(vectors,) of `Light.sums`, where S is known; -1: it is drawn."""
    noise_key: Key
    """(vectors,) each half."""
    sum_key: Key
    """(media, vectors) each half."""

    def __getitem__(self, part: Any) -> "Shown":
        keys = ((low[..., part], high[..., part]) for low, high in (self.noise_key, self.sum_key))
        return Shown(
            self.row[part], self.sides[part], self.first_frame[part], self.split[part], self.sum_row[part], *keys
        )


@dataclass(frozen=True)
class Light:
    """Fields of a block, of vectors `shown`, on neighbouring pixels from `first_pixel` on."""

    fields: npt.NDArray[np.int32]
    """(vectors, 2 · pixels) exact product."""
    second: npt.NDArray[np.int32] | None
    """The same of the next matrix, where the medium drifts."""
    sums: npt.NDArray[np.int32]
    """(media, some vectors, 2 · pixels of the image) exact sums S."""
    shown: Shown
    first_pixel: int


class Reader(Protocol):
    """From fields to outputs."""

    backend: str

    def __call__(self, light: Light, weights: Floats, reference: Floats, optics: Optics, out: Floats) -> Integers:
        """Fill the outputs of a block.

        Args:
            light: the fields.
            weights: (frames, 2) root electrons per unit of the first and the second field.
            reference: (frames, 2) quadratures of the reference arm, root electrons.
            optics: of the whole image.
            out: (all vectors, outputs), filled where the block lies; an image may hold more pixels than outputs.

        Returns:
            (vectors,) saturated readings expected, in units of 1/`COUNT`.
        """
