"""Where a feedback gets its device from: given open, or named and made when its size is known."""

import threading
from collections.abc import Mapping
from typing import Any, Self

from optical_dfa.devices import ProjectionDevice, open_device
from optical_dfa.errors import FeedbackError, FeedbackShapeError


class DeviceSource:
    """One device for a feedback and for the copies of its net.

    A deep copy is the same source, because there is one machine. A pickle holds name, options, fingerprint and position
    of the device; the loaded source opens it anew when it is first needed, and refuses another matrix.

    Args:
        given: an open device, or `name` and options of one.
    """

    def __init__(self, given: ProjectionDevice | Mapping[str, Any]) -> None:
        self._spec: Mapping[str, Any] | None = None if isinstance(given, ProjectionDevice) else dict(given)
        self.device: ProjectionDevice | None = given if isinstance(given, ProjectionDevice) else None
        self._state: Mapping[str, Any] | None = None
        """What a device that is not made yet has to continue from."""
        self._closed = False
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Name of the device."""
        if self._spec is not None:
            return str(self._spec["name"])
        assert self.device is not None  # given open
        return self.device.info.name

    def require(self, n_inputs: int, n_outputs: int) -> ProjectionDevice:
        """The device, made at the first call.

        Raises:
            FeedbackShapeError: it is of another size.
            optical_dfa.devices.FingerprintMismatch: it is not the one that a state was saved with.
        """
        device = self.device
        if device is None or self._state is not None:
            device = self._ready(n_inputs, n_outputs)
        info = device.info
        if info.n_inputs != n_inputs or info.n_outputs < n_outputs:
            raise FeedbackShapeError(
                f"the error has {n_inputs} features and the feedback points need {n_outputs} outputs, but device "
                f"{info.name!r} has {info.n_inputs} inputs and {info.n_outputs} outputs: open one of the right size, "
                "or give attach the device's name and let it be sized to the net"
            )
        return device

    def _ready(self, n_inputs: int, n_outputs: int) -> ProjectionDevice:
        with self._lock:
            if self.device is None:
                if self._closed:
                    raise FeedbackError("the feedback is closed: run the backward pass before its close()")
                assert self._spec is not None  # else the device was given
                self.device = open_device(**{"n_inputs": n_inputs, "n_outputs": n_outputs, **self._spec})
            if self._state is not None:  # stays, and is refused again, if it belongs to another device
                self.device.load_state_dict(self._state)
                self._state = None
            return self.device

    def close(self) -> None:
        """Close the device, unless it was given."""
        self._closed = True
        if self._spec is not None and self.device is not None:
            self.device.close()

    def state_dict(self) -> Mapping[str, Any] | None:
        """Fingerprint and position of the device; None before there is any."""
        return self._state if self.device is None or self._state is not None else self.device.state_dict()

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Continue where `state` was saved: at once, or when the device is made."""
        if state is None:
            return
        if self.device is None:
            self._state = state
        else:
            self.device.load_state_dict(state)
            self._state = None

    def __deepcopy__(self, memo: object) -> Self:
        """The same source: devices are shared."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Name, options, sizes and position, without the device."""
        spec = self._spec if self.device is None else {**self.device.spec(), **(self._spec or {})}
        return {"spec": spec, "state": self.state_dict()}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(state["spec"])  # type: ignore[misc]
        self._state = state["state"]
