"""A bench behind a server: readouts here read it as if it were here."""

from typing import Any

import numpy as np
import pytest
from served import serving

from optical_dfa.devices import (
    DeviceClosed,
    DeviceUnavailable,
    Endpoint,
    InvalidConfig,
    PhaseStepping,
    RemoteBench,
    load_preset,
)
from optical_dfa.devices.server.opu_server import ServedBench
from optical_dfa.emulator import EmulatedBench, FrameStamp

SETTING = {"exposure_us": 400.0, "reference_e": 1500.0}


def make() -> EmulatedBench:
    return EmulatedBench(30, 70, 3, load_preset("lab-bench").bench)


def bench(address: str, **setting: float) -> RemoteBench:
    return RemoteBench(Endpoint(address, timeout_s=20.0), **{**SETTING, **setting})


def patterns(count: int) -> Any:
    return np.random.default_rng(count).integers(0, 2, (count, 30), np.uint8)


def test_the_same_images() -> None:
    local = make()
    phases = np.linspace(0, 3, 6)
    with serving(ServedBench(make, FrameStamp)) as address, bench(address) as remote:
        assert remote.info == local.info
        assert remote.frame_time_us == local.frame_time_us
        for at in (FrameStamp(4, 1000, 2.5), None, FrameStamp(4, 1000), None):
            here = local.expose(patterns(6), phases=phases, at=at)
            there = remote.expose(patterns(6), phases=phases, at=at)
            assert there.dtype == here.dtype
            np.testing.assert_array_equal(there, here)


def test_a_readout_reads_it() -> None:
    local = make()
    with serving(ServedBench(make, FrameStamp)) as address, bench(address) as remote:
        here = PhaseStepping(local, 1500.0).read(patterns(5), FrameStamp(0, 0))
        there = PhaseStepping(remote, 1500.0).read(patterns(5), FrameStamp(0, 0))
    np.testing.assert_array_equal(here.amplitude, there.amplitude)


def test_another_client_s_settings_do_not_matter() -> None:
    local = make()
    with (
        serving(ServedBench(make, FrameStamp)) as address,
        bench(address) as one,
        bench(address, exposure_us=3e3) as two,
    ):
        local.configure(exposure_us=3e3, reference_e=1500.0)
        assert two.frame_time_us == local.frame_time_us
        at = FrameStamp(0, 7)
        np.testing.assert_array_equal(two.expose(patterns(2), at=at), local.expose(patterns(2), at=at))
        local.configure(**SETTING)
        np.testing.assert_array_equal(one.expose(patterns(2), at=at), local.expose(patterns(2), at=at))


def test_what_the_bench_refuses_is_an_error_here() -> None:
    with serving(ServedBench(make, FrameStamp)) as address, bench(address) as remote:
        before = remote.frame_time_us
        with pytest.raises(InvalidConfig, match="exposure_us"):
            remote.configure(exposure_us=-1.0, reference_e=1.0)
        assert remote.frame_time_us == before
        with pytest.raises(InvalidConfig, match="30"):
            remote.expose(patterns(2)[:, :7])
        assert remote.expose(patterns(2)).shape == (2, *remote.info.image_shape)


def test_a_bench_is_not_a_device() -> None:
    from served import remote as remote_device

    with serving(ServedBench(make, FrameStamp)) as address, pytest.raises(DeviceUnavailable, match="serves a bench"):
        remote_device(address).open()


def test_closed() -> None:
    with pytest.raises(DeviceClosed):
        bench("tcp://127.0.0.1:1").expose(patterns(1))
