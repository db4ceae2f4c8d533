"""Opening, closing, threads, submitted work and failures of a device."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from device_kinds import any_kind, closed, counts, exact_kinds, opened, ternary

from optical_dfa.devices import (
    DeviceClosed,
    DeviceInfo,
    DeviceTimeout,
    DeviceUnavailable,
    InvalidVectors,
    ProjectionDevice,
    Usage,
    emulated,
)
from optical_dfa.devices.base import Fields, Vectors
from optical_dfa.emulator import EmulatedBench


@any_kind
def test_a_closed_device_refuses_work(kind: str) -> None:
    new, used = closed(kind), opened(kind)
    used.close()
    for device in (new, used):
        for call in (device.project, device.submit):
            with pytest.raises(DeviceClosed, match=rf"^device '{device.info.name}' is closed: call its open\(\)"):
                call(ternary(1))
        assert device.usage.vectors == 0


@any_kind
def test_open_and_close_may_be_repeated(kind: str) -> None:
    device = closed(kind)
    assert device.open() is device
    assert device.open() is device
    first = device.project(ternary(4))
    assert first.any()
    device.close()
    device.close()
    with device as again:
        assert again is device
        assert device.project(ternary(4)).any()
    with pytest.raises(DeviceClosed):
        device.project(ternary(4))


class Probe(ProjectionDevice):
    """Counts what the base class asks of it, and whether two calls ever overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix_identity = {"kind": "probe"}
        self.info = DeviceInfo(
            name="probe", n_inputs=2, n_outputs=2, linear=True, exact=True, accepts_real=False, backend="none",
            frames_per_vector=1, n_pixels=2, outputs_per_mode=1, output_map="rows", matrix=None,
        )  # fmt: skip
        self.calls: list[str] = []
        self.inside = 0
        self.overlapped = False
        self.refuse_to_open = False

    def _open(self) -> None:
        self.calls.append("open")
        if self.refuse_to_open:
            raise DeviceUnavailable("not connected")

    def _close(self) -> None:
        self.calls.append("close")

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        self.inside += 1
        self.overlapped |= self.inside > 1
        time.sleep(0.0005)  # lets other threads in, were there no lock
        self.inside -= 1
        return vectors.astype(np.float32), Usage(frames=len(vectors))


def test_hardware_is_taken_and_released_once() -> None:
    device = Probe()
    device.close()
    assert device.calls == []
    for call in (device.open, device.open, device.close, device.close, device.open):
        call()
    assert device.calls == ["open", "close", "open"]
    device.close()


def test_a_device_that_could_not_open_is_closed_and_can_be_tried_again() -> None:
    device = Probe()
    device.refuse_to_open = True
    with pytest.raises(DeviceUnavailable):
        device.open()
    with pytest.raises(DeviceClosed):
        device.project(np.ones((1, 2), np.int8))
    device.refuse_to_open = False
    with device:
        assert device.project(np.ones((1, 2), np.int8)).tolist() == [[1, 1]]
    assert device.calls == ["open", "open", "close"]


def test_an_unknown_matrix_is_none() -> None:
    assert Probe().effective_matrix() is None


def in_threads(work: Callable[[int], Any], count: int) -> list[Any]:
    """Results of `work(0)` … in as many threads, started together."""
    gate = threading.Barrier(count)

    def started(number: int) -> Any:
        gate.wait(timeout=30)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(started, range(count)))


def test_calls_of_threads_are_served_one_at_a_time() -> None:
    vectors = np.ones((3, 2), np.int8)
    with Probe() as device:
        in_threads(lambda number: [device.project(vectors) for _ in range(25)], 4)
        assert not device.overlapped
        assert (device.usage.vectors, device.usage.frames) == (300, 300)


@exact_kinds
def test_threads_get_their_own_results(kind: str) -> None:
    batches = [np.random.default_rng(i).integers(-1, 2, (5, 30), np.int8) for i in range(2)]
    with opened(kind) as device:
        expected = [device.project(batch) for batch in batches]
        found = in_threads(lambda number: [device.project(batches[number]) for _ in range(15)], 2)
        assert device.usage.vectors == 2 * 5 + 2 * 15 * 5
    for results, fields in zip(found, expected, strict=True):
        for result in results:
            np.testing.assert_array_equal(result, fields)


def test_threads_share_the_frames_of_a_noisy_device() -> None:
    """Whichever thread comes first, the calls together are those of one thread: no frame is used twice or left out."""
    vectors = ternary(1)
    with opened("noisy") as device:
        expected = [device.project(vectors) for _ in range(40)]
    with opened("noisy") as device:
        found = in_threads(lambda number: [device.project(vectors) for _ in range(20)], 2)
        assert device.usage.vectors == 40
        assert device.usage.frames == 40 * 8

    def as_set(fields: list[Fields]) -> set[bytes]:
        return {field.tobytes() for field in fields}

    assert len(as_set(expected)) == 40
    assert as_set(found[0] + found[1]) == as_set(expected)


@any_kind
def test_submitted_work_is_served_in_order(kind: str) -> None:
    vectors = ternary(30)
    with opened(kind) as waiting, opened(kind) as device:
        expected = [waiting.project(vectors[first : first + 3]) for first in range(0, 30, 3)]
        futures = [device.submit(vectors[first : first + 3]) for first in range(0, 30, 3)]
        for future, fields in zip(futures, expected, strict=True):
            np.testing.assert_array_equal(future.result(timeout=30), fields)
        assert counts(device.usage) == pytest.approx(counts(waiting.usage))


@any_kind
def test_bad_vectors_are_refused_on_submission(kind: str) -> None:
    with opened(kind) as device, pytest.raises(InvalidVectors):
        device.submit(np.full((1, 30), 2, np.int8))


def test_close_finishes_submitted_work() -> None:
    device = Probe().open()
    futures = [device.submit(np.full((1, 2), 1, np.int8)) for _ in range(20)]
    device.close()
    assert all(future.done() for future in futures)
    assert [future.result().tolist() for future in futures] == [[[1, 1]]] * 20
    with device:  # and a reopened device takes work again
        assert device.submit(np.ones((1, 2), np.int8)).result(timeout=30).tolist() == [[1, 1]]


def test_a_failed_call_counts_nothing_and_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bench fails at its third exposure, in the middle of a batch displayed in parts."""
    vectors = ternary(17)
    with opened("noisy") as undisturbed:
        expected = [undisturbed.project(vectors), undisturbed.project(vectors)]
    monkeypatch.setattr(emulated, "CHUNK_BYTES", 1)
    monkeypatch.setattr(emulated, "MIN_CHUNK", 1)
    expose = EmulatedBench.expose
    exposures = 0

    def failing(bench: EmulatedBench, *args: Any, **kwargs: Any) -> Any:
        nonlocal exposures
        exposures += 1
        if exposures == 3:
            raise OSError("the camera is gone")
        return expose(bench, *args, **kwargs)

    with opened("noisy") as device:
        np.testing.assert_array_equal(device.project(vectors), expected[0])
        usage, state = dict(vars(device.usage)), device.state_dict()
        monkeypatch.setattr(EmulatedBench, "expose", failing)
        with pytest.raises(OSError, match="the camera is gone"):
            device.project(vectors)
        assert exposures == 3
        assert vars(device.usage) == usage
        assert device.state_dict() == state
        np.testing.assert_array_equal(device.project(vectors), expected[1])


def test_a_failed_submission_hands_on_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise OSError("the camera is gone")

    with opened("noisy") as device:
        expected = opened("noisy").project(ternary(4))
        with monkeypatch.context() as patch:
            patch.setattr(EmulatedBench, "expose", failing)
            with pytest.raises(OSError, match="the camera is gone"):
                device.submit(ternary(4)).result(timeout=30)
        np.testing.assert_array_equal(device.submit(ternary(4)).result(timeout=30), expected)


class Held(Probe):
    """Projects only while `free` is set, and remembers the first entry of what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.seen: list[int] = []
        self.fails_at: int | None = None

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        assert self.free.wait(30)
        if int(vectors[0, 0]) == self.fails_at:
            raise DeviceTimeout("no trigger came")
        self.seen.append(int(vectors[0, 0]))
        return super()._project(vectors)


def one(entry: int) -> Vectors:
    return np.full((1, 2), entry, np.int8)


def test_submission_does_not_wait_for_the_device() -> None:
    """Three requests are in the line while the first is being served."""
    with Held() as device:
        futures = [device.submit(one(entry)) for entry in (1, 0, -1)]
        assert not any(future.done() for future in futures)
        device.free.set()
        assert [future.result(30).tolist() for future in futures] == [[[1, 1]], [[0, 0]], [[-1, -1]]]


def test_project_stands_behind_what_was_submitted() -> None:
    with Held() as device:
        device.submit(one(1))
        device.submit(one(0))
        with ThreadPoolExecutor(1) as pool:
            last = pool.submit(device.project, one(-1))
            device.free.set()
            assert last.result(30).tolist() == [[-1, -1]]
        assert device.seen == [1, 0, -1]


def test_what_depends_on_a_failed_request_is_not_shown() -> None:
    """It fails with the error of that one; what does not depend on it is served."""
    with Held() as device:
        device.fails_at = 0
        first = device.submit(one(1))
        second = device.submit(one(0), after=first)
        third = device.submit(one(1), after=second)
        other = device.submit(one(-1))
        device.free.set()
        assert other.result(30).tolist() == [[-1, -1]]
        assert first.result(30).tolist() == [[1, 1]]
        assert isinstance(second.exception(30), DeviceTimeout)
        assert third.exception(30) is second.exception(30)
        assert device.seen == [1, -1]
        assert device.usage.vectors == 2
