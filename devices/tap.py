"""Raw frames to look at: a bench that remembers the last request."""

from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.bench_wrapper import BenchWrapper
from optical_dfa.emulator import FrameStamp
from optical_dfa.emulator.arrays import on_host

MOST_FRAMES = 64
"""Frames of a request that are remembered, from its beginning."""


class FrameTap(BenchWrapper):
    """A bench that remembers what it showed and saw last; use it as `device.wrap_bench(FrameTap)`."""

    last: dict[str, npt.NDArray[Any]] | None = None
    """`frames` (frames, n_frame_inputs), `images` (frames, rows, columns) and, if there were any, `phases` (frames,) in
    radians; None before the first request."""

    def expose(
        self,
        frames: npt.NDArray[np.uint8],
        *,
        phases: npt.NDArray[np.floating] | None = None,
        reference: bool = True,
        at: FrameStamp | None = None,
    ) -> npt.NDArray[Any]:
        """As of the bench."""
        images = super().expose(frames, phases=phases, reference=reference, at=at)
        shown = {"frames": frames, "images": images} | ({} if phases is None else {"phases": phases})
        self.last = {name: np.array(on_host(array[:MOST_FRAMES])) for name, array in shown.items()}
        return images
