"""Per-pixel maps of a bench and the frames that calibrate them.

A pixel of responsivity g (photo-response, vignetting) where the reference arm has the level R² and the light of the
medium the relative intensity E reads, at the reference phase φ,

    D = dark + K·g·|√E·A + R·exp(iφ)|².

Two maps bring it to unit gain, and g itself need not be known: `reference` = g·R², from frames without any feature ON,
and `flat` = g·E, from the mean speckle of many patterns. The interference term is K·√(reference · flat) · 2 Re(…).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.readouts.base import Bench, later
from optical_dfa.emulator import FrameStamp
from optical_dfa.emulator.checks import require

FRAMES_AT_ONCE = 16
"""Calibration frames held at once."""

_TURN = np.arange(3) * (2 * math.pi / 3)


@dataclass(frozen=True)
class Calibration:
    """Which maps to take, and with how many frames. Zero frames: the map is taken to be uniform.

    Averaging N frames leaves a relative gain error of √(R² + s² + q²/12) / (2 R² √N) in each pixel from the reference
    map, and of 1/(2√N) from the flat map, which averages speckle: hundreds of frames, for errors above some percent.
    """

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    dark_frames: int = 0
    """Frames without any light: black level and its non-uniformity."""
    reference_frames: int = 0
    """Frames of the reference arm alone."""
    flat_frames: int = 0
    """Frames of the medium's light alone, each of other features; at most n_frame_inputs / `flat_features`."""
    flat_features: int = 1
    """Features ON in a frame of the flat map. More is brighter; too many saturate."""

    def __post_init__(self) -> None:
        for name in ("dark_frames", "reference_frames", "flat_frames"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "an int ≥ 0, frames")
        require(self.flat_features >= 1, "flat_features", self.flat_features, "an int ≥ 1")
        lit = self.reference_frames or self.flat_frames
        require(
            not lit or self.dark_frames > 0, "dark_frames", 0, "> 0 where lit frames are calibrated: the black level"
        )


@dataclass(frozen=True)
class Maps:
    """Calibrated maps; None: uniform."""

    dark_dn: npt.NDArray[np.float64] | None = None
    """(pixels,) mean reading without light, digital numbers."""
    reference_e: npt.NDArray[np.float64] | None = None
    """(pixels,) g·R², electrons."""
    flat: npt.NDArray[np.float64] | None = None
    """(pixels,) g·E, relative to its mean."""

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """The maps that there are, by name."""
        return {name: value.copy() for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[Any]], n_pixels: int) -> "Maps":
        """Maps of `state_dict`, other keys ignored.

        Raises:
            ValueError: a map of another image.
        """
        maps = {name: np.asarray(state[name], np.float64) for name in cls.__dataclass_fields__ if name in state}
        for name, value in maps.items():
            if value.shape != (n_pixels,):
                raise ValueError(
                    f"the calibration map {name!r} has the shape {value.shape}, this bench has images of {n_pixels:,} "
                    "pixels: load the calibration of this bench, or calibrate again"
                )
        return cls(**maps)

    def interference_gain(self, reference_e: float) -> npt.NDArray[np.float64] | None:
        """(pixels,) relative response √(reference · flat) / R to the interference term; None: 1 everywhere.

        Dead pixels have 0.
        """
        if self.reference_e is None and self.flat is None:
            return None
        reference = reference_e if self.reference_e is None else self.reference_e
        flat = 1.0 if self.flat is None else self.flat
        return np.asarray(np.sqrt(np.maximum(reference * flat, 0) / reference_e), np.float64)


def inverse(gain: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """1 / gain, and 0 for pixels below 1 % of the mean, which are dead: they would return nothing but noise."""
    alive = gain > 0.01 * gain.mean()
    return np.where(alive, 1 / np.where(alive, gain, 1), 0)


def take_maps(bench: Bench, plan: Calibration, at: FrameStamp) -> tuple[Maps, int]:
    """Take the maps of a plan.

    Args:
        bench: any bench; for reference frames, one with a reference arm.
        plan: which maps.
        at: stamp of the first frame.

    Returns:
        The maps, and the frames used.

    Raises:
        ValueError: the bench has no reference arm, or too few features for the flat map.
    """
    n = bench.info.n_frame_inputs
    none_on = np.zeros((1, n), np.uint8)
    dark = reference = flat = None
    if plan.dark_frames:
        dark = mean_image(bench, none_on, plan.dark_frames, at, reference=False)
    used = plan.dark_frames
    if plan.reference_frames:
        if not bench.info.has_reference:
            raise ValueError("this bench has no reference arm: set reference_frames to 0")
        reference = mean_image(bench, none_on, plan.reference_frames, later(at, used), reference=True)
        used += plan.reference_frames
    if plan.flat_frames:
        most = n // plan.flat_features
        require(
            plan.flat_frames <= most, "flat_frames", plan.flat_frames, f"at most {n} features / flat_features = {most}"
        )
        # no feature twice: features in common would leave a fixed speckle in the mean
        groups = np.zeros((plan.flat_frames, n), np.uint8)
        for number, group in enumerate(groups):
            group[number * plan.flat_features : (number + 1) * plan.flat_features] = 1
        flat = mean_image(bench, groups, plan.flat_frames, later(at, used), reference=False)
        used += plan.flat_frames
    black = 0.0 if dark is None else dark
    return Maps(
        dark_dn=dark,
        reference_e=None if reference is None else (reference - black) / bench.info.gain_dn_per_e,
        flat=None if flat is None else (flat - black) / np.mean(flat - black),
    ), used


def mean_image(
    bench: Bench, patterns: npt.NDArray[np.uint8], n_frames: int, at: FrameStamp, reference: bool
) -> npt.NDArray[np.float64]:
    """Mean (pixels,) of `n_frames` images of patterns shown in turn, digital numbers.

    The phase of the reference arm goes round: what leaks past OFF mirrors interferes with it, and averages out.
    """
    total = np.zeros(math.prod(bench.info.image_shape))
    for first, stop in _parts(n_frames):
        number = np.arange(first, stop)
        phases = _TURN[number % 3] if reference and bench.info.has_phase_modulator else None
        frames = patterns[number % len(patterns)]
        images = bench.expose(frames, phases=phases, reference=reference, at=later(at, first))
        total += images.reshape(len(images), -1).sum(axis=0, dtype=np.float64)
    return total / n_frames


def _parts(n_frames: int) -> Iterator[tuple[int, int]]:
    for first in range(0, n_frames, FRAMES_AT_ONCE):
        yield first, min(first + FRAMES_AT_ONCE, n_frames)
