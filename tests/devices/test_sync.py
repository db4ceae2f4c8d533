"""Dropped frames: how the camera shifts images, and that marks among the frames find it out."""

import dataclasses

import numpy as np
import pytest
from effect_bench import NOISY, fields, make_bench, random_frames, transmission
from scipy import stats

from optical_dfa.devices import DeviceFault
from optical_dfa.devices.readouts.phase_stepping import PhaseStepping
from optical_dfa.devices.sync import SyncedBench
from optical_dfa.emulator import FrameStamp, Medium


def test_a_dropped_frame_moves_the_images_behind_it_up() -> None:
    """Number of lost images: binomial, false alarms 1e-6. The others are those of the same frames, in their order."""
    camera = dataclasses.replace(NOISY, dropped_frames=0.05)
    frames = random_frames(2000, 12)
    whole = make_bench(12, 40, camera=NOISY).expose(frames, at=FrameStamp(3, 9)).reshape(2000, -1)
    bench = make_bench(12, 40, camera=camera)
    found = bench.expose(frames, at=FrameStamp(3, 9)).reshape(2000, -1)
    kept = camera.arriving(3, 3, 9 + np.arange(2000, dtype=np.uint64))
    np.testing.assert_array_equal(found, whole[kept])
    lost = 2000 - len(np.unique(kept))
    low, high = stats.binom.ppf([5e-7, 1 - 5e-7], 2000, 0.05)
    assert low <= lost <= high
    assert (np.diff(kept[: 2000 - lost]) >= 1).all()
    assert (kept[2000 - lost - 1 :] == kept[-1]).all()
    np.testing.assert_array_equal(bench.expose(frames, at=FrameStamp(3, 9)).reshape(2000, -1), found)
    assert not NOISY.dropped_frames
    assert not camera.noiseless


def test_without_drops_the_images_are_those_of_the_bench() -> None:
    """Any number of frames, also with noise, phases and drift of the phase."""
    bench = make_bench(12, 100)
    for every, n in ((1, 5), (4, 4), (4, 9), (64, 1), (64, 200), (8, 0)):
        frames, phases = random_frames(max(n, 1), 12)[:n], np.arange(float(n))
        images = SyncedBench(bench, every).expose(frames, phases=phases, at=FrameStamp(0, 7))
        np.testing.assert_array_equal(images, bench.expose(frames, phases=phases))
    shaky = make_bench(12, 100, camera=NOISY, medium=Medium(piston_walk_rad=0.2, vibration_rad=0.1))
    synced = SyncedBench(shaky, 16)
    for request in range(50):
        synced.expose(random_frames(100, 12), at=FrameStamp(0, 100 * request))
    assert synced.info == shaky.info
    assert synced.frame_time_us == 500.0


@pytest.mark.parametrize("every", [1, 16, 1000])
def test_every_harmful_drop_is_found(every: int) -> None:
    """200 requests of 60 frames: whatever passes without a fault is right. A request of one kind or the other: many."""
    camera = dataclasses.replace(NOISY, dropped_frames=0.01)
    bench, whole = make_bench(12, 100, camera=camera), make_bench(12, 100, camera=NOISY)
    frames, right, wrong = random_frames(60, 12), 0, 0
    for request in range(200):
        at = FrameStamp(1, 60 * request)
        try:
            images = SyncedBench(bench, every).expose(frames, at=at)
        except DeviceFault:
            wrong += 1
            continue
        np.testing.assert_array_equal(images, SyncedBench(whole, every).expose(frames, at=at))
        right += 1
    assert right > 10
    assert wrong > 30


def test_a_fault_names_the_frames() -> None:
    """The camera drops the third data frame of the second block of four."""

    class Dropping:
        def __init__(self) -> None:
            self._bench = make_bench(12, 100)
            self.info, self.frame_time_us, self.configure = self._bench.info, 500.0, self._bench.configure

        def expose(self, frames, **options):  # type: ignore[no-untyped-def]
            images = self._bench.expose(frames, **options)
            return np.concatenate([images[:10], images[11:], images[-1:]])

    with pytest.raises(DeviceFault, match=r"^images of frames 4 … 7 of a request of 12 are not"):
        SyncedBench(Dropping(), 4).expose(random_frames(12, 12))


def test_a_readout_reads_it_like_any_bench() -> None:
    frames = random_frames(6, 12)
    bench = make_bench(12, 100)
    found = PhaseStepping(SyncedBench(bench, 8), 1500.0).read(frames, FrameStamp(0, 0)).amplitude
    field = frames @ transmission(12, 100).T
    np.testing.assert_allclose(found[:, 0::2] + 1j * found[:, 1::2], field, atol=1e-8)
    np.testing.assert_allclose(fields(bench, frames), field, atol=1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be an int ≥ 1, frames; got 0"),
        ({"features": ()}, "features must be one or more from 0 to 11; got ()"),
        ({"features": (12,)}, "features must be one or more from 0 to 11; got (12,)"),
        ({"least_correlation": 1.0}, "least_correlation must be between 0 and 1; got 1.0"),
    ],
)
def test_impossible_marks_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match="must be") as error:
        SyncedBench(make_bench(12, 100), **options)  # type: ignore[arg-type]
    assert str(error.value) == message
    with pytest.raises(ValueError, match=r"^pixels must be at least 64 to tell marks by; got 9$"):
        SyncedBench(make_bench(12, 9))
