"""A local device as what a device server serves."""

import dataclasses
import json
from typing import Any

import numpy as np

from optical_dfa.devices.base import ProjectionDevice, Usage
from optical_dfa.devices.errors import DeviceError
from optical_dfa.devices.remote import SHARED_INFO
from optical_dfa.devices.served_errors import to_served
from optical_dfa.devices.server.opu_server import Arrays, Header, Served, ServedError, Tell, checked_vectors, parts_of


class ServedDevice(Served):
    """Serves `project` of a device. Every request brings the position that the device takes up for it.

    Args:
        device: closed; opened, used and closed on the server's thread.
    """

    def __init__(self, device: ProjectionDevice) -> None:
        self._device = device

    def open(self) -> Header:
        """See `Served`."""
        device = self._device
        try:
            device.open()
        except DeviceError as error:
            raise to_served(error) from error
        return {
            "serves": "device",
            "name": device.info.name,
            "n_inputs": device.info.n_inputs,
            "n_outputs": device.info.n_outputs,
            **{name: getattr(device.info, name) for name in SHARED_INFO},
            "identity": dict(device.matrix_identity),
            "position": device.state_dict()["position"],
            "settings": json.loads(json.dumps(dict(device.settings), default=str)),
        }

    def close(self) -> None:
        """See `Served`."""
        self._device.close()

    def perform(self, header: Header, arrays: Arrays, tell: Tell) -> tuple[Header, Arrays]:
        """See `Served`."""
        device = self._device
        vectors = checked_vectors(header, arrays, device.info.n_inputs, self._dtypes)
        state = {"fingerprint": device.fingerprint, "device": device.info.name, "position": header.get("position")}
        try:
            device.load_state_dict(state)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ServedError(
                "invalid", f"no position of {device.info.name!r}: {header.get('position')!r:.200}"
            ) from error
        before = dataclasses.replace(device.usage)
        # An emulator makes its matrix anew for each part: it is not asked for parts.
        in_parts = device.info.matrix is None
        fields = None
        try:
            for rows in parts_of(len(vectors), header["outputs"]) if in_parts else [slice(None)]:
                if fields is not None:
                    tell(fields)
                fields = device.project(vectors[rows])[:, : header["outputs"]]
        except DeviceError as error:
            raise to_served(error) from error
        position = device.state_dict()["position"]
        usage = _difference(device.usage, before)
        return {"usage": usage, "position": position}, [] if fields is None else [fields]

    @property
    def _dtypes(self) -> tuple[str, ...]:
        return ("|i1", np.dtype("<f4").str) if self._device.info.accepts_real else ("|i1",)


def _difference(now: Usage, before: Usage) -> dict[str, Any]:
    """What was used between; vectors and wall seconds are counted by the client."""
    counted = [field.name for field in dataclasses.fields(Usage) if field.name not in ("vectors", "wall_seconds")]
    return {name: getattr(now, name) - getattr(before, name) for name in counted}
