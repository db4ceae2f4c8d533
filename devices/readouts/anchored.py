"""Anchored readout: no reference arm; the light of known patterns, the anchors, is the reference."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.readouts.base import Bench, Reading, count_saturated, later, real_type
from optical_dfa.devices.readouts.maps import Calibration, Maps, inverse, mean_image, take_maps
from optical_dfa.emulator import FrameStamp
from optical_dfa.emulator.checks import require

DIM = 0.1
"""A pixel is dim where its brightest anchor gives less than this part of the mean."""


class Anchored:
    """One quadrature of every mode, its phase set by an anchor r, a pattern on elements that no feature uses.

        Re(exp(-i arg(A r)) A x) = (I_{x+r} - I_x - I_r) / (2 √I_r)

    The field of the reference passes the same medium, so common phase drift cancels. I_r is calibrated by averaging; it
    cancels between the two patterns of a ternary vector, which then takes four frames with one anchor. Where an anchor
    is dark the noise blows up: of several anchors each pixel uses its brightest, and pixels dimmer than `dim` times the
    mean are dropped. An output has a phase φ of its own, fixed and unknown on real benches:
    cosφ · row 2m + sinφ · row 2m+1 of T, again independent Gaussian numbers.

    Variance at a pixel, I_r known: (I_{x+r} + I_x + 2s² + 2q²/12) / (4 I_r), see `noise`.

    Args:
        bench: any bench; one pixel reads one mode.
        n_features: elements 0 … n_features - 1 of a frame are features, all others free for anchors.
        anchors: uint8 (anchors, n_frame_inputs), 0 or 1; see `anchor_patterns`.
        n_outputs: outputs, each a pixel that is not dim.
        dim: a pixel is dropped if its brightest anchor gives less than this fraction of the mean over anchors and
            pixels.
        anchor_frames: frames that I_r of each anchor is averaged over, in `calibrate`.
        calibration: further maps to take in `calibrate`; without reference frames.

    Raises:
        ValueError: anchors on features, or an empty anchor.
    """

    outputs_per_mode = 1

    def __init__(
        self,
        bench: Bench,
        n_features: int,
        anchors: npt.NDArray[np.uint8],
        n_outputs: int,
        *,
        dim: float = DIM,
        anchor_frames: int = 64,
        calibration: Calibration = Calibration(),  # noqa: B008  # frozen
    ) -> None:
        n = bench.info.n_frame_inputs
        given = f"{anchors.dtype} {anchors.shape}"
        require(anchors.dtype == np.uint8 and anchors.ndim == 2 and anchors.shape[1] == n and len(anchors) > 0,
                "anchors", given, f"a uint8 array of shape (anchors, {n})")  # fmt: skip
        require(1 <= n_features < n, "n_features", n_features, f"1 … {n - 1}: some of the {n} elements are for anchors")
        require(not anchors[:, :n_features].any(), "anchors", "features", f"0 on the features 0 … {n_features - 1}")
        require(bool(anchors.any(axis=1).all()), "anchors", "an empty one", "1 somewhere in each anchor")
        require(0 < dim < 1, "dim", dim, "a number between 0 and 1")
        require(anchor_frames >= 1, "anchor_frames", anchor_frames, "an int ≥ 1")
        reference_frames = calibration.reference_frames
        require(reference_frames == 0, "reference_frames", reference_frames, "0: there is no reference arm to map")
        pixels = math.prod(bench.info.image_shape)
        require(1 <= n_outputs <= pixels, "n_outputs", n_outputs, f"1 … {pixels}, the pixels of an image")
        self.n_pattern_inputs, self.n_outputs, self.anchors = n_features, n_outputs, anchors
        self.maps = Maps()
        self._bench, self._dim, self._anchor_frames, self._calibration = bench, dim, anchor_frames, calibration
        self._pixels: npt.NDArray[np.int64] | None = None
        self._anchor_of: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._anchor_e: npt.NDArray[np.float64] = np.zeros(0)

    @property
    def frames_per_pattern(self) -> int:
        """The pattern alone, and with each anchor."""
        return 1 + len(self.anchors)

    @property
    def mode_of_output(self) -> npt.NDArray[np.int64]:
        """(n_outputs,) pixel that each output is read from. See `Readout`."""
        return self._chosen()

    @property
    def chosen(self) -> bool:
        """Whether it is fixed which pixel gives each output."""
        return self._pixels is not None

    def choose(self, anchor_e: npt.NDArray[np.floating]) -> None:
        """Fix which pixel and which anchor give each output; `calibrate` does so if it was not done before.

        Args:
            anchor_e: (anchors, pixels) I_r, measured or, on an emulated bench, exact; any unit.

        Raises:
            ValueError: too few pixels are bright enough.
        """
        brightest = anchor_e.argmax(axis=0)
        bright = np.flatnonzero(anchor_e.max(axis=0) >= self._dim * anchor_e.mean())
        if len(bright) < self.n_outputs:
            raise ValueError(
                f"{len(bright)} of {anchor_e.shape[1]} pixels are not dim, for {self.n_outputs} outputs: use a larger "
                f"image, more anchors (now {len(self.anchors)}), or a lower limit `dim` (now {self._dim:g})"
            )
        self._pixels = bright[: self.n_outputs]
        self._anchor_of = brightest[self._pixels]

    def calibrate(self, at: FrameStamp) -> int:
        """Take the maps of `calibration` and I_r of every anchor; returns the frames used."""
        maps, used = take_maps(self._bench, self._calibration, at)
        gain = self._bench.info.gain_dn_per_e
        black = 0.0 if maps.dark_dn is None else maps.dark_dn
        anchor_e = np.empty((len(self.anchors), math.prod(self._bench.info.image_shape)))
        for number in range(len(self.anchors)):
            anchor = self.anchors[number : number + 1]
            mean = mean_image(self._bench, anchor, self._anchor_frames, later(at, used), reference=False)
            anchor_e[number] = (mean - black) / gain
            used += self._anchor_frames
        if self._pixels is None:
            self.choose(anchor_e)
        self.maps = maps
        self._anchor_e = anchor_e[self._anchor_of, self._chosen()]
        return used

    def read(self, patterns: npt.NDArray[np.uint8], at: FrameStamp) -> Reading:
        """One quadrature of each chosen mode behind each binary pattern.

        Args:
            patterns: uint8 (patterns, n_features), 0 or 1; each is shown with every anchor, then alone.
            at: stamp of the first frame.

        Raises:
            ValueError: patterns of another length, or no calibration yet.
        """
        pixels = self._chosen()
        if not len(self._anchor_e):
            raise ValueError("the anchored readout is not calibrated: call calibrate, or load a calibration")
        given = f"{patterns.dtype} {patterns.shape}"
        fits = patterns.dtype == np.uint8 and patterns.ndim == 2 and patterns.shape[1] == self.n_pattern_inputs
        require(fits, "patterns", given, f"a uint8 array of shape (patterns, {self.n_pattern_inputs})")
        per_pattern = self.frames_per_pattern
        frames = np.zeros((len(patterns), per_pattern, self._bench.info.n_frame_inputs), np.uint8)
        frames[:, :, : self.n_pattern_inputs] = patterns[:, None]
        frames[:, :-1] |= self.anchors
        images = self._bench.expose(frames.reshape(-1, frames.shape[2]), reference=False, at=at)
        steps = images.reshape(len(patterns), per_pattern, -1)
        real = real_type(images)
        difference = np.subtract(steps[:, self._anchor_of, pixels], steps[:, -1, pixels], dtype=real)
        amplitude = (difference / real(self._bench.info.gain_dn_per_e) - self._anchor_e.astype(real)) * self._factor(
            real
        )
        saturated = count_saturated(images, self._bench.info.saturation_dn)
        return Reading(amplitude, len(images), saturated, images.size)

    def mix(self, rows: npt.NDArray[Any], outputs: slice = slice(None)) -> npt.NDArray[Any]:
        """cosφ · row 2m + sinφ · row 2m+1, φ the phase of the anchor's field there. See `Readout`."""
        field = rows[0::2].astype(np.float64) + 1j * rows[1::2].astype(np.float64)
        anchors = self.anchors[self._anchor_of[outputs]]
        anchor_field = np.einsum("on,on->o", field, anchors)
        turned = field[:, : self.n_pattern_inputs] * (anchor_field.conj() / np.abs(anchor_field))[:, None]
        return np.asarray(turned.real)

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Maps, pixel and anchor of each output, and I_r there."""
        if self._pixels is None:
            return {}
        chosen = {"pixels": self._pixels.copy(), "anchor_of": self._anchor_of.copy(), "anchor_e": self._anchor_e.copy()}
        return {**self.maps.state_dict(), **chosen}

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over the calibration of `state_dict`.

        Raises:
            ValueError: no calibration, or one of another image, or of other outputs or anchors.
        """
        if "pixels" not in state:
            raise ValueError("the state holds no calibration of an anchored readout: save one that is calibrated")
        maps = Maps.from_state(state, math.prod(self._bench.info.image_shape))
        pixels, anchor_of = (np.asarray(state[name], np.int64) for name in ("pixels", "anchor_of"))
        if pixels.shape != (self.n_outputs,) or anchor_of.max() >= len(self.anchors):
            raise ValueError(
                f"the calibration is of {len(pixels)} outputs and {anchor_of.max() + 1} or more anchors, this readout "
                f"has {self.n_outputs} and {len(self.anchors)}: calibrate again"
            )
        self.maps, self._pixels, self._anchor_of = maps, pixels, anchor_of
        self._anchor_e = np.asarray(state["anchor_e"], np.float64)

    def _factor(self, real: type[np.floating]) -> npt.NDArray[np.floating]:
        """1 / (2 √(I_r · flat)) for each output, which is 1 / (2 √I_r) behind a pixel of responsivity `flat`."""
        flat = 1.0 if self.maps.flat is None else self.maps.flat[self._chosen()]
        return (inverse(np.sqrt(np.maximum(self._anchor_e * flat, 0))) / 2).astype(real)

    def _chosen(self) -> npt.NDArray[np.int64]:
        if self._pixels is None:
            raise ValueError("the anchored readout has no outputs yet: call calibrate, or load a calibration")
        return self._pixels


def anchor_patterns(
    n_frame_inputs: int, n_features: int, n_anchors: int, features_per_anchor: int
) -> npt.NDArray[np.uint8]:
    """Disjoint anchors on the elements behind the features.

    Args:
        n_frame_inputs: elements of a frame.
        n_features: elements that the vectors use.
        n_anchors: how many anchors.
        features_per_anchor: elements ON in each; with the mean signal of one, that many times it is the mean I_r.

    Returns:
        uint8 (n_anchors, n_frame_inputs).

    Raises:
        ValueError: the features leave no room.
    """
    require(n_anchors >= 1, "n_anchors", n_anchors, "an int ≥ 1")
    require(features_per_anchor >= 1, "features_per_anchor", features_per_anchor, "an int ≥ 1")
    needed = n_features + n_anchors * features_per_anchor
    if needed > n_frame_inputs:
        raise ValueError(
            f"{n_features:,} features and {n_anchors} anchors of {features_per_anchor} elements need {needed:,} "
            f"elements of a frame, which has {n_frame_inputs:,}: show shorter vectors, or use fewer or smaller anchors"
        )
    anchors = np.zeros((n_anchors, n_frame_inputs), np.uint8)
    for number, anchor in enumerate(anchors):
        first = n_features + number * features_per_anchor
        anchor[first : first + features_per_anchor] = 1
    return anchors


def bright_fraction(n_anchors: int, dim: float) -> float:
    """Part of the pixels that are not dim: 1 - (1 - exp(-dim))^anchors, for speckle of exponential intensity."""
    return 1 - (1 - math.exp(-dim)) ** n_anchors
