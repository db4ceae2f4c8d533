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

from optical_dfa.devices.bench_wrapper import BenchWrapper
from optical_dfa.devices.errors import DeviceFault
from optical_dfa.devices.readouts.base import Bench
from optical_dfa.emulator import FrameStamp
from optical_dfa.emulator.checks import require

MARK_PHASE = np.pi / 4
"""Phase of the reference in a mark: between the quarter turns of phase stepping, which no frame of theirs equals."""

LEAST_PIXELS = 64
"""Correlations of fewer pixels are chance too often; here those of unrelated images reach 0.85 once in 10^15."""

MOST_REPEATS = 3

STRETCH = 5 * (1 + MOST_REPEATS)
"""A request takes at most so many times its frames: one frame with a mark before and behind, and all that repeated."""


class SyncedBench(BenchWrapper):
    """A bench that checks, request by request, that every image is that of its frame; itself a `Bench`.

    Args:
        bench: the bench, emulated or real.
        every: frames from mark to mark. The fewer, the less the phase may drift meanwhile, and the more is displayed:
            2 / every.
        features: features that are ON in a mark; by default the first two.
        least_correlation: of the images of neighbouring marks. Theirs is S/(S + N), interference over interference and
            noise, above 0.99 in the presets; that with an image half made of the same features is at most 0.71.
        repeats: times, 0 … 3, that frames are shown again, beginning with those whose images are wrong, before it is a
            fault.

    Raises:
        ValueError: too few pixels to correlate, or an impossible number.
    """

    def __init__(
        self,
        bench: Bench,
        every: int = 64,
        features: tuple[int, ...] = (0, 1),
        least_correlation: float = 0.85,
        repeats: int = 0,
    ) -> None:
        rows, columns = bench.info.image_shape
        require(rows * columns >= LEAST_PIXELS, "pixels", rows * columns, f"at least {LEAST_PIXELS} to tell marks by")
        require(every >= 1, "every", every, "an int ≥ 1, frames")
        known = bool(features) and all(0 <= feature < bench.info.n_frame_inputs for feature in features)
        require(known, "features", features, f"one or more from 0 to {bench.info.n_frame_inputs - 1}")
        require(0 < least_correlation < 1, "least_correlation", least_correlation, "between 0 and 1")
        require(0 <= repeats <= MOST_REPEATS, "repeats", repeats, f"0 … {MOST_REPEATS}")
        super().__init__(bench)
        self._every, self._least, self._repeats = every, least_correlation, repeats
        self._added = 0
        self._mark = np.zeros((2, bench.info.n_frame_inputs), np.uint8)
        self._mark[0, list(features)] = 1

    def expose(
        self,
        frames: npt.NDArray[np.uint8],
        *,
        phases: npt.NDArray[np.floating] | None = None,
        reference: bool = True,
        at: FrameStamp | None = None,
    ) -> npt.NDArray[Any]:
        """As of the bench, the marks left out.

        Blocks between marks that are right are kept; what comes behind them is shown again, `repeats` times at most
        without one more block that is right. A repeated request repeats its noise; that of another split of the same
        frames is another, since the marks are frames too.

        Raises:
            DeviceFault: images are not those of their frames; it says between which.
        """
        n = len(frames)
        angles = np.zeros(n) if phases is None else np.asarray(phases)
        kept: list[npt.NDArray[Any]] = []
        done = failed = 0
        while True:
            stamp = None if at is None else self._stamp(at, done, failed, n - done)
            images, fault = self._attempt(frames[done:], angles[done:], reference, stamp)
            kept.append(images)
            done += len(images)
            if not fault:
                self._added -= n
                return kept[0] if len(kept) == 1 else np.concatenate(kept)
            failed = 0 if len(images) else failed + 1
            if failed > self._repeats or not self._repeats:
                raise DeviceFault(
                    f"images of frames {done} … {min(n, done + self._every) - 1} of a request of {n} {fault}"
                )

    def frames_added(self) -> int:
        """Frames displayed since the last such question but those asked for: marks, and what was shown again."""
        added, self._added = self._added, 0
        return added

    def _stamp(self, at: FrameStamp, done: int, failed: int, left: int) -> FrameStamp:
        """That of an attempt at the last `left` frames: numbers that no other attempt has, and the time that passes."""
        first, frame_s = at.first_frame + done, self.frame_time_us * 1e-6
        again = failed * self._n_shown(left)
        time_s = (first * frame_s if at.time_s is None else at.time_s + done * frame_s) + again * frame_s
        return FrameStamp(at.stream, STRETCH * first + again, time_s)

    def _n_shown(self, n: int) -> int:
        """Frames that a request of n takes with its marks."""
        return n + 2 * (-(-n // self._every) + 1)

    def _attempt(
        self, frames: npt.NDArray[np.uint8], angles: npt.NDArray[np.floating], reference: bool, at: FrameStamp | None
    ) -> tuple[npt.NDArray[Any], str]:
        """Images of the frames before the first mark that is wrong, and what is wrong with it; nothing if none is."""
        n, every = len(frames), self._every
        place = np.arange(n) + 2 * (np.arange(n) // every + 1)  # of each frame, behind the marks
        shown = np.empty((self._n_shown(n), frames.shape[1]), np.uint8)
        marks = np.append(place[::every] - 2, len(shown) - 2)
        shown[place], shown[marks], shown[marks + 1] = frames, self._mark[0], self._mark[1]
        phases = np.full(len(shown), MARK_PHASE)
        phases[place] = angles
        stepped = phases if self.info.has_phase_modulator else None
        images = self._bench.expose(shown, phases=stepped, reference=reference, at=at)
        self._added += len(shown)
        for number, (before, after) in enumerate(itertools.pairwise(marks)):
            found = _correlation(images[before], images[after])
            # the camera repeats its last image: a shifted request could end with two of the first kind
            repeated = _correlation(images[after], images[after + 1]) >= self._least
            if repeated or not found >= self._least:
                kind = "repeated" if repeated else "not repeated"
                return images[place[: number * every]], (
                    f"are not those of their frames: the mark behind them correlates by {found:.2f} with the one "
                    f"before, expected {self._least:g} or more, and is {kind}. The camera dropped a frame, or the "
                    "phase drifted too fast for marks so far apart; repeat the request, or lower `every`"
                )
        return images[place], ""


def _correlation(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Correlation coefficient of two images; NaN if one of them is even."""
    a, b = (image.astype(np.float64).reshape(-1) - image.mean() for image in (one, other))
    norm = np.sqrt(np.dot(a, a) * np.dot(b, b))
    return float(np.dot(a, b) / norm) if norm else float("nan")
