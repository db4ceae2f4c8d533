"""The client's end of a device server: requests that survive lost messages, restarts and a busy server.

A request keeps its number however often it is sent: what the server has displayed already, it answers from its cache.
Whatever the answer depends on comes with the request, so that a server which lost everything answers the same.
"""

import contextlib
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.errors import (
    DeviceClosed,
    DeviceError,
    DeviceFault,
    DeviceTimeout,
    DeviceUnavailable,
    InvalidConfig,
)
from optical_dfa.devices.own_thread import OwnThread
from optical_dfa.emulator.checks import require

Array = npt.NDArray[Any]

BACKOFF_S = (0.05, 2.0)
"""First and longest pause before a request is sent again; each is twice the one before."""

DEVICE_ATTEMPTS = 5
"""A device that fails so often on one request is left alone."""


@dataclass(frozen=True)
class Endpoint:
    """Where a server is, how to be let in, and how long to wait.

    Raises:
        ValueError: an impossible value, or only one of the two keys.
    """

    address: str
    """`tcp://HOST:PORT` or `ipc://PATH`."""
    server_key: str | None = None
    """File of the server's public key; None: no encryption, for a server on this machine."""
    key: str | None = None
    """File of this client's secret key, mode 600."""
    timeout_s: float = 60.0
    """After so long a request is given up, whatever was tried, seconds."""
    patience_s: float = 5.0
    """After so long without a sign of the server the connection is made anew, seconds; the server gives one every 0.5
    seconds."""

    def __post_init__(self) -> None:
        port = re.match(r"tcp://.+:(\d+)$", self.address) if isinstance(self.address, str) else None
        given = port is not None and 1 <= int(port[1]) <= 65535  # of a larger one ZeroMQ would take another
        given = given or (isinstance(self.address, str) and self.address.startswith("ipc://"))
        require(given, "address", self.address, "tcp://HOST:PORT, PORT 1 … 65535, or ipc://PATH")
        for name in ("timeout_s", "patience_s"):
            seconds = getattr(self, name)
            whole = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds <= 86400
            require(whole, name, seconds, "a number above 0, at most 86400, seconds")
        together = (self.server_key is None) == (self.key is None)
        require(together, "key", self.key, "given if server_key is, and left out if that is")


class RemoteClient:
    """A session at a server. Calls are served one at a time; its socket lives on a thread of its own.

    Args:
        endpoint: where the server is.

    Raises:
        DeviceUnavailable: the extra `remote` is not installed.
        InvalidConfig: a key cannot be used.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        try:
            import msgpack  # noqa: F401
            import zmq
        except ImportError as error:
            raise DeviceUnavailable(
                f"{error}; a remote device needs the extra: pip install 'optical_dfa[remote]'"
            ) from None
        from optical_dfa.devices.server.opu_server import ServedError, read_key

        self._endpoint = endpoint
        try:
            self._keys = None
            if endpoint.key is not None and endpoint.server_key is not None:
                self._keys = read_key(endpoint.key, secret=True), read_key(endpoint.server_key)
        except ServedError as error:
            raise InvalidConfig(str(error)) from None
        self._session = os.urandom(16)
        self._number = 0
        self._context = zmq.Context()
        self._parts: dict[int, list[Array]] = {}
        self._socket: Any = None
        self._closing = threading.Event()
        self._thread = OwnThread("optical-dfa-remote")

    def request(
        self, op: str, fields: dict[str, Any], arrays: Sequence[Array] = ()
    ) -> tuple[dict[str, Any], list[Array]]:
        """Answer to a request: header and arrays.

        Raises:
            DeviceTimeout: no answer in time; the message says what was tried.
            DeviceError: what the server answered instead.
        """
        return self._thread.call(lambda: self._request(op, fields, arrays))

    def close(self) -> None:
        """Leave the server; a call under way ends with `DeviceClosed`."""
        self._closing.set()
        self._thread.call(self._leave)
        self._thread.stop()

    def _request(self, op: str, fields: dict[str, Any], arrays: Sequence[Array]) -> tuple[dict[str, Any], list[Array]]:
        self._number += 1
        start = time.monotonic()
        deadline, pause = start + self._endpoint.timeout_s, BACKOFF_S[0]
        tried: Counter[str] = Counter()
        failures = 0
        while (left := deadline - time.monotonic()) > 0:
            if self._closing.is_set():
                raise DeviceClosed("the remote device was closed while it waited for an answer")
            outcome = self._send(op, fields, arrays, left) or self._await(deadline)
            if not isinstance(outcome, str | DeviceError):
                return outcome
            if isinstance(outcome, DeviceError):
                failures += 1
                if failures >= DEVICE_ATTEMPTS or not _worth_another(outcome):
                    raise outcome
            tried[str(outcome)] += 1
            self._closing.wait(min(pause, max(0.0, deadline - time.monotonic())))
            pause = min(2 * pause, BACKOFF_S[1])
        what = "; ".join(f"{times} times: {outcome}" for outcome, times in tried.items())
        raise DeviceTimeout(
            f"no answer from {self._endpoint.address} to request {self._number} ({op}) in "
            f"{time.monotonic() - start:.1f} s, sent {tried.total()} times: {what}. "
            f"See whether the server runs and lets this client in, or raise timeout_s ({self._endpoint.timeout_s:g})"
        )

    def _send(self, op: str, fields: dict[str, Any], arrays: Sequence[Array], seconds: float) -> str:
        """Send the request; returns what prevented it, or nothing."""
        import zmq

        from optical_dfa.devices.server.opu_server import pack

        if self._socket is None:
            self._connect()
        self._parts = {}
        header = {"op": op, "session": self._session, "number": self._number, "oldest": self._number}
        frames = pack({**fields, **header, "seconds": float(seconds)}, arrays)
        try:
            # What is sent is not changed before the answer is here, so it need not be copied.
            self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return self._reconnect("the connection is full")
        return ""

    def _await(self, deadline: float) -> tuple[dict[str, Any], list[Array]] | str | DeviceError:
        """The answer; or why there is none, in words; or the error of the server."""
        import zmq

        from optical_dfa.devices.served_errors import from_served
        from optical_dfa.devices.server.opu_server import ServedError, unpack

        sent = heard = time.monotonic()
        while True:
            now = time.monotonic()
            if self._closing.is_set():
                return "closed"
            if now > deadline:
                return "the server is there, but has not answered yet" if heard > sent else "not a sign"
            if now > heard + self._endpoint.patience_s:
                return self._reconnect(f"not a sign in {self._endpoint.patience_s:g} s, connected anew")
            wait_s = min(deadline, heard + self._endpoint.patience_s, now + 0.2) - now
            if not self._socket.poll(1 + int(1000 * wait_s), zmq.POLLIN):
                continue
            frames = self._socket.recv_multipart(copy=False)
            heard = time.monotonic()
            try:
                header, arrays = unpack([frame.buffer for frame in frames])
            except ServedError as error:
                return f"an answer that is none: {error}"
            if header.get("kind") != "protocol" and (
                header.get("session") != self._session or header.get("number") != self._number
            ):
                continue  # late: to a request that was given up
            kind = header.get("type")
            part = header.get("part", 0)
            if type(part) is not int:
                return f"an answer that is none: part {part!r:.40}"
            if kind in ("part", "result"):
                self._parts[part] = arrays
            if kind == "result":
                if len(self._parts) <= part:
                    return "parts of the answer were lost"
                return header, [array for part in sorted(self._parts) for array in self._parts[part]]
            if kind == "error" and header.get("kind") == "busy":
                return str(header.get("message"))
            if kind == "error":
                return from_served(str(header.get("kind")), str(header.get("message")))

    def _connect(self) -> None:
        import zmq

        socket = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0), (zmq.IPV6, "[" in self._endpoint.address), (zmq.RECONNECT_IVL, 100),
            (zmq.RECONNECT_IVL_MAX, 2000), (zmq.HEARTBEAT_IVL, 1000), (zmq.HEARTBEAT_TIMEOUT, 10000),
        ):  # fmt: skip
            socket.setsockopt(option, value)
        if self._keys is not None:
            socket.curve_secretkey, socket.curve_serverkey = self._keys
            socket.curve_publickey = zmq.curve_public(self._keys[0])
        socket.connect(self._endpoint.address)
        self._socket = socket

    def _reconnect(self, why: str) -> str:
        """Throw the connection away, what waits in it too; the next request makes another."""
        self._socket.close()
        self._socket = None
        return why

    def _leave(self) -> None:
        """Let the server forget the session; on the socket's thread."""
        import zmq

        from optical_dfa.devices.server.opu_server import pack

        if self._socket is not None:
            number = self._number + 1
            header = {"op": "bye", "session": self._session, "number": number, "oldest": number, "seconds": 1.0}
            with contextlib.suppress(zmq.ZMQError):  # it forgets by itself, later
                self._socket.send_multipart(pack(header), zmq.NOBLOCK)
            self._socket.close(linger=200)
        self._context.term()


def _worth_another(error: DeviceError) -> bool:
    """Whether the device may do better if it is asked again."""
    return isinstance(error, DeviceFault | DeviceTimeout)


def fill(rows: Array, arrays: Sequence[Array]) -> bool:
    """Write the arrays of an answer into `rows`, one behind the other; returns whether they fit."""
    fits = sum(map(len, arrays)) == len(rows)
    fits = fits and all(array.shape[1:] == rows.shape[1:] and array.dtype == rows.dtype for array in arrays)
    if fits and arrays:
        np.concatenate(arrays, out=rows)
    return fits
