"""The device of a server: a local stand-in for hardware, or an emulator, on another machine or in another process."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from optical_dfa.devices.base import DeviceInfo, Fields, ProjectionDevice, Usage, Vectors
from optical_dfa.devices.errors import (
    DeviceFault,
    DeviceTimeout,
    DeviceUnavailable,
    FingerprintMismatch,
    InvalidConfig,
)
from optical_dfa.devices.faults import Fault
from optical_dfa.devices.remote_client import Endpoint, RemoteClient, fill
from optical_dfa.devices.stream import own_stream
from optical_dfa.emulator.matrix import check_geometry

SHARED_INFO = (
    "linear", "exact", "accepts_real", "backend", "frames_per_vector", "n_pixels", "outputs_per_mode", "output_map",
    "camera_backend", "probe_frames", "mark_frames",
)  # fmt: skip
"""What the server says of its device."""


class RemoteDevice(ProjectionDevice):
    """A device behind a device server: `optical-dfa serve`, or `opu_server.py` on the host of the hardware.

    Every request carries the position of this client, stream and frame numbers, and from them the time, so that fields
    do not depend on who else uses the server, on lost messages, or on restarts. The position is part of `state_dict`,
    and is that of the served device: a run may move between a local emulator and the same one behind a server.

    A lost or broken answer is asked for again; the server shows nothing twice that it has displayed already.

    Args:
        n_inputs: length of the vectors, at most that of the served device, whose other inputs stay dark.
        n_outputs: outputs, the first ones of the served device.
        address: of the server, `tcp://HOST:PORT` or `ipc://PATH`.
        server_key: file of the server's public key; None: no encryption, for a server on this machine.
        key: file of this client's secret key, of mode 600.
        stream: which sequence of noise, of a device that has several; None: the rank of this process (environment
            variable RANK), else 0.
        timeout_s: a request that is not answered after so long, whatever was tried, raises `DeviceTimeout`, seconds.
        patience_s: after so long without a sign of the server the connection is made anew, seconds.

    Raises:
        ValueError: an impossible value.
    """

    def __init__(
        self,
        *,
        n_inputs: int,
        n_outputs: int,
        address: str,
        server_key: str | None = None,
        key: str | None = None,
        stream: int | None = None,
        timeout_s: float = 60.0,
        patience_s: float = 5.0,
    ) -> None:
        super().__init__()
        check_geometry(n_inputs, n_outputs, 0)
        self._endpoint = Endpoint(address, server_key, key, timeout_s, patience_s)
        self._stream = own_stream(stream)
        self._client: RemoteClient | None = None
        self._served: Mapping[str, Any] = {}
        self._at: dict[str, Any] | None = None
        self.matrix_identity = {}
        self.settings = {**dataclasses.asdict(self._endpoint), "stream": self._stream}
        self.info = DeviceInfo(
            name="remote",
            n_inputs=n_inputs,
            n_outputs=n_outputs,
            linear=True,
            exact=False,
            accepts_real=False,
            backend="known once it is open",
            frames_per_vector=0,
            n_pixels=0,
            outputs_per_mode=1,
            output_map="known once it is open",
            matrix=None,
        )

    def _open(self) -> None:
        client = RemoteClient(self._endpoint)
        try:
            served = self._greet(client)
            self._adopt(served)
        except BaseException:
            client.close()
            raise
        self._client = client

    def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _greet(self, client: RemoteClient) -> Mapping[str, Any]:
        try:
            served: Mapping[str, Any] = client.request("info", {})[0]["info"]
        except DeviceTimeout as error:
            raise DeviceUnavailable(str(error)) from None
        if served.get("serves") != "device":
            raise DeviceUnavailable(
                f"{self._endpoint.address} serves a {served.get('serves')}, not a device that projects: use "
                "optical_dfa.devices.RemoteBench, or serve a device"
            )
        return served

    def _adopt(self, served: Mapping[str, Any]) -> None:
        """Become the client of that device.

        Raises:
            InvalidConfig: it is smaller than asked for.
            FingerprintMismatch: it is not that of before.
        """
        faults = [
            Fault(
                (name,),
                f"must be at most {served[name]:,}, that of the device at {self._endpoint.address}; got {own:,}",
            )
            for name, own in (("n_inputs", self.info.n_inputs), ("n_outputs", self.info.n_outputs))
            if own > served[name]
        ]
        if faults:
            raise InvalidConfig(f"device 'remote' cannot be opened: {'; '.join(map(str, faults))}", faults)
        if self._served and served["device"] != self._served["device"]:
            raise FingerprintMismatch(
                f"the server at {self._endpoint.address} has another device, or other settings, than when this one was "
                f"opened first: {served['name']} {served['device']} instead of {self._served['device']}"
            )
        if self._served:
            return
        values: dict[str, Any] = {name: served[name] for name in SHARED_INFO}
        whole = all(served[name] == getattr(self.info, name) for name in ("n_inputs", "n_outputs"))
        if not whole and values["output_map"] != "rows":  # of which a device of this size would make another choice
            values["output_map"] += f", of {served['n_inputs']} inputs and {served['n_outputs']} outputs"
        self.info = dataclasses.replace(self.info, **values)
        self.matrix_identity = served["identity"]
        self.settings = {**self.settings, "served": {"name": served["name"], **served["settings"]}}
        self._served = served
        self._at = dict(served["position"])
        if "stream" in self._at:
            self._at["stream"] = self._stream

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        assert self._client is not None  # it is open
        assert self._at is not None
        fields = np.empty((len(vectors), self.info.n_outputs), np.float32)
        usage, at = Usage(), self._at
        n_inputs = self._served["n_inputs"]
        row_bytes = max(n_inputs * vectors.itemsize, 4 * self.info.n_outputs)
        at_once = max(1, self._served["max_bytes"] // row_bytes)
        for first in range(0, len(vectors), at_once):
            shown = vectors[first : first + at_once]
            part = np.zeros((len(shown), n_inputs), vectors.dtype)
            part[:, : self.info.n_inputs] = shown
            request = {"device": self._served["device"], "position": at, "outputs": self.info.n_outputs}
            header, arrays = self._client.request("project", request, [part])
            try:
                fits = fill(fields[first : first + at_once], arrays)
                usage.add(Usage(**header["usage"]))
                at = dict(header["position"])
            except (KeyError, TypeError, ValueError):
                fits = False
            if not fits:
                raise DeviceFault(
                    f"the server at {self._endpoint.address} answered, but not with fields of {len(part)} vectors to "
                    f"{self.info.n_outputs} outputs: bring both sides to one version of optical_dfa"
                )
        self._at = at
        return fields, usage

    def _kind(self) -> str:
        return str(self._served.get("name", self.info.name))

    def _position(self) -> dict[str, Any]:
        return dict(self._at or {})

    def _restore_position(self, position: Mapping[str, Any]) -> None:
        self._at = dict(position)
