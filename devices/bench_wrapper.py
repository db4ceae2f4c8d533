"""What stands between a readout and its bench: a recorder, a fault, a check."""

from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.readouts.base import Bench
from optical_dfa.emulator import BenchInfo, FrameStamp

Images = npt.NDArray[Any]
"""(frames, rows, columns)"""


class BenchWrapper:
    """A bench seen through something else; what a subclass does not change is that of the bench.

    A subclass that looks at the images alone, or changes them, defines `_seen`; any other one `expose`.

    Args:
        bench: emulated or real.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    @property
    def info(self) -> BenchInfo:
        """That of the bench."""
        return self._bench.info

    @property
    def frame_time_us(self) -> float:
        """That of the bench, microseconds."""
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
    ) -> Images:
        """As of the bench."""
        return self._seen(self._bench.expose(frames, phases=phases, reference=reference, at=at))

    def _seen(self, images: Images) -> Images:
        """What is made of the images of a request."""
        return images
