"""A client that says whatever it is told to, and messages that no server should take."""

import os
from typing import Any

import msgpack
import numpy as np
import zmq

from optical_dfa.devices.server.opu_server import PROTOCOL, pack, read_key, unpack


class Raw:
    """A socket at a server; requests are numbered by the caller."""

    def __init__(self, address: str, server_key: str | None = None, key: str | None = None) -> None:
        self.session = os.urandom(16)
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger, self.socket.sndtimeo = 0, 1000
        if key is not None and server_key is not None:
            secret = read_key(key, secret=True)
            self.socket.curve_secretkey, self.socket.curve_publickey = secret, zmq.curve_public(secret)
            self.socket.curve_serverkey = read_key(server_key)
        self.socket.connect(address)

    def close(self) -> None:
        self.socket.close()
        self._context.term()

    def send(self, op: str, number: int, arrays: Any = (), **fields: Any) -> None:
        header = {"op": op, "session": self.session, "number": number, "oldest": 0, "seconds": 20.0, **fields}
        self.socket.send_multipart(pack(header, arrays))

    def receive(self, timeout_s: float = 10.0, alive: bool = False) -> tuple[dict[str, Any], list[Any]] | None:
        """The next message, those that only say that the server lives left out; None: there was none."""
        while self.socket.poll(int(1000 * timeout_s)):
            header, arrays = unpack(self.socket.recv_multipart())
            if alive or header["type"] != "alive":
                return header, arrays
        return None

    def info(self) -> dict[str, Any]:
        self.send("info", 0)
        while (answer := self.receive()) is not None:
            if "info" in answer[0]:
                found: dict[str, Any] = answer[0]["info"]
                return found
        raise AssertionError("no answer")

    def project(self, number: int, vectors: Any, device: str, position: Any, outputs: int = 21, **fields: Any) -> None:
        self.send("project", number, [vectors], device=device, position=position, outputs=outputs, **fields)


def malformed(generator: np.random.Generator) -> list[bytes]:
    """A message with something wrong: bytes, types, shapes, sizes, values, nesting or number of parts."""
    header: dict[Any, Any] = {
        "v": PROTOCOL, "op": "project", "session": bytes(16), "number": 1, "oldest": 0, "seconds": 5.0, "outputs": 3,
        "device": "x", "position": {}, "arrays": [["|i1", [2, 30]]],
    }  # fmt: skip
    frames = [b"", bytes(60)]
    names = list(header)
    shapes = [["|O8", [1]]], [["|i1", [-1, 5]]], [["|i1", [2**40, 2**40]]], [["<f4", [15]]], [["|i1", [2]]] * 3
    values: tuple[Any, ...] = None, -1, 2**63, 1.5, float("nan"), "", "x" * 5000, b"\0" * 16, [], {}, [[]], True
    odd: list[Any] = [*values, *shapes]
    kind = generator.integers(7)
    if kind == 0:
        return [generator.bytes(int(generator.integers(0, 200))) for _ in range(generator.integers(0, 5))] or [b""]
    if kind == 1:
        header[names[generator.integers(len(names))]] = odd[generator.integers(len(odd))]
    elif kind == 2:
        del header[names[generator.integers(len(names))]]
    elif kind == 3:
        frames = frames[: generator.integers(1, 2)] + [b"z"] * int(generator.integers(0, 4))
    elif kind == 4:
        depth = int(generator.integers(1, 3000))
        return [b"\x91" * depth + b"\xc0", *frames[1:]]
    elif kind == 5:
        header[odd[int(generator.integers(3))]] = b"\xff" * int(generator.integers(70000))
    frames[0] = msgpack.packb(header)
    if kind == 6:
        place = int(generator.integers(len(frames[0])))
        frames[0] = frames[0][:place] + generator.bytes(3) + frames[0][place + 3 :]
    return frames
