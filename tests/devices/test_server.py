"""The device server: what it refuses, keeps, and survives."""

import contextlib
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from device_kinds import closed, opened, ternary
from raw_client import Raw, malformed
from served import ANYWHERE, Keys, Process, free_port, remote, running, serving

from optical_dfa.devices import DeviceFault, DeviceUnavailable
from optical_dfa.devices.server.opu_server import (
    FairQueue,
    Limits,
    Served,
    ServedError,
    Server,
    is_local,
    pack,
    read_key,
    unpack,
    write_keys,
)
from optical_dfa.devices.serving import ServedDevice


@contextlib.contextmanager
def raw(address: str, **keys: Any) -> Iterator[Raw]:
    client = Raw(address, **keys)
    try:
        yield client
    finally:
        client.close()


class Gate(Served):
    """Answers with the number in the request, once the gate is open; writes down what it performed."""

    def __init__(self, failures: int = 0) -> None:
        self.open_gate, self.performed = threading.Event(), []
        self.failures, self.closed = failures, False

    performed: list[int]

    def open(self) -> dict[str, Any]:
        return {"serves": "device", "identity": {}, "settings": {}}

    def close(self) -> None:
        self.closed = True

    def perform(self, header: Any, arrays: Any, tell: Any) -> Any:
        assert self.open_gate.wait(20)
        self.performed.append(header["mark"])
        for part in range(header.get("parts", 1) - 1):
            tell(np.full(1, part, "<f4"))
        if self.failures:
            self.failures -= 1
            raise ServedError("fault", "on purpose")
        return {"mark": header["mark"]}, [np.full(3, header["mark"], "<f4")]


def ask(client: Raw, number: int, mark: int, device: str, **fields: Any) -> None:
    client.send("project", number, mark=mark, device=device, **fields)


def test_a_request_sent_again_is_displayed_once() -> None:
    """While it waits, while it is performed, and when it is answered; until the client says that it has the answer."""
    gate = Gate()
    with serving(gate) as address, raw(address) as client, raw(address) as other:
        device = client.info()["device"]
        for _ in range(3):
            ask(client, 1, 10, device)
            ask(client, 2, 20, device)
        client.info()  # all six are there
        gate.open_gate.set()
        answers = [client.receive(), client.receive()]
        assert [answer[0]["mark"] for answer in answers if answer] == [10, 20]
        other.session = client.session  # another connection of the same client
        for number, mark in ((2, 20), (1, 10)):
            ask(other, number, mark, device)
            answer = other.receive()
            assert answer is not None
            assert (answer[0]["number"], answer[0]["mark"], answer[1][0].tolist()) == (number, mark, [mark] * 3)
        assert gate.performed == [10, 20]
        ask(other, 3, 30, device, oldest=3)
        other.receive()
        ask(other, 2, 20, device)
        other.receive()
        assert gate.performed == [10, 20, 30, 20]
        assert other.info()["counts"]["refetched"] == 2
    assert gate.closed


def test_parts_of_an_answer_are_kept_too() -> None:
    gate = Gate()
    gate.open_gate.set()
    with serving(gate) as address, raw(address) as client:
        device = client.info()["device"]
        for _ in range(2):
            ask(client, 1, 10, device, parts=3)
            answers = [answer for answer in (client.receive() for _ in range(3)) if answer]
            assert [answer[0]["part"] for answer in answers] == [0, 1, 2]
            assert [answer[0]["type"] for answer in answers] == ["part", "part", "result"]
            assert [answer[1][0][0] for answer in answers] == [0, 1, 10]
        assert gate.performed == [10]


def test_who_has_an_answer_finds_it_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the thread of the server is held up just after it has sent it."""
    send = Server._send

    def slow(server: Server, identity: bytes, frames: list[Any]) -> None:
        send(server, identity, frames)
        time.sleep(0.05)

    monkeypatch.setattr(Server, "_send", slow)
    server = Server(ServedDevice(closed("ideal", backend="numpy")), ANYWHERE)
    with running(server) as address, remote(address) as device:
        for call in range(3):
            device.project(ternary(2))
            assert server.counts["performed"] == call + 1


def test_an_error_is_not_kept() -> None:
    gate = Gate(failures=1)
    gate.open_gate.set()
    with serving(gate) as address, raw(address) as client:
        device = client.info()["device"]
        found = []
        for _ in range(2):
            ask(client, 1, 10, device)
            answer = client.receive()
            assert answer is not None
            found.append(answer[0].get("kind"))
        assert found == ["fault", None]


def test_clients_take_turns() -> None:
    """One client has asked for ten before the second asks for two: these come second and fourth."""
    gate = Gate()
    with serving(gate) as address, raw(address) as greedy, raw(address) as modest:
        device = greedy.info()["device"]
        for number in range(10):
            ask(greedy, number, number, device)
        greedy.info()  # all are in the queue
        for number in range(2):
            ask(modest, number, 100 + number, device)
        modest.info()
        gate.open_gate.set()
        for _ in range(10):
            assert greedy.receive() is not None
    assert gate.performed[:5] == [0, 1, 100, 2, 101]  # 0 was under way
    assert gate.performed[5:] == [3, 4, 5, 6, 7, 8, 9]


def test_fair_queue() -> None:
    queue = FairQueue()
    for client, items in {"a": "1234", "b": "56", "c": "7"}.items():
        for item in items:
            queue.put(client, item)
    assert (len(queue), queue.waiting("a"), queue.waiting("z")) == (7, 4, 0)
    assert [queue.get() for _ in range(4)] == ["1", "5", "7", "2"]
    assert queue.drop("a") == ["3", "4"]
    assert [queue.get() for _ in range(len(queue))] == ["6"]


def test_too_many_requests_are_put_off() -> None:
    gate = Gate()
    with serving(gate, limits=Limits(requests_per_client=2)) as address, raw(address) as client:
        device = client.info()["device"]
        for number in range(4):  # one under way, two in the queue
            ask(client, number, number, device)
            client.info() if number == 0 else None
        answer = client.receive()
        assert answer is not None
        assert (answer[0]["number"], answer[0]["kind"]) == (3, "busy")
        gate.open_gate.set()
        assert [answer[0]["mark"] for answer in (client.receive() for _ in range(3)) if answer] == [0, 1, 2]


def test_a_message_that_is_too_large_is_not_read() -> None:
    """Its sender is cut off and connects anew; whoever else is there notices nothing."""
    gate = Gate()
    gate.open_gate.set()
    limits = Limits(message_bytes=1000)
    with serving(gate, limits=limits) as address, raw(address) as client, raw(address) as other:
        device = client.info()["device"]
        client.send("project", 1, [np.zeros(1001, np.int8)], mark=1, device=device)
        assert client.receive(0.5) is None
        ask(other, 1, 7, device)
        answer = other.receive()
        assert answer is not None
        assert answer[0]["mark"] == 7
        assert client.info()["counts"]["performed"] == 1
    assert gate.performed == [7]


def test_too_many_bytes_are_put_off() -> None:
    """600 of 1,000 wait; 500 more are put off, until there is room: the first request, under way, does not count."""
    gate = Gate()
    with serving(gate, limits=Limits(queue_bytes=1000)) as address, raw(address) as client:
        device = client.info()["device"]
        for number, size in ((0, 1000), (1, 600), (2, 500)):
            client.send("project", number, [np.zeros(size, np.int8)], mark=number, device=device)
            client.info() if number == 0 else None
        answer = client.receive()
        assert answer is not None
        assert (answer[0]["number"], answer[0]["kind"]) == (2, "busy")
        gate.open_gate.set()
        assert [answer[0]["mark"] for answer in (client.receive(), client.receive()) if answer] == [0, 1]
        client.send("project", 2, [np.zeros(500, np.int8)], mark=2, device=device)
        answer = client.receive()
        assert answer is not None
        assert answer[0]["mark"] == 2


def test_what_nobody_waits_for_is_not_displayed() -> None:
    gate = Gate()
    with serving(gate) as address, raw(address) as client:
        device = client.info()["device"]
        ask(client, 1, 1, device)
        ask(client, 2, 2, device, seconds=0.01)
        ask(client, 3, 3, device)
        client.info()
        time.sleep(0.1)
        gate.open_gate.set()
        assert [answer[0]["mark"] for answer in (client.receive(), client.receive()) if answer] == [1, 3]
        assert client.info()["counts"]["expired"] == 1
    assert gate.performed == [1, 3]


def test_old_answers_are_forgotten() -> None:
    """Of a cache that is too small for one answer, the newest stays."""
    gate = Gate()
    gate.open_gate.set()
    server = Server(gate, ANYWHERE, limits=Limits(cache_bytes=1))
    from served import running

    with running(server) as address, raw(address) as client:
        device = client.info()["device"]
        for number in range(3):
            ask(client, number, number, device)
            client.receive()
        deadline = time.monotonic() + 20
        while len(server._answers) > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [key[2] for key in server._answers] == [2]
        assert server._answer_bytes == server._answers[next(iter(server._answers))][1]


def test_it_says_that_it_is_there() -> None:
    gate = Gate()
    with serving(gate) as address, raw(address) as client:
        ask(client, 1, 1, client.info()["device"])
        for _ in range(2):
            answer = client.receive(alive=True)
            assert answer is not None
            assert (answer[0]["type"], answer[0]["number"]) == ("alive", 1)
        gate.open_gate.set()


def test_another_version_is_told() -> None:
    with serving(Gate()) as address, raw(address) as client:
        import msgpack

        client.socket.send(msgpack.packb({"v": 2, "arrays": []}))
        answer = client.receive()
        assert answer is not None
        assert answer[0]["kind"] == "protocol"
        assert "version 1" in answer[0]["message"]
        assert "got 2" in answer[0]["message"]


def test_malformed_messages(tmp_path: Path) -> None:
    """2,000 of them with a good key: the server answers its other client as if nothing had been sent."""
    keys = Keys(tmp_path)
    generator = np.random.default_rng(3)
    vectors = ternary(3)
    with (
        serving(closed("noisy"), **keys.of_server) as address,
        raw(address, **keys.of_client()) as client,
        remote(address, **keys.of_client()) as device,
        opened("noisy") as local,
    ):
        client.socket.sndtimeo = 60_000
        for number in range(2000):
            client.socket.send_multipart(malformed(generator))
            while client.socket.poll(0):
                client.socket.recv_multipart()
            if number % 400 == 0:
                np.testing.assert_array_equal(device.project(vectors), local.project(vectors))
        np.testing.assert_array_equal(device.project(vectors), local.project(vectors))
        assert client.info()["counts"]["malformed"] > 1000


def test_an_unknown_key_gets_no_answer(tmp_path: Path) -> None:
    """Neither does a client without keys, or bytes that are not of the protocol beneath: but for its greeting."""
    keys = Keys(tmp_path)
    with serving(Gate(), **keys.of_server) as address:
        with raw(address, **keys.of_client("stranger")) as stranger, raw(address) as plain:
            for client in (stranger, plain):
                with contextlib.suppress(zmq.Again):  # it has been turned away already
                    client.send("info", 0)
                assert client.receive(0.5) is None
        with socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1]))) as connection:
            connection.settimeout(0.5)
            connection.sendall(os.urandom(1000))
            heard = b""
            with contextlib.suppress(TimeoutError, ConnectionError):
                while part := connection.recv(1000):
                    heard += part
            assert len(heard) <= 64
        with raw(address, **keys.of_client()) as known:
            assert known.info()["counts"]["denied"] >= 1


def test_a_key_may_be_taken_back(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    with serving(Gate(), **keys.of_server) as address:
        with raw(address, **keys.of_client()) as known:
            known.info()
        next(keys.folder.iterdir()).unlink()
        with raw(address, **keys.of_client()) as known:
            with contextlib.suppress(zmq.Again):
                known.send("info", 0)
            assert known.receive(0.5) is None


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:5557", "tcp://*:5557", "tcp://[::]:5557", "tcp://127.evil:1"])
def test_beyond_this_machine_only_with_keys(address: str) -> None:
    assert not is_local(address)
    with pytest.raises(ServedError, match="give --key and --clients"):
        Server(Gate(), address)


def test_addresses_of_this_machine() -> None:
    for address in ("tcp://127.0.0.1:1", "tcp://127.3.2.1:*", "tcp://localhost:1", "tcp://[::1]:1", "ipc:///tmp/x"):
        assert is_local(address)


def test_keys_are_files_for_their_owner(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        secret, public = write_keys(str(tmp_path), "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(secret).st_mode) == 0o600
    assert len(read_key(secret, secret=True)) == len(read_key(public)) == 40
    with pytest.raises(ServedError, match="not overwritten"):
        write_keys(str(tmp_path), "a")
    os.chmod(secret, 0o640)
    with pytest.raises(ServedError, match="chmod 600"):
        read_key(secret, secret=True)
    (tmp_path / "b.public").write_text("no key")
    with pytest.raises(ServedError, match="holds no key"):
        read_key(str(tmp_path / "b.public"))
    with pytest.raises(ServedError, match="cannot be read"):
        read_key(str(tmp_path / "c.public"))


def test_a_key_and_a_list_of_clients_go_together(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    for key, clients in ((keys.server, None), (None, str(keys.folder))):
        with pytest.raises(ServedError, match="go together"):
            Server(Gate(), ANYWHERE, key, clients)
    with pytest.raises(ServedError, match="cannot be read"):
        Server(Gate(), ANYWHERE, key=keys.server, clients=str(tmp_path / "none"))


def test_messages_there_and_back() -> None:
    arrays = [np.arange(6, dtype="<f4").reshape(2, 3), np.zeros((0, 4), np.int8), np.array(7, "|u1")]
    header, back = unpack([bytes(frame) for frame in pack({"a": [1, b"x"]}, arrays)])
    assert header["a"] == [1, b"x"]
    for one, other in zip(arrays, back, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_an_address_that_is_taken() -> None:
    with serving(Gate()) as address, pytest.raises(ServedError, match="cannot listen"):
        Server(Gate(), address).run()


def test_a_device_that_cannot_be_opened() -> None:
    device = closed("noisy")

    def fail() -> None:
        raise DeviceUnavailable("unplugged")

    device._open = fail  # type: ignore[method-assign]
    with pytest.raises(ServedError, match="unplugged") as raised:
        Server(ServedDevice(device), ANYWHERE).run()
    assert raised.value.kind == "unavailable"


def test_a_fault_of_the_device_is_one_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five times; then the client leaves it alone. Nothing is counted, and the next call goes on from there."""
    device = closed("noisy")
    plain, left = device._project, [7]

    def project(vectors: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise DeviceFault("the camera stutters")
        return plain(vectors)

    device._project = project  # type: ignore[method-assign]
    monkeypatch.setattr("optical_dfa.devices.remote_client.BACKOFF_S", (0.001, 0.001))
    with serving(device) as address, remote(address) as client, opened("noisy") as local:
        with pytest.raises(DeviceFault, match="the camera stutters"):
            client.project(ternary(2))
        assert left == [2]
        np.testing.assert_array_equal(client.project(ternary(2)), local.project(ternary(2)))


def test_sigterm_answers_what_waits() -> None:
    """One request under way and one in the queue when the signal comes: both are answered, the third is put off."""
    server = Process("emulator", "--inputs=300", "--outputs=4000", port=free_port())
    server.start()
    vectors = np.random.default_rng(0).integers(-1, 2, (2000, 300), np.int8)
    with raw(server.address) as client:
        info = client.info()
        for number in (1, 2):
            client.project(number, vectors, info["device"], {"stream": 0, "frame": 0}, outputs=4000)
        client.info()
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        client.project(3, vectors, info["device"], {"stream": 0, "frame": 0}, outputs=4000)
        answers = {answer[0]["number"]: answer for answer in (client.receive(60) for _ in range(3)) if answer}
        assert server.end(0) == 0
    assert answers[3][0]["kind"] == "busy"
    assert [len(answers[number][1][0]) for number in (1, 2)] == [2000, 2000]
    np.testing.assert_array_equal(answers[1][1][0], answers[2][1][0])  # the same stamp, the same noise
