"""The device `remote`: the same numbers as the device behind it, whoever else is connected."""

import dataclasses
import threading
import time
from typing import Any

import numpy as np
import pytest
from device_kinds import closed, counts, opened, ternary
from load import put_load
from served import Keys, free_port, remote, serving

from optical_dfa.devices import (
    DeviceClosed,
    DeviceTimeout,
    DeviceUnavailable,
    FingerprintMismatch,
    InvalidConfig,
    InvalidVectors,
    ProjectionDevice,
    RemoteDevice,
    Usage,
    make_device,
)
from optical_dfa.devices.base import Fields, Vectors
from optical_dfa.devices.server.opu_server import Limits


@pytest.mark.parametrize("kind", ["digital", "ideal", "noisy"])
def test_the_same_to_the_bit(kind: str) -> None:
    """Fields, what is counted, fingerprint and state, over two calls of other splits."""
    vectors = ternary(20)
    with serving(closed(kind)) as address, remote(address) as device, opened(kind) as local:
        here = [local.project(vectors[:7]), local.project(vectors[7:])]
        there = [device.project(vectors[:7]), device.project(vectors[7:])]
        for one, other in zip(here, there, strict=True):
            np.testing.assert_array_equal(one, other)
        assert counts(device.usage) == counts(local.usage)
        assert device.fingerprint == local.fingerprint
        assert device.state_dict() == local.state_dict()
        assert device.info.name == "remote"
        assert device.info == dataclasses.replace(local.info, name="remote", matrix=None, accepts_cupy=False)


def test_real_vectors_go_to_a_device_that_takes_them() -> None:
    vectors = np.random.default_rng(0).standard_normal((5, 30)).astype(np.float32)
    with serving(closed("digital")) as address, remote(address) as device, opened("digital") as local:
        np.testing.assert_array_equal(device.project(vectors), local.project(vectors))
    with serving(closed("noisy")) as address, remote(address) as device, pytest.raises(InvalidVectors):
        device.project(vectors)


def test_keys(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    """None of them, not even a public one, is in a log, in an error, or in what a device says of itself."""
    caplog.set_level("DEBUG")
    keys = Keys(tmp_path)
    written = [path.read_text().strip() for path in [*tmp_path.iterdir(), *keys.folder.iterdir()] if path.is_file()]
    vectors = ternary(5)
    with serving(closed("noisy"), **keys.of_server) as address, opened("noisy") as local:
        with remote(address, **keys.of_client()) as device:
            np.testing.assert_array_equal(device.project(vectors), local.project(vectors))
            said = f"{device.settings} {device.spec()} {device.state_dict()} {device.info}"
            assert keys.known in said
        stranger = remote(address, **keys.of_client("stranger"), timeout_s=0.5)
        with pytest.raises(DeviceUnavailable, match="lets this client in") as refused:
            stranger.open()
        with pytest.raises(DeviceUnavailable, match="lets this client in"):
            remote(address, timeout_s=0.5).open()  # without keys
    assert len(written) == 6
    assert "refused a client" in caplog.text
    assert not any(key in f"{said} {refused.value} {caplog.text}" for key in written)


def test_a_request_larger_than_a_message_is_split() -> None:
    """Messages of at most 2,048 bytes: 24 vectors of 21 outputs; 100 vectors are five requests."""
    vectors = ternary(100)
    limits = Limits(message_bytes=2048)
    with serving(closed("noisy"), limits=limits) as address, remote(address) as device, opened("noisy") as local:
        np.testing.assert_array_equal(device.project(vectors), local.project(vectors))
        assert device._client is not None
        assert device._client.request("info", {})[0]["info"]["counts"]["performed"] == 5
        assert device.project(vectors[:0]).shape == (0, 21)


class Hardware(ProjectionDevice):
    """Light does the product: the server sends what is there while it shows the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix_identity = {"kind": "hardware"}
        self.info = dataclasses.replace(closed("digital", 30, 100_000).info, matrix=None, accepts_real=False)
        self.calls: list[int] = []

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        self.calls.append(len(vectors))
        return np.outer(vectors.astype(np.float32).sum(axis=1), np.arange(100_000, dtype=np.float32)), Usage(frames=1)


def test_hardware_goes_on_while_fields_travel() -> None:
    """Parts of at most 1 MB, fields of 0.4 MB: two at a time."""
    hardware, vectors = Hardware(), ternary(7)
    with serving(hardware) as address, remote(address, 30, 100_000) as device:
        fields = device.project(vectors)
        assert device.usage.frames == len(hardware.calls)
    assert hardware.calls == [2, 2, 2, 1]
    np.testing.assert_array_equal(fields, Hardware()._project(vectors)[0])


def test_a_smaller_client_reads_the_first_rows() -> None:
    """Inputs that it has not are dark, outputs that it has not are not sent; the matrix is that of its own size."""
    vectors = ternary(20, n_inputs=11)
    with serving(closed("ideal")) as address, remote(address, 11, 8) as device, opened("ideal", 11, 8) as local:
        np.testing.assert_array_equal(device.project(vectors), local.project(vectors))
        assert device.fingerprint == local.fingerprint


def test_a_larger_client_is_refused() -> None:
    with serving(closed("ideal")) as address, pytest.raises(InvalidConfig, match=r"n_inputs: must be at most 30"):
        remote(address, 31, 8).open()


def test_clients_do_not_see_each_other() -> None:
    """Eight, with streams of their own, for two seconds, each as if it were alone; ten minutes of it are in soak."""
    with serving(closed("noisy", backend="numpy")) as address:
        load = put_load(address, clients=8, seconds=2.0)
    assert load.wrong == []
    assert len(load.seconds) >= 8


def test_a_run_moves_between_the_local_and_the_served_emulator() -> None:
    vectors = ternary(12)
    with serving(closed("noisy")) as address, opened("noisy") as whole:
        expected = whole.project(vectors)
        with opened("noisy") as first:
            parts = [first.project(vectors[:3])]
            state = first.state_dict()
        with remote(address) as second:
            second.load_state_dict(state)
            parts.append(second.project(vectors[3:8]))
            state = second.state_dict()
        with opened("noisy") as third:
            third.load_state_dict(state)
            parts.append(third.project(vectors[8:]))
    np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_another_device_behind_the_address_is_noticed() -> None:
    """Of a restarted server: at the next request, and when the client is opened again."""
    port = free_port()
    vectors = ternary(3)
    device = remote(f"tcp://127.0.0.1:{port}", patience_s=0.3)
    with at_port(closed("noisy"), port), device:
        device.project(vectors)
        state = device.state_dict()
    with at_port(closed("noisy", seed=1), port), pytest.raises(FingerprintMismatch, match="another device"):
        device.open()
    with at_port(closed("noisy", seed=1), port), remote(f"tcp://127.0.0.1:{port}") as other:  # noqa: SIM117
        with pytest.raises(FingerprintMismatch):
            other.load_state_dict(state)
    device = remote(f"tcp://127.0.0.1:{port}", patience_s=0.3)
    with at_port(closed("noisy"), port):
        device.open()
    with at_port(closed("noisy", seed=1), port), pytest.raises(FingerprintMismatch, match="another device"):
        device.project(vectors)
    device.close()


def at_port(device: ProjectionDevice, port: int) -> Any:
    from served import running

    from optical_dfa.devices.server.opu_server import Server
    from optical_dfa.devices.serving import ServedDevice

    return running(Server(ServedDevice(device), f"tcp://127.0.0.1:{port}"))


def test_nobody_there() -> None:
    with pytest.raises(DeviceUnavailable, match=r"no answer from tcp://127.0.0.1:\d+ to request 1 .* sent \d+ times"):
        remote(f"tcp://127.0.0.1:{free_port()}", timeout_s=0.6, patience_s=0.1).open()


class Slow(ProjectionDevice):
    """Fields of ones, after a while."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.info = closed("digital").info
        self.matrix_identity = {"kind": "slow"}
        self.seconds, self.shown = seconds, 0

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        time.sleep(self.seconds)
        self.shown += 1
        return np.ones((len(vectors), self.info.n_outputs), np.float32), Usage(frames=1)


def test_a_deadline_says_what_was_tried() -> None:
    with serving(Slow(1.5)) as address, remote(address, timeout_s=1.0) as device:
        with pytest.raises(DeviceTimeout, match="the server is there, but has not answered yet"):
            device.project(ternary(1))
        assert device.usage == Usage()


def test_what_takes_longer_than_patience_is_waited_for() -> None:
    """The server says every 0.5 s that it is there: there is no silence of 0.8 s, and nothing is sent twice."""
    slow = Slow(1.5)
    with serving(slow) as address, remote(address, patience_s=0.8) as device:
        assert device.project(ternary(2)).sum() == 42
        assert slow.shown == 1


def test_closing_ends_a_wait_that_was_interrupted() -> None:
    """Ctrl-C ends `project`, not what goes on on the socket's thread."""
    with serving(Slow(2.0)) as address:
        device = remote(address).open()
        raised: list[BaseException] = []

        def project() -> None:
            try:
                device.project(ternary(1))
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=project)
        thread.start()
        time.sleep(0.3)
        assert isinstance(device, RemoteDevice)
        assert device._client is not None
        device._client.close()
        thread.join(1.5)
        assert isinstance(raised[0], DeviceClosed)


def test_sockets_are_used_by_one_thread_whoever_calls() -> None:
    vectors = ternary(4)
    with serving(closed("noisy")) as address, remote(address) as device, opened("noisy") as local:
        fields: list[Fields] = []
        for _ in range(3):
            thread = threading.Thread(target=lambda: fields.append(device.project(vectors)))
            thread.start()
            thread.join()
        fields += [device.submit(vectors).result(), device.project(vectors)]
        np.testing.assert_array_equal(fields, [local.project(vectors) for _ in range(5)])


def test_the_rank_is_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(closed("noisy", stream=9)) as address:
        for rank in ("0", "5"):
            monkeypatch.setenv("RANK", rank)
            with remote(address) as device:
                assert device.state_dict()["position"] == {"stream": int(rank), "frame": 0}


def test_before_it_is_open() -> None:
    device = remote("tcp://127.0.0.1:1")
    with pytest.raises(DeviceClosed, match="which matrix"):
        device.fingerprint  # noqa: B018
    with pytest.raises(DeviceClosed):
        device.project(ternary(1))
    device.close()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("address", "127.0.0.1:5557"),
        ("timeout_s", 0),
        ("patience_s", "5"),
        ("stream", -1),
        ("key", "me.secret"),
        ("n_outputs", 0),
    ],
)
def test_impossible_options(option: str, value: Any) -> None:
    options = {"n_inputs": 3, "n_outputs": 5, "address": "tcp://127.0.0.1:1", option: value}
    with pytest.raises(InvalidConfig, match=option.removeprefix("n_")):
        make_device("remote", **options)
