"""What can go wrong with a device.

::

    DeviceError
    ├── UnknownDevice           no device of that name is known
    ├── InvalidConfig           an option is unknown, mistyped or out of range
    ├── InvalidVectors          wrong dtype, shape or values; also ValueError
    ├── DeviceClosed            used before `open` or after `close`
    ├── DeviceUnavailable       cannot be opened here and now (not connected, in use, driver missing)
    ├── DeviceTimeout           no answer in time
    ├── DeviceFault             it answered, but wrongly
    ├── ReplayMismatch          a recording is asked for something else than was recorded
    └── FingerprintMismatch     a saved state belongs to another device

Every message says what was given, what is accepted and what to do.
"""

from collections.abc import Iterable

from optical_dfa.devices.faults import Fault


class DeviceError(Exception):
    """Base of every error of a projection device."""


class UnknownDevice(DeviceError):
    """No device of that name is known."""


class InvalidConfig(DeviceError):
    """An option of a device is unknown, mistyped or out of range.

    Attributes:
        faults: what is wrong at which option, as far as that is known one by one; a file reader adds the lines.
    """

    def __init__(self, message: str, faults: Iterable[Fault] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class InvalidVectors(DeviceError, ValueError):
    """The vectors given to a device have the wrong dtype, shape or values. Nothing was displayed."""


class DeviceClosed(DeviceError):
    """The device was used before `open` or after `close`."""


class DeviceUnavailable(DeviceError):
    """The device cannot be opened here and now."""


class DeviceTimeout(DeviceError):
    """The device did not answer in time."""


class DeviceFault(DeviceError):
    """The device answered, but wrongly."""


class ReplayMismatch(DeviceError):
    """A recording is asked for something else than was recorded."""


class FingerprintMismatch(DeviceError):
    """A saved state belongs to a device with another matrix, geometry or output map."""


class SaturationWarning(UserWarning):
    """More pixels are saturated than a readout can ignore."""
