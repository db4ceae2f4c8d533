"""Policies for faults: repeat, wait, twin, give up; what is logged, counted and refused."""

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_kinds import ternary

from optical_dfa.devices import (
    DeviceFault,
    DeviceInfo,
    DeviceTimeout,
    DeviceUnavailable,
    FaultEvent,
    FingerprintMismatch,
    InvalidConfig,
    OnFault,
    ProjectionDevice,
    ResilientDevice,
    Usage,
    check_device_config,
    make_device,
    open_device,
)
from optical_dfa.devices.base import Fields, Vectors
from optical_dfa.measure import measure_matrix

VECTORS = ternary(4)
PLAIN: dict[str, Any] = {"name": "emulator", "photometry": {"signal_e_per_feature": 25.0}}
SIZES: dict[str, Any] = {"n_inputs": 30, "n_outputs": 21}


class Flaky(ProjectionDevice):
    """Fails as often as it is told to, at projecting or at opening; what it projects is its input."""

    def __init__(self, *, failing: int = 0, closed_for: int = 0) -> None:
        super().__init__()
        self.matrix_identity = {"kind": "flaky"}
        self.info = DeviceInfo(
            name="flaky", n_inputs=30, n_outputs=30, linear=True, exact=True, accepts_real=False, backend="none",
            frames_per_vector=0, n_pixels=0, outputs_per_mode=1, output_map="rows", matrix=None,
        )  # fmt: skip
        self.failing, self.closed_for, self.calls = failing, closed_for, 0
        self.lost = False
        self.error: Exception = DeviceTimeout("no answer")

    def _open(self) -> None:
        if self.closed_for:
            self.closed_for -= 1
            raise DeviceUnavailable("unplugged")
        self.lost = False

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        self.calls += 1
        if self.failing or self.lost:
            self.failing -= not self.lost
            raise self.error
        return vectors.astype(np.float32), Usage()


def resilient(inner: ProjectionDevice, **policy: Any) -> tuple[ResilientDevice, list[FaultEvent]]:
    device, events = ResilientDevice(inner, OnFault(**{"backoff_s": 0.001, **policy})), []  # type: ignore[var-annotated]
    device.on_event = events.append
    return device, events


def test_a_request_is_repeated_and_every_fault_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    inner = Flaky(failing=3)
    device, events = resilient(inner)
    with caplog.at_level(logging.WARNING, "optical_dfa.devices"), device:
        np.testing.assert_array_equal(device.project(VECTORS), VECTORS)
    assert inner.calls == 4
    assert (device.usage.faults, device.usage.vectors, inner.usage.faults) == (3, 4, 3)
    assert [event.kind for event in events] == ["retry", "retry", "retry", "answered"]
    assert caplog.messages == [
        "device 'flaky': attempt 1 failed (no answer); again in 0.001 s",
        "device 'flaky': attempt 2 failed (no answer); again in 0.002 s",
        "device 'flaky': attempt 3 failed (no answer); again in 0.004 s",
        "device 'flaky': it answered at attempt 4",
    ]
    assert "3 faults" in str(device.usage)


def test_it_gives_up_after_the_retries() -> None:
    inner = Flaky(failing=9)
    device, events = resilient(inner, retries=2)
    with device, pytest.raises(DeviceTimeout, match="no answer"):
        device.project(VECTORS)
    assert inner.calls == 3
    assert (device.usage.faults, device.usage.vectors) == (3, 0)
    assert events[-1].kind == "failed"
    assert events[-1].message == "given up after 3 attempts: no answer"


@pytest.mark.parametrize("error", [ValueError("a bug"), FingerprintMismatch("other"), InvalidConfig("odd")])
def test_what_does_not_pass_is_not_repeated(error: Exception) -> None:
    inner = Flaky(failing=1)
    inner.error = error
    device, events = resilient(inner)
    with device, pytest.raises(type(error)):
        device.project(VECTORS)
    assert (inner.calls, events) == (1, [])


def test_it_waits_and_opens_the_device_again() -> None:
    """The device loses its connection, and cannot be opened twice before it comes back."""
    inner = Flaky()
    device, events = resilient(inner, retries=1, wait_s=30.0)
    with device:
        device.project(VECTORS)
        inner.lost, inner.closed_for = True, 2
        np.testing.assert_array_equal(device.project(VECTORS), VECTORS)
    assert [event.kind for event in events] == ["retry", "waiting", "answered"]
    assert events[1].message == "no answer to 2 attempts (no answer); waiting at most 30 s for it"
    assert device.usage.faults == 4


def test_it_waits_no_longer_than_told() -> None:
    inner = Flaky(failing=1000)
    device, events = resilient(inner, retries=0, wait_s=0.5)
    start = time.monotonic()
    with device, pytest.raises(DeviceTimeout):
        device.project(VECTORS)
    assert time.monotonic() - start >= 0.5
    assert [event.kind for event in events] == ["waiting", "failed"]


def test_it_waits_for_a_device_that_cannot_be_opened_yet() -> None:
    device, _ = resilient(Flaky(closed_for=3), retries=1, wait_s=30.0)
    with device:
        assert device.project(VECTORS).any()
    with pytest.raises(DeviceUnavailable, match="unplugged"):
        resilient(Flaky(closed_for=3), retries=1)[0].open()


def test_a_pause_ends_when_it_is_told_to() -> None:
    device, _ = resilient(Flaky(failing=1000), wait_s=3600.0)
    polls = 0

    def poll() -> None:
        nonlocal polls
        polls += 1
        if polls == 5:
            raise KeyboardInterrupt

    device.poll = poll
    with device, pytest.raises(KeyboardInterrupt):
        device.project(VECTORS)


def test_the_twin_stands_in_until_the_device_is_back() -> None:
    """A request is projected by one or by the other; what the digital twin gives is the exact product."""
    inner = make_device(**PLAIN, **SIZES)
    faulty = Switch(inner)
    device, events = resilient(faulty, retries=0, twin="digital", recheck_s=0.0)
    with device, open_device("digital", **SIZES) as digital, open_device(**PLAIN, **SIZES) as plain:
        exact = digital.project(VECTORS)
        np.testing.assert_array_equal(device.project(VECTORS), plain.project(VECTORS))
        faulty.off = True
        for _ in range(3):
            np.testing.assert_array_equal(device.project(VECTORS), exact)
        faulty.off = False
        np.testing.assert_array_equal(device.project(VECTORS), plain.project(VECTORS))
        assert (device.usage.vectors, device.usage.twin_vectors, device.usage.faults) == (20, 12, 3)
        assert "12 vectors by the twin" in str(device.usage)
    assert [event.kind for event in events] == ["failed", "twin", "failed", "failed", "answered"]


class Switch(ResilientDevice):
    """A device that can be switched off."""

    off = False

    def __init__(self, inner: ProjectionDevice) -> None:
        super().__init__(inner, OnFault(retries=0))

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        if self.off:
            raise DeviceFault("switched off")
        return self.inner._project(vectors)


def test_while_the_twin_stands_in_the_device_is_left_alone() -> None:
    faulty = Switch(make_device(**PLAIN, **SIZES))
    device, _ = resilient(faulty, retries=0, twin="digital", recheck_s=3600.0)
    with device:
        faulty.off = True
        device.project(VECTORS)
        faulty.off = False
        device.project(VECTORS)
        assert (device.usage.faults, device.usage.twin_vectors) == (1, 8)


def test_a_measured_matrix_is_a_twin_of_what_it_was_measured_on(tmp_path: Path) -> None:
    path = tmp_path / "matrix.safetensors"
    with open_device(**PLAIN, **SIZES) as device:
        measure_matrix(device, path)
    faulty = Switch(make_device(**PLAIN, **SIZES))
    stand_in, _ = resilient(faulty, retries=0, twin={"name": "measured", "path": str(path)})
    with stand_in, open_device("measured", path=path) as measured:
        faulty.off = True
        np.testing.assert_array_equal(stand_in.project(VECTORS), measured.project(VECTORS))
    other, _ = resilient(make_device(**PLAIN, **SIZES, seed=1), twin={"name": "measured", "path": str(path)})
    with pytest.raises(FingerprintMismatch, match=r"on_fault\.twin 'measured' multiplies by another matrix"):
        other.open()


def test_a_twin_of_another_matrix_is_refused() -> None:
    device = make_device(**PLAIN, **SIZES, on_fault={"twin": {"name": "digital", "seed": 1}})
    with pytest.raises(FingerprintMismatch, match="give the seed of the device, or the matrix that was measured on it"):
        device.open()


def test_the_option_is_one_of_every_device() -> None:
    with open_device("digital", **SIZES, on_fault={"retries": 7}) as device:
        assert isinstance(device, ResilientDevice)
        assert device.policy.retries == 7
        assert device.settings["on_fault"]["retries"] == 7
        assert device.info.name == "digital"
    assert check_device_config("emulator", on_fault={"twin": "digital"}).name == "emulator"
    with pytest.raises(InvalidConfig) as error:
        make_device("emulator", **SIZES, on_fault={"retrys": 1}, sede=3)
    assert [fault.path for fault in error.value.faults] == [("sede",), ("on_fault", "retrys")]
    with pytest.raises(InvalidConfig, match=r"wait_s must be seconds ≥ 0; got -1\.0"):
        make_device("emulator", **SIZES, on_fault={"wait_s": -1.0})
    for twin in ("digitel", {"path": 3}, {"name": "digital", "sede": 3}):
        with pytest.raises(InvalidConfig, match=r"on_fault\.twin"):
            make_device("digital", **SIZES, on_fault={"twin": twin})
