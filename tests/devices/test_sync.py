"""Dropped frames: how the camera shifts images, and that marks among the frames find it out."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from effect_bench import NOISY, fields, make_bench, random_frames, transmission
from scipy import stats

from optical_dfa.devices import DeviceFault, EmulatedDevice, make_device
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


@pytest.mark.parametrize("every", [1, 16])
def test_what_comes_behind_a_dropped_frame_is_shown_again(every: int) -> None:
    """200 requests of 60 frames: all images are right, and the same when the request is repeated.

    Of the 20 frames of a block one is lost with the probability 0.33 at most, and four times in a row in 1.2 %.
    """
    noisy = dataclasses.replace(NOISY, dropped_frames=0.02 if every == 16 else 0.002)
    calm = dataclasses.replace(NOISY, adc_bits=None)
    frames, faults, added = random_frames(60, 12), 0, 0
    exact = make_bench(12, 100, camera=calm).expose(frames).reshape(60, -1)
    synced = SyncedBench(make_bench(12, 100, camera=noisy), every, repeats=3)
    for request in range(200):
        at = FrameStamp(1, 60 * request)
        synced.frames_added()
        try:
            images = synced.expose(frames, at=at)
        except DeviceFault:
            faults += 1
            continue
        added += synced.frames_added()
        assert synced.frames_added() == 0
        np.testing.assert_array_equal(synced.expose(frames, at=at), images)
        pairs = zip(images.reshape(60, -1), exact, strict=True)
        assert min(np.corrcoef(found, true)[0, 1] for found, true in pairs) > 0.9
    assert faults < 20
    assert added > (200 - faults) * 2 * (-(-60 // every) + 1)


DROPPING: dict[str, Any] = {"camera": {"dropped_frames": 0.01}, "n_inputs": 200, "n_outputs": 300}


def projected(readout: dict[str, Any], **options: Any) -> tuple[EmulatedDevice, float]:
    """A device that has projected 4 times 30 vectors of one ON feature, and how many of them came out wrong."""
    vectors = np.zeros((120, 200), np.int8)
    vectors[np.arange(120), np.arange(120)] = 1
    with make_device("emulator", readout=readout, **DROPPING | options) as device:
        found = np.concatenate([device.project(part) for part in np.split(vectors, 4)])
        exact = vectors @ device.effective_matrix().T  # type: ignore[union-attr]
    assert isinstance(device, EmulatedDevice)
    gain = (found * exact).sum(axis=1) / np.square(exact).sum(axis=1)
    return device, float(np.mean(np.abs(gain - 1) > 0.2))


def test_a_device_whose_camera_drops_frames_is_silently_wrong_without_marks_and_right_with_them() -> None:
    """Of 120 frames of a call one or more are lost in 70 %: each swaps what is behind it, half of the vectors or so."""
    _, wrong = projected({})
    assert 0.2 < wrong < 0.9
    for readout in ({"sync_every": 16}, {"sync_every": 16, "probe_every": 8}, {"kind": "anchored", "sync_every": 16}):
        assert projected(readout)[1] == 0
    coarse: dict[str, Any] = {"grain": {"size_px": 5.0}, "photometry": {"signal_e_per_feature": 100.0}}
    assert projected({"kind": "off_axis", "sync_every": 8}, **coarse)[1] == 0


def test_marks_are_counted() -> None:
    """120 vectors of 4 frames in 4 calls: 8 marks of 2 frames each and one more a call."""
    device, wrong = projected({"sync_every": 16}, camera={"dropped_frames": 0.0})
    assert wrong == 0
    assert device.usage.frames == 480 + 4 * 2 * (8 + 1)
    assert device.usage.device_seconds == pytest.approx(device.usage.frames * 500e-6)
    assert device.state_dict()["position"]["frame"] == device.usage.frames
    assert device.info.mark_frames == 2 / 16
    assert device.info.frames(120, 0.5) == 480 * (1 + 2 / 16)
    dropping, _ = projected({"sync_every": 16})
    assert dropping.usage.frames > device.usage.frames


def test_a_device_that_goes_on_dropping_is_a_fault_that_changes_nothing() -> None:
    with make_device(
        "emulator", readout={"sync_every": 16}, **DROPPING | {"camera": {"dropped_frames": 0.3}}
    ) as device:
        before, frames = device.state_dict(), device.usage.frames
        with pytest.raises(
            DeviceFault, match=r"^images of frames 0 … 15 of a request of 120 are not those of their fr"
        ):
            device.project(np.eye(30, 200, dtype=np.int8))
        assert (device.state_dict(), device.usage.frames) == (before, frames)


def test_a_device_with_marks_resumes_to_the_bit() -> None:
    readout = {"sync_every": 16, "probe_every": 5}
    vectors = np.random.default_rng(0).integers(0, 2, (40, 200), np.int8)
    options = DROPPING | {"photometry": {"signal_e_per_feature": 5.0}, "readout": readout}
    with make_device("emulator", **options) as device:
        device.project(vectors[:20])
        state = device.state_dict()
        expected = device.project(vectors[20:])
    with make_device("emulator", **options) as resumed:
        resumed.load_state_dict(state)
        np.testing.assert_array_equal(resumed.project(vectors[20:]), expected)


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
        ({"repeats": 4}, "repeats must be 0 … 3; got 4"),
        ({"least_correlation": 1.0}, "least_correlation must be between 0 and 1; got 1.0"),
    ],
)
def test_impossible_marks_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match="must be") as error:
        SyncedBench(make_bench(12, 100), **options)  # type: ignore[arg-type]
    assert str(error.value) == message
    with pytest.raises(ValueError, match=r"^pixels must be at least 64 to tell marks by; got 9$"):
        SyncedBench(make_bench(12, 9))
