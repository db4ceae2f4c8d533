"""Faults on purpose: how many, which, and the same in a rerun."""

from typing import Any

import numpy as np
import pytest
from device_kinds import ternary
from effect_bench import NOISY, make_bench, random_frames
from scipy import stats

from optical_dfa.devices import (
    DeviceError,
    DeviceFault,
    DeviceTimeout,
    DroppingBench,
    FailingBench,
    InvalidConfig,
    OverexposedBench,
    StuckBench,
    SyncedBench,
    make_device,
    open_device,
)
from optical_dfa.emulator import FrameStamp

AT = FrameStamp(0, 0)


def test_requests_fail_as_often_as_told_and_the_same_again() -> None:
    """Of 2000 requests binomially many at 5 %, false alarms 1e-6."""
    bench, frames = make_bench(4, 10), np.zeros((1, 4), np.uint8)

    def failed() -> list[str]:
        found, failing = [], FailingBench(bench, 0.05, seed=3)
        for _ in range(2000):
            try:
                failing.expose(frames, at=AT)
                found.append("")
            except DeviceTimeout as error:
                found.append(str(error))
        return found

    first = failed()
    assert failed() == first
    low, high = stats.binom.ppf([5e-7, 1 - 5e-7], 2000, 0.05)
    assert low <= sum(map(bool, first)) <= high
    assert {*first} == {"", "no trigger came (on purpose)", "the images did not come (on purpose)"}


def test_dropped_frames_move_the_images_behind_them_up() -> None:
    bench, frames = make_bench(12, 40, camera=NOISY), random_frames(400, 12)
    whole = bench.expose(frames, at=AT).reshape(400, -1)
    images = DroppingBench(bench, 0.02, seed=1).expose(frames, at=AT).reshape(400, -1)
    source = [int(np.flatnonzero((whole == image).all(axis=1))[0]) for image in images]
    lost = 400 - len(set(source))
    low, high = stats.binom.ppf([5e-7, 1 - 5e-7], 400, 0.02)
    assert max(1, low) <= lost <= high
    assert (np.diff(source[: 400 - lost]) >= 1).all()
    assert source[400 - lost - 1 :] == [source[-1]] * (lost + 1)


def test_marks_find_dropped_frames_out() -> None:
    """Twenty requests of 60 frames lose one with probability 1 - 0.98^64 = 0.73 each: none at all once in 10^11."""
    bench, found = make_bench(12, 400, camera=NOISY), 0
    synced = SyncedBench(DroppingBench(bench, 0.02, seed=1))
    frames = random_frames(60, 12)
    expected = bench.expose(frames, at=AT)
    for _ in range(20):
        try:
            right = synced.expose(frames, at=AT)
        except DeviceFault:
            found += 1
        else:
            assert np.abs(right.astype(float) - expected).mean() < 0.2 * expected.std()
    assert 5 <= found < 20


def test_stuck_pixels_are_always_the_same_ones() -> None:
    """Binomially many of 4000 at 3 %, false alarms 1e-6; the others are untouched."""
    bench, frames = make_bench(12, 4000, camera=NOISY), random_frames(5, 12)
    whole = bench.expose(frames, at=AT)
    stuck = StuckBench(bench, 0.03, seed=2)
    images = stuck.expose(frames, at=AT)
    at_top = (images == bench.info.saturation_dn).all(axis=0)
    low, high = stats.binom.ppf([5e-7, 1 - 5e-7], 4000, 0.03)
    assert low <= at_top.sum() <= high
    np.testing.assert_array_equal(images[:, ~at_top], whole[:, ~at_top])
    np.testing.assert_array_equal(stuck.expose(frames, at=AT), images)


def test_more_light_saturates() -> None:
    bench, frames = make_bench(12, 400, camera=NOISY), random_frames(5, 12)
    whole = bench.expose(frames, at=AT)
    images = OverexposedBench(bench, 3).expose(frames, at=AT)
    assert images.dtype == whole.dtype
    np.testing.assert_array_equal(images, np.minimum(3 * whole.astype(int), bench.info.saturation_dn))
    assert (images == bench.info.saturation_dn).any()


@pytest.mark.parametrize("inside", ["digital", "emulator"])
def test_a_device_of_faults(inside: str) -> None:
    """Its answers are those of the device inside, when it answers; a repeated request meets other luck."""
    sizes = {"n_inputs": 30, "n_outputs": 140}
    vectors, failures = ternary(2)[:1] * 0, 0
    vectors[0, 3] = 1
    with (
        open_device("faulty", device=inside, failing_requests=0.3, **sizes) as faulty,
        open_device(inside, **sizes) as plain,
    ):
        for _ in range(40):
            before = faulty.state_dict()
            try:
                fields = faulty.project(vectors)
            except DeviceError:
                failures += 1
                assert faulty.state_dict() == before
            else:
                np.testing.assert_array_equal(fields, plain.project(vectors))
        assert faulty.state_dict() == plain.state_dict()
        assert faulty.fingerprint == plain.fingerprint
    low, high = stats.binom.ppf([5e-7, 1 - 5e-7], 40, 0.3)
    assert low <= failures <= high


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"failing_requests": 1.0}, "failing_requests must be a probability from 0 to 1; got 1.0"),
        ({"dropped_frames": -0.1}, "dropped_frames must be a probability from 0 to 1; got -0.1"),
        ({"real_time": -1.0}, "real_time must be a factor ≥ 0; got -1.0"),
        ({"real_time": 1.0}, "real_time must be 0: device 'digital' shows no frames; got 1.0"),
        ({"overexposure": 0.0}, "overexposure must be a factor > 0; got 0.0"),
        ({"stuck_pixels": 0.1}, "stuck_pixels must be 0: device 'digital' shows no frames; got 0.1"),
        ({"overexposure": 2.0}, "overexposure must be 1: the device shows no frames; got 2.0"),
    ],
)
def test_impossible_faults_are_refused(options: Any, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        make_device("faulty", device="digital", n_inputs=3, n_outputs=3, **options)


def test_a_device_as_slow_as_the_real_one() -> None:
    """It waits for the modelled time of its frames, here 2.0 times, and gives what the device inside gives."""
    options = {"n_inputs": 12, "n_outputs": 20, "seed": 4}
    with (
        open_device("emulator", **options) as plain,
        open_device("faulty", device={"name": "emulator", "seed": 4}, real_time=2.0, n_inputs=12, n_outputs=20) as slow,
    ):
        vectors = ternary(3, 12)
        np.testing.assert_array_equal(slow.project(vectors), plain.project(vectors))
        assert slow.usage.device_seconds == plain.usage.device_seconds > 0
        assert slow.usage.wall_seconds >= 2.0 * slow.usage.device_seconds
