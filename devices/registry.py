"""Devices by name: ours, and those that other packages offer by the entry point `optical_dfa.devices`.

An entry point names a `ProjectionDevice` subclass whose constructor takes keyword options, among them `n_inputs` and
`n_outputs`, and does no input or output.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from optical_dfa.devices.base import DeviceInfo, ProjectionDevice
from optical_dfa.devices.bench import BenchDevice
from optical_dfa.devices.digital import DigitalDevice
from optical_dfa.devices.emulated import EmulatedDevice
from optical_dfa.devices.errors import DeviceUnavailable, InvalidConfig, UnknownDevice
from optical_dfa.devices.faults import Fault, listed, nearest, unknown_key
from optical_dfa.devices.injection import FaultyDevice
from optical_dfa.devices.lighton import LightonDevice
from optical_dfa.devices.matrix import MatrixDevice
from optical_dfa.devices.measured import MeasuredDevice
from optical_dfa.devices.record import RecordDevice
from optical_dfa.devices.remote import RemoteDevice
from optical_dfa.devices.replay import ReplayDevice
from optical_dfa.devices.resilient import ResilientDevice, on_fault_settings
from optical_dfa.devices.wrapped import WrappedDevice, split_spec
from optical_dfa.emulator.checks import ParameterError

ENTRY_POINT_GROUP = "optical_dfa.devices"

DeviceFactory = Callable[..., ProjectionDevice]

_BUILT_IN: dict[str, DeviceFactory] = {
    "bench": BenchDevice,
    "digital": DigitalDevice,
    "emulator": EmulatedDevice,
    "faulty": FaultyDevice,
    "lighton": LightonDevice,
    "matrix": MatrixDevice,
    "measured": MeasuredDevice,
    "record": RecordDevice,
    "remote": RemoteDevice,
    "replay": ReplayDevice,
}


@dataclass(frozen=True)
class DeviceEntry:
    """A device that can be named."""

    name: str
    summary: str
    """What it is, one sentence."""
    options: tuple[str, ...]
    """Options of its constructor."""
    source: str
    """`optical_dfa`, or the package that offers it."""
    problem: str | None = None
    """Why it cannot be used here; None if it can."""


def available_devices() -> list[DeviceEntry]:
    """Every known device, in alphabetical order; those that cannot be loaded say why."""
    entries = [_entry(name, factory, "optical_dfa") for name, factory in _BUILT_IN.items()]
    for point in entry_points(group=ENTRY_POINT_GROUP):
        source = point.dist.name if point.dist else point.value
        try:
            entries.append(_entry(point.name, _load(point), source))
        except DeviceUnavailable as error:
            entries.append(DeviceEntry(point.name, "", (), source, problem=str(error)))
    return sorted(entries, key=lambda entry: entry.name)


def make_device(name: str, *, on_fault: object = None, **config: Any) -> ProjectionDevice:
    """A closed device; nothing is connected or displayed.

    Args:
        name: a name from `available_devices`.
        on_fault: what to do when it fails, values of `OnFault`; None: raise at once.
        config: options of the device.

    Raises:
        UnknownDevice, InvalidConfig, DeviceUnavailable: the message lists what is known or accepted.
    """
    factory = _factory(name)
    options = inspect.signature(factory).parameters
    open_ended = any(option.kind is option.VAR_KEYWORD for option in options.values())
    known = {key: value for key, value in config.items() if open_ended or key in options}
    faults = [Fault((key,), unknown_key(key, options)) for key in config if key not in known]
    policy = None
    if on_fault is not None:
        try:
            policy = on_fault_settings(on_fault)
        except InvalidConfig as error:
            faults += error.faults
    required = [o.name for o in options.values() if o.default is o.empty and o.kind is not o.VAR_KEYWORD]
    faults += [Fault((key,), "missing; it must be given") for key in required if key not in config]
    if known.keys() >= set(required):
        try:
            device = factory(**known)
        except InvalidConfig as error:
            faults += error.faults or [Fault((), str(error))]
        except (TypeError, ValueError) as error:
            name_of = error.name if isinstance(error, ParameterError) else ""
            faults.append(Fault((name_of,) if name_of in options else (), str(error)))
    if faults:
        raise InvalidConfig(f"device {name!r} cannot be made:{listed(faults)}", faults)
    return device if policy is None else ResilientDevice(device, policy)


def open_device(name: str, **config: Any) -> ProjectionDevice:
    """An open device, for instance `open_device("emulator", preset="phase-stepping", n_inputs=10, n_outputs=512)`.

    Close it, or use it as a context manager.

    Args:
        name: a name from `available_devices`.
        config: options of the device; `n_inputs` and `n_outputs`, unless the device has sizes of its own (`measured`).

    Raises:
        UnknownDevice, InvalidConfig, DeviceUnavailable: the message lists what is known or accepted.
    """
    return make_device(name, **config).open()


def check_device_config(name: str, **config: Any) -> DeviceInfo:
    """Refuse a device or options that `open_device` would refuse, before the size of the device is known.

    Returns:
        What the device would be; sizes that were not given are the device's own, where it has any, else 1.

    Raises:
        UnknownDevice, InvalidConfig, DeviceUnavailable: as `open_device`.
    """
    unknown = {size: 1 for size in ("n_inputs", "n_outputs") if size not in _own_sizes(name, config)}
    return make_device(name, **{**unknown, **config}).info


def _own_sizes(name: str, config: Mapping[str, Any]) -> list[str]:
    """Sizes that a device has of itself; of a device around another one, those of that one."""
    factory = _factory(name)
    if isinstance(factory, type) and issubclass(factory, WrappedDevice) and "device" in config:
        return _own_sizes(*split_spec(config["device"]))
    options = inspect.signature(factory).parameters
    return [size for size in ("n_inputs", "n_outputs") if size in options and options[size].default is None]


def _factory(name: str) -> DeviceFactory:
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name in points:
        return _load(points[name])
    known = sorted({*_BUILT_IN, *points})
    raise UnknownDevice(f"unknown device {name!r}.{nearest(name, known)} Known: {', '.join(known)}")


def _load(point: EntryPoint) -> DeviceFactory:
    offers = [other.value for other in entry_points(group=ENTRY_POINT_GROUP) if other.name == point.name]
    if point.name in _BUILT_IN or len(offers) > 1:
        takers = " and ".join([*offers, *["optical_dfa"] * (point.name in _BUILT_IN)])
        raise DeviceUnavailable(f"several devices are called {point.name!r} ({takers}): uninstall or rename one")
    try:
        factory: DeviceFactory = point.load()
        inspect.signature(factory)
    except Exception as error:
        raise DeviceUnavailable(f"device {point.name!r} ({point.value}) cannot be loaded: {error}") from error
    return factory


def _entry(name: str, factory: DeviceFactory, source: str) -> DeviceEntry:
    options = [p.name for p in inspect.signature(factory).parameters.values() if p.kind is not p.VAR_KEYWORD]
    summary = (inspect.getdoc(factory) or "").split("\n\n")[0].replace("\n", " ")
    return DeviceEntry(name, summary, tuple(options), source)
