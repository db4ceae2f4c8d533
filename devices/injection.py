"""Faults on purpose, to see what a run makes of them: wrappers of a bench, each with one fault, and a device of them.

What goes wrong depends on the seed and on how many requests there were before, failed ones included: a repeated request
meets other luck, and a rerun the same.
"""

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.base import Fields, Usage, Vectors
from optical_dfa.devices.bench_wrapper import BenchWrapper, Images
from optical_dfa.devices.errors import DeviceTimeout
from optical_dfa.devices.readouts.base import Bench
from optical_dfa.devices.wrapped import Spec, WrappedDevice, inner_device
from optical_dfa.emulator import FrameStamp
from optical_dfa.emulator.checks import require

_DROP, _STUCK, _FAIL = range(3)  # separates the random numbers of the faults that one seed draws


class Mishaps:
    """When the next thing goes wrong: random numbers by seed, kind of fault and request.

    Args:
        rate: probability, 0 … 1.
        seed: 0 or more.
        kind: which fault, so that those of one seed are independent.
    """

    def __init__(self, rate: float, seed: int, kind: int) -> None:
        self._rate, self._seed, self._kind, self._requests = rate, seed, kind, 0

    def draw(self, count: int = 1) -> npt.NDArray[np.bool_]:
        """Whether each of `count` things goes wrong in this request, (count,); the next call is the next request."""
        generator = np.random.default_rng([self._seed, self._kind, self._requests])
        self._requests += 1
        return np.asarray(generator.random(count) < self._rate)


class FailingBench(BenchWrapper):
    """A bench that fails now and then, before or after the frames were shown: `DeviceTimeout`."""

    def __init__(self, bench: Bench, rate: float, seed: int = 0) -> None:
        super().__init__(bench)
        self._mishaps, self._late = Mishaps(rate, seed, _FAIL), Mishaps(0.5, seed, _FAIL + 1)

    def expose(
        self,
        frames: npt.NDArray[np.uint8],
        *,
        phases: npt.NDArray[np.floating] | None = None,
        reference: bool = True,
        at: FrameStamp | None = None,
    ) -> Images:
        """As of the bench.

        Raises:
            DeviceTimeout: on purpose.
        """
        fails, late = self._mishaps.draw()[0], self._late.draw()[0]
        if fails and not late:
            raise DeviceTimeout("no trigger came (on purpose)")
        images = super().expose(frames, phases=phases, reference=reference, at=at)
        if fails:
            raise DeviceTimeout("the images did not come (on purpose)")
        return images


class DroppingBench(BenchWrapper):
    """A bench whose camera misses triggers: images behind a lost one move up, and the last is repeated."""

    def __init__(self, bench: Bench, rate: float, seed: int = 0) -> None:
        super().__init__(bench)
        self._mishaps = Mishaps(rate, seed, _DROP)

    def _seen(self, images: Images) -> Images:
        seen = np.flatnonzero(~self._mishaps.draw(len(images)))
        missing = len(images) - len(seen)
        return np.asarray(images[np.append(seen, np.full(missing, seen[-1] if len(seen) else 0))])


class StuckBench(BenchWrapper):
    """A bench with a fraction of pixels stuck at saturation, always the same ones."""

    def __init__(self, bench: Bench, fraction: float, seed: int = 0) -> None:
        super().__init__(bench)
        self._stuck = Mishaps(fraction, seed, _STUCK).draw(int(np.prod(bench.info.image_shape)))

    def _seen(self, images: Images) -> Images:
        images = images.copy()
        images.reshape(len(images), -1)[:, self._stuck] = _top(self, images)
        return images


class OverexposedBench(BenchWrapper):
    """A bench with so many times the light that it was set up for: readings above saturation are cut off."""

    def __init__(self, bench: Bench, factor: float) -> None:
        super().__init__(bench)
        self._factor = factor

    def _seen(self, images: Images) -> Images:
        black = self.info.black_level_dn
        brighter = np.clip((images - black) * self._factor + black, 0, _top(self, images))
        return (brighter if images.dtype.kind == "f" else np.rint(brighter)).astype(images.dtype)


class FaultyDevice(WrappedDevice):
    """Another device with faults on purpose, or as slow as the real one, to rehearse what a run makes of that.

    Args:
        device: name of the device, or a mapping of its `name` and options.
        failing_requests: probability that a request fails, half of them after it was shown.
        dropped_frames: probability that the camera misses a frame.
        stuck_pixels: fraction of pixels stuck at saturation.
        overexposure: times the light that the bench was set up for.
        real_time: a request takes at least so many times what the modelled machine needs for its frames; 0: no longer
            than it takes to compute.
        seed: of the faults.
        n_inputs, n_outputs: sizes of the device.

    Raises:
        ValueError: impossible numbers, or faults of frames in a device that shows none.
    """

    def __init__(
        self,
        *,
        device: Spec,
        failing_requests: float = 0.0,
        dropped_frames: float = 0.0,
        stuck_pixels: float = 0.0,
        overexposure: float = 1.0,
        real_time: float = 0.0,
        seed: int = 0,
        n_inputs: int | None = None,
        n_outputs: int | None = None,
    ) -> None:
        rates = {"failing_requests": failing_requests, "dropped_frames": dropped_frames, "stuck_pixels": stuck_pixels}
        for name, rate in rates.items():
            require(0 <= rate < 1, name, rate, "a probability from 0 to 1")
        require(overexposure > 0, "overexposure", overexposure, "a factor > 0")
        require(real_time >= 0, "real_time", real_time, "a factor ≥ 0")
        super().__init__(inner_device(device, n_inputs, n_outputs))
        self._faults = {**rates, "overexposure": overexposure, "real_time": real_time, "seed": seed}
        self.settings = {**self.inner.settings, "faults_on_purpose": self._faults}

        def wrap(bench: Bench) -> Bench:
            if overexposure != 1:
                bench = OverexposedBench(bench, overexposure)
            if stuck_pixels:
                bench = StuckBench(bench, stuck_pixels, seed)
            if dropped_frames:
                bench = DroppingBench(bench, dropped_frames, seed)
            return FailingBench(bench, failing_requests, seed) if failing_requests else bench

        shows_frames = self.inner.wrap_bench(wrap)
        for name, given in (("dropped_frames", dropped_frames), ("stuck_pixels", stuck_pixels)):
            require(shows_frames or not given, name, given, f"0: device {self.info.name!r} shows no frames")
        require(shows_frames or overexposure == 1, "overexposure", overexposure, "1: the device shows no frames")
        timed = self.info.frames_per_vector > 0
        require(timed or not real_time, "real_time", real_time, f"0: device {self.info.name!r} shows no frames")
        self._mishaps = None if shows_frames else Mishaps(failing_requests, seed, _FAIL)

    def spec(self) -> dict[str, Any]:
        """See `WrappedDevice`."""
        return {"name": "faulty", "device": self.inner.spec(), **self._faults}

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        if self._mishaps is not None and self._mishaps.draw()[0]:
            raise DeviceTimeout("no answer came (on purpose)")
        start = time.perf_counter()
        fields, usage = super()._project(vectors)
        time.sleep(max(0.0, start + self._faults["real_time"] * usage.device_seconds - time.perf_counter()))
        return fields, usage


def _top(bench: BenchWrapper, images: Images) -> float:
    """Digital number of a saturated pixel; without a limit, the largest that was read."""
    saturation = bench.info.saturation_dn
    return float(saturation if np.isfinite(saturation) else images.max(initial=0))
