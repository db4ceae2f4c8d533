"""Frames that a camera dropped are found out: a bench that shows known frames among those asked for.

A camera that misses one trigger gives every later image of the request to the frame before: vectors are swapped, and
nothing looks wrong. So each request begins and ends with a mark, and has one after every so many frames. A mark is two
frames: one of known features, whose image must correlate with that of the mark before, and a dark one, so that an image
that moved up by one is in its place.
"""

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.errors import DeviceFault
from optical_dfa.devices.readouts.base import Bench
from optical_dfa.emulator import BenchInfo, FrameStamp
from optical_dfa.emulator.checks import require

MARK_PHASE = np.pi / 4
"""Phase of the reference in a mark: between the quarter turns of phase stepping, which no frame of theirs equals."""

LEAST_PIXELS = 64
"""Correlations of fewer pixels are chance too often; here those of unrelated images reach 0.85 once in 10^15."""

STRETCH = 5
"""A request takes at most so many times its frames: one frame with a mark before and behind."""


class SyncedBench:
    """A bench that checks, request by request, that every image is that of its frame; itself a `Bench`.

    Args:
        bench: the bench, emulated or real.
        every: frames from mark to mark. The fewer, the less the phase may drift meanwhile, and the more is displayed:
            2 / every.
        features: features that are ON in a mark; by default the first two.
        least_correlation: of the images of neighbouring marks. Theirs is S/(S + N), interference over interference and
            noise, above 0.99 in the presets; that with an image half made of the same features is at most 0.71.

    Raises:
        ValueError: too few pixels to correlate, or an impossible number.
    """

    def __init__(
        self, bench: Bench, every: int = 64, features: tuple[int, ...] = (0, 1), least_correlation: float = 0.85
    ) -> None:
        rows, columns = bench.info.image_shape
        require(rows * columns >= LEAST_PIXELS, "pixels", rows * columns, f"at least {LEAST_PIXELS} to tell marks by")
        require(every >= 1, "every", every, "an int ≥ 1, frames")
        known = bool(features) and all(0 <= feature < bench.info.n_frame_inputs for feature in features)
        require(known, "features", features, f"one or more from 0 to {bench.info.n_frame_inputs - 1}")
        require(0 < least_correlation < 1, "least_correlation", least_correlation, "between 0 and 1")
        self._bench, self._every, self._least = bench, every, least_correlation
        self._mark = np.zeros((2, bench.info.n_frame_inputs), np.uint8)
        self._mark[0, list(features)] = 1

    @property
    def info(self) -> BenchInfo:
        """That of the bench."""
        return self._bench.info

    @property
    def frame_time_us(self) -> float:
        """That of the bench; marks take time too, 2 / every of that of the frames."""
        return self._bench.frame_time_us

    def configure(self, *, exposure_us: float, reference_e: float) -> None:
        """As of the bench."""
        self._bench.configure(exposure_us=exposure_us, reference_e=reference_e)

    def expose(
        self,
        frames: npt.NDArray[np.uint8],
        *,
        phases: npt.NDArray[np.floating] | None = None,
        reference: bool = True,
        at: FrameStamp | None = None,
    ) -> npt.NDArray[Any]:
        """As of the bench, the marks left out.

        A repeated request repeats its noise; that of another split of the same frames is another, since the marks are
        frames too.

        Raises:
            DeviceFault: images are not those of their frames; it says between which.
        """
        n = len(frames)
        place = np.arange(n) + 2 * (np.arange(n) // self._every + 1)  # of each frame, behind the marks
        marks = np.append(place[:: self._every] - 2, n + 2 * -(-n // self._every))
        shown = np.empty((marks[-1] + 2, frames.shape[1]), np.uint8)
        shown[place], shown[marks], shown[marks + 1] = frames, self._mark[0], self._mark[1]
        angles = np.full(len(shown), MARK_PHASE)
        angles[place] = 0.0 if phases is None else phases
        if at is not None:
            time_s = at.first_frame * self.frame_time_us * 1e-6 if at.time_s is None else at.time_s
            at = FrameStamp(at.stream, STRETCH * at.first_frame, time_s)
        images = self._bench.expose(shown, phases=angles, reference=reference, at=at)
        for number, (before, after) in enumerate(itertools.pairwise(marks)):
            found = _correlation(images[before], images[after])
            # the camera repeats its last image: a shifted request could end with two of the first kind
            repeated = _correlation(images[after], images[after + 1]) >= self._least
            if repeated or not found >= self._least:
                first, last = number * self._every, min(n, (number + 1) * self._every) - 1
                raise DeviceFault(
                    f"images of frames {first} … {last} of a request of {n} are not those of their frames: the mark "
                    f"behind them correlates by {found:.2f} with the one before, expected {self._least:g} or more, and "
                    f"is {'' if repeated else 'not '}repeated. The camera dropped a frame, or the phase drifted too "
                    "fast for marks so far apart; repeat the request, or lower `every`"
                )
        seen: npt.NDArray[Any] = images[place]
        return seen


def _correlation(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Correlation coefficient of two images; NaN if one of them is even."""
    a, b = (image.astype(np.float64).reshape(-1) - image.mean() for image in (one, other))
    norm = np.sqrt(np.dot(a, a) * np.dot(b, b))
    return float(np.dot(a, b) / norm) if norm else float("nan")
