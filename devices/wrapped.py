"""Devices around a device: what they do not change is that of the one inside."""

import abc
from collections.abc import Callable, Mapping
from typing import Any

from optical_dfa.devices.base import Fields, ProjectionDevice, Usage, Vectors
from optical_dfa.devices.errors import InvalidConfig
from optical_dfa.devices.faults import Fault
from optical_dfa.devices.readouts.base import Bench

Spec = str | Mapping[str, Any]
"""Name of a device, or a mapping of `name` and options."""


class WrappedDevice(ProjectionDevice):
    """A device seen through something else, with its info, matrix, state and usage.

    A run may go on with the device itself, and the other way round: the states are the same.

    Args:
        inner: the device inside, closed; it belongs to this one.
    """

    def __init__(self, inner: ProjectionDevice) -> None:
        super().__init__()
        self.inner = inner
        self.info, self.matrix_identity, self.gpu = inner.info, inner.matrix_identity, inner.gpu
        self.usage = inner.usage  # one count: what the inner device adds when it calibrates belongs here too
        self.settings = dict(inner.settings)

    @abc.abstractmethod
    def spec(self) -> dict[str, Any]:
        """Name and options with which `open_device` makes this device again, with those of the device inside."""

    def effective_matrix(self, rows: slice = slice(None)) -> Fields | None:
        """That of the device inside."""
        return self.inner.effective_matrix(rows)

    def wrap_bench(self, wrap: Callable[[Bench], Bench]) -> bool:
        """As of the device inside."""
        return self.inner.wrap_bench(wrap)

    def calibration(self) -> dict[str, Any]:
        """That of the device inside."""
        return self.inner.calibration()

    def _open(self) -> None:
        self.inner.open()

    def _close(self) -> None:
        self.inner.close()

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        return self.inner._project(vectors)

    def _position(self) -> dict[str, Any]:
        return self.inner._position()

    def _restore_position(self, position: Mapping[str, Any]) -> None:
        self.inner._restore_position(position)


def inner_device(spec: Spec, n_inputs: int | None, n_outputs: int | None) -> ProjectionDevice:
    """The closed device of a specification, of these sizes where they are given.

    Raises:
        InvalidConfig, UnknownDevice, DeviceUnavailable: it cannot be made; paths of faults begin with `device`.
    """
    from optical_dfa.devices.registry import make_device

    name, options = split_spec(spec)
    sizes = {"n_inputs": n_inputs, "n_outputs": n_outputs}
    try:
        return make_device(name, **{**{key: value for key, value in sizes.items() if value is not None}, **options})
    except InvalidConfig as error:
        raise InvalidConfig(
            str(error), [Fault(("device", *fault.path), fault.message) for fault in error.faults]
        ) from None


def split_spec(spec: object) -> tuple[str, dict[str, Any]]:
    """Name and options of a specification.

    Raises:
        InvalidConfig: it has no name.
    """
    if isinstance(spec, str):
        return spec, {}
    name = spec.get("name") if isinstance(spec, Mapping) else None
    if not isinstance(spec, Mapping) or not isinstance(name, str):
        message = f"must be the name of a device, or a mapping with a `name`; got {spec!r}"
        raise InvalidConfig(f"device: {message}", [Fault(("device",), message)])
    return name, {key: value for key, value in spec.items() if key != "name"}
