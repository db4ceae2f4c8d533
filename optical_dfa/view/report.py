"""What was measured, as data: the numbers of `bench.json`, and the arrays that the pictures need besides."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, PlainSerializer, TypeAdapter

Floats = npt.NDArray[np.float64]

SCHEMA = 1
"""Number of this layout of the JSON file."""

MaybeInfinite = Annotated[
    float,
    BeforeValidator(lambda value: math.inf if value is None else value),
    PlainSerializer(lambda value: None if value == math.inf else value, return_type=float | None),
]
"""A number; infinity is null in JSON."""


@dataclass(frozen=True)
class Pair:
    """A measured number and what theory says of it."""

    measured: MaybeInfinite
    predicted: MaybeInfinite


@dataclass(frozen=True)
class Correlation:
    """Autocorrelation of the images without reference along a row, 1 at lag 0."""

    lag_px: list[int]
    measured: list[float]
    predicted: list[float]


@dataclass(frozen=True)
class Budget:
    """Squared error of a projection by its sources, electrons² of a reading, summed over the patterns of a vector.

    Closed forms; but `optics_e2` was measured alone, with a camera without noise, and where the grain is larger than a
    pixel so was `clipping_e2`.
    """

    shot_e2: float
    read_e2: float
    quantisation_e2: float
    clipping_e2: float
    fixed_pattern_e2: float
    """Response and dark signal of the pixels, dead ones included."""
    optics_e2: float
    """Drift, vibration, laser noise, errors of the reference arm, noise of calibrated maps."""
    measured_e2: float
    """All of it, as measured."""

    def sources(self) -> dict[str, float]:
        """Name of a source → electrons²."""
        return {
            "shot noise": self.shot_e2,
            "read noise": self.read_e2,
            "quantisation": self.quantisation_e2,
            "clipping": self.clipping_e2,
            "fixed pattern": self.fixed_pattern_e2,
            "drift, phase, laser": self.optics_e2,
        }


@dataclass(frozen=True)
class ExposurePoint:
    """SNR where all light is `factor` times that of the preset.

    The prediction leaves out clipping where the grain is larger than a pixel.
    """

    factor: float
    exposure_us: float
    snr_db: Pair


@dataclass(frozen=True)
class Alignment:
    """Mean cosines of projections of error vectors: what ternarisation costs, what the optics cost, and both."""

    errors: str
    """How the error vectors are distributed."""
    ternarisation: Pair
    """Exact projection of the ternary vectors with that of the errors; predicted: the cosine of the vectors."""
    optics: Pair
    """Recovered with exact projection of the ternary vectors; predicted: (1 + 1/SNR)^-½."""
    both: Pair
    """Recovered projection of the ternary vectors with the exact one of the errors; predicted: the product."""


@dataclass(frozen=True)
class Numbers:
    """All of `bench.json`. Light in electrons per pixel and exposure; null is infinity."""

    schema: int
    optical_dfa: str
    preset: str
    overrides: dict[str, Any]
    """As given; infinity is `.inf`."""
    summary: list[str]
    readout: str
    n_inputs: int
    n_on: int
    """Features ON in a pattern."""
    n_outputs: int
    seed: int
    image_shape: tuple[int, int]
    steps: int
    """Frames of a pattern."""
    signal_e: float
    """Mean light of the patterns, with what OFF mirrors leak."""
    reference_e: float
    saturation_e: MaybeInfinite
    modes_per_pixel: int
    snr_db: Pair
    """Null: the projection is exact."""
    clipped_fraction: Pair
    """With the reference arm; predicted by the Marcum function."""
    contrast: Pair
    """Standard deviation over mean of the images without reference, noise included."""
    grain_px: Pair
    correlation: Correlation
    budget: Budget | None
    """None for a bench without noise."""
    exposure: list[ExposurePoint]
    """Empty for a bench without noise."""
    alignment: list[Alignment]
    left_out: list[str]
    """What is not shown of this bench, and why."""


@dataclass(frozen=True)
class Histogram:
    """Light of the pixels, by whole digital numbers."""

    edges_e: Floats
    measured: Floats
    """(bins,) density per electron."""
    light_e: Floats
    predicted: Floats
    """(points,) density in theory, at `light_e`."""


@dataclass(frozen=True)
class View:
    """The numbers, and what the pictures show besides."""

    numbers: Numbers
    frames: tuple[Floats, Floats]
    """(rows, columns) of an image without and with reference, digital numbers."""
    histograms: tuple[Histogram, Histogram]
    """Without and with reference."""
    correlation_curve: Floats
    """(points, 2): lag in pixels, autocorrelation of the speckle in theory."""
    fields: Floats
    """(outputs shown, 2): true and recovered field, for unit vectors of mean square 1."""
    exposure_curve: Floats
    """(points, 2): exposure in microseconds, SNR in decibels; empty for a bench without noise."""


_NUMBERS = TypeAdapter(Numbers)


def to_json(numbers: Numbers) -> str:
    """The numbers as JSON text."""
    return _NUMBERS.dump_json(numbers, indent=1).decode() + "\n"


def from_json(text: str) -> Numbers:
    """The numbers of that text.

    Raises:
        pydantic.ValidationError: it is not one.
    """
    return _NUMBERS.validate_json(text)
