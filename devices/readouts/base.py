"""The seam between readouts and benches, and what every readout offers."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator import BenchInfo, FrameStamp


class Bench(Protocol):
    """A DMD, a medium and a camera, emulated or real."""

    @property
    def info(self) -> BenchInfo:
        """What a readout must know of the bench."""

    @property
    def frame_time_us(self) -> float:
        """Time from frame to frame, microseconds."""

    def configure(self, *, exposure_us: float, reference_e: float) -> None:
        """Set exposure time (microseconds) and reference level (electrons per pixel and exposure)."""

    def expose(
        self,
        frames: npt.NDArray[np.uint8],
        *,
        phases: npt.NDArray[np.floating] | None = None,
        reference: bool = True,
        at: FrameStamp | None = None,
    ) -> npt.NDArray[Any]:
        """Show binary frames (frames, n_frame_inputs), one reference phase (radians) each.

        Returns images (frames, rows, columns).
        """


@dataclass(frozen=True)
class Reading:
    """What a readout made of some patterns."""

    amplitude: npt.NDArray[np.floating]
    """(patterns, outputs) in root electrons: float32, or float64 from a camera without a converter."""
    frames: int
    saturated_pixels: int
    pixel_readings: int


class Readout(Protocol):
    """Reads fields linear in the binary patterns off a bench."""

    @property
    def frames_per_pattern(self) -> int:
        """Frames that one binary pattern takes."""

    @property
    def n_pattern_inputs(self) -> int:
        """Binary elements of a pattern."""

    @property
    def n_outputs(self) -> int:
        """Outputs of a pattern."""

    @property
    def outputs_per_mode(self) -> int:
        """Outputs of a speckle mode: 2, both quadratures, or 1."""

    @property
    def mode_of_output(self) -> npt.NDArray[np.int64]:
        """(n_outputs,) the mode m, rows 2m and 2m+1 of the transmission matrix, that each output comes from."""

    def calibrate(self, at: FrameStamp) -> int:
        """Take the maps that the readout was told to take.

        Args:
            at: stamp of the first frame.

        Returns:
            Frames used.
        """

    def read(self, patterns: npt.NDArray[np.uint8], at: FrameStamp) -> Reading:
        """Fields of binary patterns.

        Args:
            patterns: uint8 (patterns, n_pattern_inputs), 0 or 1.
            at: stamp of the first frame.
        """

    def mix(self, rows: npt.NDArray[Any], outputs: slice = slice(None)) -> npt.NDArray[Any]:
        """Rows of the effective matrix: what the outputs are, without noise, as combinations of rows of T.

        Args:
            rows: (2 · outputs, n_frame_inputs), rows 2m and 2m+1 of T for the mode m of each output.
            outputs: which outputs those are.

        Returns:
            (outputs, n_pattern_inputs), of the unit of `rows`.
        """

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """The calibration, as plain arrays; empty before it."""

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over a calibration of a readout with the same settings."""


def later(at: FrameStamp, frames: int) -> FrameStamp:
    """The stamp of the frame that comes `frames` later."""
    return dataclasses.replace(at, first_frame=at.first_frame + frames)


def count_saturated(images: npt.NDArray[Any], saturation_dn: float) -> int:
    """Readings at or above the saturation of the camera."""
    return int(np.count_nonzero(images >= saturation_dn)) if saturation_dn < math.inf else 0


def real_type(images: npt.NDArray[Any]) -> type[np.float32 | np.float64]:
    """Type in which images are demodulated: float64 without a converter, else float32, which holds every reading."""
    return np.float64 if images.dtype == np.float64 else np.float32
