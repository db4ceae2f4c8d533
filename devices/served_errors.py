"""Errors that travel between a device server and its clients: their kinds, and ours."""

from optical_dfa.devices.errors import (
    DeviceError,
    DeviceFault,
    DeviceTimeout,
    DeviceUnavailable,
    FingerprintMismatch,
    InvalidConfig,
    InvalidVectors,
)
from optical_dfa.devices.server.opu_server import ServedError

KINDS: dict[str, type[DeviceError]] = {
    "invalid": InvalidConfig,
    "unavailable": DeviceUnavailable,
    "timeout": DeviceTimeout,
    "fault": DeviceFault,
    "fingerprint": FingerprintMismatch,
    "protocol": DeviceUnavailable,
}


def from_served(kind: str, message: str) -> DeviceError:
    """Our error for one of a server."""
    return KINDS.get(kind, DeviceFault)(message)


def to_served(error: DeviceError) -> ServedError:
    """What a server tells its client of our error."""
    if isinstance(error, InvalidVectors):
        return ServedError("invalid", str(error))
    kinds = [kind for kind, ours in KINDS.items() if type(error) is ours]
    return ServedError(kinds[0] if kinds else "fault", str(error))
