"""Checks of what a real bench answers: the right images, in the right number, none of them lost."""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.bench_wrapper import BenchWrapper
from optical_dfa.devices.errors import DeviceFault, DeviceTimeout, DeviceUnavailable
from optical_dfa.devices.readouts.base import Bench
from optical_dfa.emulator import FrameStamp
from optical_dfa.emulator.checks import require

MEMBERS = ("info", "frame_time_us", "configure", "expose")
"""What a bench must have."""


class CountingBench(Bench, Protocol):
    """A bench whose camera numbers its images."""

    def frame_counters(self) -> npt.NDArray[np.integer]:
        """(frames,) numbers that the camera gave to the images of the last `expose`, rising by one."""


class CheckedBench(BenchWrapper):
    """A bench whose answers are held against its info, and whose driver's errors are those of a device.

    `TimeoutError` becomes `DeviceTimeout`, any other `OSError` `DeviceUnavailable`, and an answer of another shape,
    kind or range `DeviceFault`. Other exceptions are bugs of the driver and stay what they are.
    """

    def expose(
        self,
        frames: npt.NDArray[np.uint8],
        *,
        phases: npt.NDArray[np.floating] | None = None,
        reference: bool = True,
        at: FrameStamp | None = None,
    ) -> npt.NDArray[Any]:
        """As of the bench.

        Raises:
            DeviceTimeout, DeviceUnavailable, DeviceFault: see the class.
        """
        try:
            images = self._bench.expose(frames, phases=phases, reference=reference, at=at)
        except TimeoutError as error:
            raise DeviceTimeout(
                f"the bench did not answer a request of {len(frames)} frames in time ({error}): look at its triggers"
            ) from error
        except OSError as error:
            raise DeviceUnavailable(f"the bench failed ({error}): look at its cables and its driver") from error
        expected = (len(frames), *self.info.image_shape)
        given = f"{getattr(images, 'dtype', type(images).__name__)} {getattr(images, 'shape', '')}".strip()
        if not isinstance(images, np.ndarray) or images.shape != expected:
            raise DeviceFault(f"the bench must answer with images of shape {expected}; got {given}: repeat the request")
        kind = "f" if self.info.adc_bits is None else "u"
        if images.dtype.kind != kind:
            accepted = "uint8 or uint16" if kind == "u" else "floating-point numbers, its info.adc_bits being None"
            raise DeviceFault(f"images of this bench must be {accepted}; got {given}: mend the driver")
        if self.info.adc_bits is not None and images.size and int(images.max()) >= 1 << self.info.adc_bits:
            raise DeviceFault(
                f"images of {self.info.adc_bits} bits must be below {1 << self.info.adc_bits}; got {images.max()}: the "
                "pixel format of the camera is another than the info of the bench says"
            )
        return images


class CountedBench(BenchWrapper):
    """A bench whose images are numbered by its camera: lost ones leave a gap, which is found out.

    A counter finds what was lost on the way from the sensor. A trigger that the camera did not see it finds only if the
    camera counts triggers, not images; `SyncedBench` finds both.

    Args:
        bench: with a method `frame_counters`.

    Raises:
        ValueError: it has none.
    """

    def __init__(self, bench: Bench) -> None:
        counts = callable(getattr(bench, "frame_counters", None))
        require(counts, "bench", type(bench).__name__, "a bench with a method frame_counters()")
        super().__init__(bench)
        self._counters = bench.frame_counters  # type: ignore[attr-defined]

    def expose(
        self,
        frames: npt.NDArray[np.uint8],
        *,
        phases: npt.NDArray[np.floating] | None = None,
        reference: bool = True,
        at: FrameStamp | None = None,
    ) -> npt.NDArray[Any]:
        """As of the bench.

        Raises:
            DeviceFault: the numbers of the images do not rise by one; it says behind which frame.
        """
        images = super().expose(frames, phases=phases, reference=reference, at=at)
        numbers = np.asarray(self._counters())
        if numbers.shape != (len(frames),):
            raise DeviceFault(f"the bench must give {len(frames)} frame counters, one an image; got {numbers.shape}")
        gaps = np.flatnonzero(np.diff(numbers.astype(np.int64)) != 1)
        if len(gaps):
            at_frame = int(gaps[0])
            raise DeviceFault(
                f"behind frame {at_frame} of a request of {len(frames)} the camera counted from {numbers[at_frame]} to "
                f"{numbers[at_frame + 1]}: images were lost; repeat the request, or show frames more slowly"
            )
        return images
