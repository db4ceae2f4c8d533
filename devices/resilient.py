"""What to do when a device fails: repeat, wait for it, go on with its twin, or stop. All of it logged and counted."""

import itertools
import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from optical_dfa.devices.base import Fields, ProjectionDevice, Usage, Vectors
from optical_dfa.devices.errors import (
    DeviceError,
    DeviceFault,
    DeviceTimeout,
    DeviceUnavailable,
    FingerprintMismatch,
    InvalidConfig,
)
from optical_dfa.devices.faults import Fault, listed, validation_faults
from optical_dfa.devices.wrapped import Spec, WrappedDevice, inner_device, split_spec
from optical_dfa.emulator.checks import require

TRANSIENT = (DeviceTimeout, DeviceFault, DeviceUnavailable)
"""Faults that may pass. Any other error of a device is one of what it was asked."""

LONGEST_PAUSE_S = 30.0
"""Longest pause between two attempts."""

POLL_S = 0.2
"""How often a pause looks whether it shall end."""

log = logging.getLogger("optical_dfa.devices")

R = TypeVar("R")


@dataclass(frozen=True)
class OnFault:
    """What to do when a device times out, answers wrongly or is gone; the option `on_fault` of every device."""

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    retries: int = 3
    """How many times a request is repeated."""
    backoff_s: float = 0.1
    """Pause before the first repetition, seconds; doubled before each further one, up to 30 s."""
    wait_s: float = 0.0
    """Then: close the device and open it again until it answers, at most so long, seconds. A training run writes a
    checkpoint first."""
    twin: str | dict[str, Any] | None = None
    """Then: go on with this device, of the same matrix: `digital` for the emulator, `{name: measured, path: …}` for a
    bench whose matrix was measured, `{name: emulator, preset: …}` with the file of its digital twin. null: give up; a
    training run stops, with a checkpoint."""
    recheck_s: float = 60.0
    """How often the device is tried again while its twin stands in, seconds."""

    def __post_init__(self) -> None:
        require(self.retries >= 0, "retries", self.retries, "an int ≥ 0")
        for name in ("backoff_s", "wait_s", "recheck_s"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "seconds ≥ 0")


_ON_FAULT = TypeAdapter(OnFault)


def on_fault_settings(values: object) -> OnFault:
    """Settings of the values of the option `on_fault`.

    Raises:
        InvalidConfig: unknown, mistyped or impossible values, all of them at once.
    """
    try:
        return _ON_FAULT.validate_json(json.dumps(values))
    except ValidationError as error:
        faults = [Fault(("on_fault", *f.path), f.message) for f in validation_faults(error, OnFault)]
        raise InvalidConfig(f"on_fault is not valid:{listed(faults)}", faults) from None


@dataclass(frozen=True)
class FaultEvent:
    """Something that happened to a device, for a log."""

    kind: Literal["retry", "waiting", "answered", "twin", "failed"]
    """A request is repeated; the device is waited for; it answered after all; its twin stands in; it was given up."""
    device: str
    message: str
    seconds: float
    """Since the first fault of this request."""


class ResilientDevice(WrappedDevice):
    """A device that is not given up at the first fault.

    A request that failed can be repeated, since it changed no state: on an emulated device, at either end of a network,
    the result is the same to the bit. `usage.faults` counts the faults, `usage.twin_vectors` what the twin did.

    Args:
        inner: the device, closed.
        policy: what to do.

    Attributes:
        on_event: called with each `FaultEvent`, after it was logged; None: nothing more.
        poll: called every 0.2 s while it pauses; an exception of it ends the pause and the request.

    Raises:
        InvalidConfig: the twin cannot be made.
    """

    def __init__(self, inner: ProjectionDevice, policy: OnFault) -> None:
        super().__init__(inner)
        self.policy = policy
        self.on_event: Callable[[FaultEvent], None] | None = None
        self.poll: Callable[[], None] | None = None
        self.settings = {**inner.settings, "on_fault": asdict(policy)}
        self._twin: ProjectionDevice | None = None
        self._on_twin_until: float | None = None
        if policy.twin is not None:
            _check_twin(policy.twin)

    def spec(self) -> dict[str, Any]:
        """See `WrappedDevice`."""
        return {**self.inner.spec(), "on_fault": asdict(self.policy)}

    def _open(self) -> None:
        if self.policy.twin is not None and self._twin is None:
            self._twin = _twin_of(self.inner, self.policy.twin)
        try:
            self._insist(lambda: None, self.policy.retries, self.policy.wait_s)
        except TRANSIENT as error:
            if self._twin is None:
                raise
            self._use_twin(error)

    def _close(self) -> None:
        super()._close()
        if self._twin is not None:
            self._twin.close()
        self._on_twin_until = None

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        retries, wait_s = self.policy.retries, self.policy.wait_s
        if self._on_twin_until is not None:
            if time.monotonic() < self._on_twin_until:
                return self._project_on_twin(vectors)
            retries, wait_s = 0, 0.0  # a look whether it is back
        try:
            result = self._insist(lambda: self.inner._project(vectors), retries, wait_s)
        except TRANSIENT as error:
            if self._twin is None:
                raise
            self._use_twin(error)
            return self._project_on_twin(vectors)
        if self._on_twin_until is not None:
            self._on_twin_until = None
            self._tell("answered", "it is used again in place of its twin", 0.0)
        return result

    def _insist(self, call: Callable[[], R], retries: int, wait_s: float) -> R:
        """The result of a call on the open device, repeated as the policy says."""
        start, waiting = time.monotonic(), False
        for attempt in itertools.count():
            try:
                self.inner.open()
                result = call()
            except TRANSIENT as error:
                self.usage.faults += 1
                seconds = time.monotonic() - start
                pause_s = min(LONGEST_PAUSE_S, self.policy.backoff_s * 2 ** min(attempt, 30))
                if attempt < retries:
                    self._tell("retry", f"attempt {attempt + 1} failed ({error}); again in {pause_s:.3g} s", seconds)
                elif seconds < wait_s:
                    if not waiting:
                        message = f"no answer to {attempt + 1} attempts ({error}); waiting at most {wait_s:g} s for it"
                        self._tell("waiting", message, seconds)
                    waiting, pause_s = True, min(max(pause_s, POLL_S), wait_s - seconds)
                    with suppress(DeviceError, OSError):
                        self.inner.close()
                else:
                    self._tell("failed", f"given up after {attempt + 1} attempts: {error}", seconds)
                    raise
                self._pause(pause_s)
            else:
                if attempt:
                    self._tell("answered", f"it answered at attempt {attempt + 1}", time.monotonic() - start)
                return result
        raise AssertionError("unreachable")

    def _use_twin(self, error: DeviceError) -> None:
        assert self._twin is not None
        if self._on_twin_until is None:
            twin = self._twin.info.name
            self._tell("twin", f"device {twin!r} stands in for it, tried again every {self.policy.recheck_s:g} s", 0.0)
        self._on_twin_until = time.monotonic() + self.policy.recheck_s

    def _project_on_twin(self, vectors: Vectors) -> tuple[Fields, Usage]:
        assert self._twin is not None
        fields, usage = self._twin.open()._project(vectors)
        usage.twin_vectors += len(vectors)
        return fields, usage

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            if self.poll is not None:
                self.poll()
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, POLL_S))

    def _tell(self, kind: Any, message: str, seconds: float) -> None:
        log.warning("device %r: %s", self.info.name, message)
        if self.on_event is not None:
            self.on_event(FaultEvent(kind, self.info.name, message, round(seconds, 3)))


def resilient_part(device: ProjectionDevice) -> ResilientDevice | None:
    """The device with a policy among those around each other; None if there is none."""
    while isinstance(device, WrappedDevice):
        if isinstance(device, ResilientDevice):
            return device
        device = device.inner
    return None


def _check_twin(spec: Spec) -> None:
    from optical_dfa.devices.registry import check_device_config

    try:
        name, options = split_spec(spec)
        check_device_config(name, **options)
    except DeviceError as error:
        raise InvalidConfig(f"on_fault.twin: {error}", [Fault(("on_fault", "twin"), str(error))]) from None


def _twin_of(device: ProjectionDevice, spec: Spec) -> ProjectionDevice:
    """The closed twin, of the sizes of the device.

    Raises:
        FingerprintMismatch: it multiplies by another matrix.
    """
    twin = inner_device(spec, device.info.n_inputs, device.info.n_outputs)
    if device.fingerprint not in (twin.fingerprint, twin.measured_fingerprint):
        raise FingerprintMismatch(
            f"on_fault.twin {twin.info.name!r} multiplies by another matrix ({twin.fingerprint!r}) than device "
            f"{device.info.name!r} ({device.fingerprint!r}): give the seed of the device, or the matrix that was "
            "measured on it (optical-dfa measure-matrix, optical-dfa twin)"
        )
    return twin
