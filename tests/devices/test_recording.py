"""Recordings: what is replayed is what was, to the bit; what is not is said; what was cut off or damaged is found."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_kinds import counts, ternary

from optical_dfa.devices import (
    Bench,
    DeviceFault,
    DeviceUnavailable,
    FrameTap,
    InvalidConfig,
    ProjectionDevice,
    Recording,
    RecordingError,
    RecordingWriter,
    ReplayMismatch,
    check_device_config,
    load_preset,
    make_device,
    open_device,
)
from optical_dfa.emulator import EmulatedBench

DIM = {"photometry": {"signal_e_per_feature": 25.0}}  # vectors of these tests light ten features a side
EMULATOR: dict[str, Any] = {"name": "emulator", "preset": "lighton-aurora", "seed": 2, **DIM}
INSIDE: dict[str, dict[str, Any]] = {
    "frames": EMULATOR,
    "probes and marks": {**EMULATOR, "preset": "lab-bench", "readout": {"probe_every": 4, "sync_every": 16}},
    "three steps": {
        **EMULATOR,
        "preset": "lab-bench",
        "readout": {"steps": 3, "calibration": {"dark_frames": 2, "reference_frames": 3}},
    },
    "anchored": {"name": "emulator", "readout": {"kind": "anchored"}, **DIM},
    "statistical": {"name": "emulator", "fidelity": "statistical", **DIM},
    "digital": {"name": "digital"},
}


def recorded(path: Path, inside: Any, **options: Any) -> ProjectionDevice:
    return make_device("record", path=path, device=inside, **{"n_inputs": 30, "n_outputs": 140, **options})


def own_bench() -> EmulatedBench:
    return EmulatedBench(40, 80, 5, load_preset("phase-stepping", DIM).bench)


@pytest.mark.parametrize("kind", [*INSIDE, "bench"])
def test_a_replay_answers_to_the_bit(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "session.npys"
    inside = INSIDE.get(kind, {"name": "bench", "bench": own_bench, "gain_vectors": 40})
    batches = [ternary(7), ternary(3), ternary(9)]
    with recorded(path, inside) as device:
        fields = [device.project(batch) for batch in batches]
        usage, fingerprint, state = counts(device.usage), device.fingerprint, device.state_dict()
        matrix, info = device.effective_matrix(), device.info
    with open_device("replay", path=path) as replay:
        for batch, expected in zip(batches, fields, strict=True):
            np.testing.assert_array_equal(replay.project(batch), expected)
        assert (replay.fingerprint, counts(replay.usage), replay.state_dict()) == (fingerprint, usage, state)
        assert (replay.info.name, replay.info.frames_per_vector) == (info.name, info.frames_per_vector)
        if replay.effective_matrix() is not None:  # that of recorded vectors is not known
            np.testing.assert_array_equal(replay.effective_matrix(), matrix)
        with pytest.raises(ReplayMismatch, match=r"no (expose|project) at|was another"):
            replay.project(ternary(11))


def test_frames_are_recorded_where_there_are_any(tmp_path: Path) -> None:
    """One exchange with the bench a batch; packed frames, phases and images of the camera."""
    for kind, first in (("frames", "expose"), ("statistical", "project"), ("digital", "project")):
        path = tmp_path / kind
        with recorded(path, INSIDE[kind]) as device:
            device.project(ternary(5))
        recording = Recording(path)
        assert [meta["kind"] for meta in recording.requests] == [first]
        arrays = recording.arrays(0)
        if kind == "frames":  # both sides of the four lit vectors: mirrors left over are ON in this preset
            assert {name: (a.dtype.name, a.shape) for name, a in arrays.items()} == {
                "frames": ("uint8", (32, 4)),
                "phases": ("float64", (32,)),
                "images": ("uint8", (32, 1, 70)),
            }
        recording.close()


def test_a_device_inside_is_transparent(tmp_path: Path) -> None:
    """The recorder changes neither fields nor counts nor states; a run may go on with or without it."""
    with recorded(tmp_path / "a", EMULATOR) as device, open_device(**EMULATOR, n_inputs=30, n_outputs=140) as plain:
        np.testing.assert_array_equal(device.project(ternary(6)), plain.project(ternary(6)))
        assert device.state_dict() == plain.state_dict()
        assert counts(device.usage) == counts(plain.usage)
        plain.load_state_dict(device.state_dict())
        np.testing.assert_array_equal(device.project(ternary(6)), plain.project(ternary(6)))


@pytest.mark.parametrize("kind", ["frames", "statistical"])
def test_a_resumed_run_goes_on_recording_and_is_replayed(kind: str, tmp_path: Path) -> None:
    """Two batches, a state, a third batch lost with the process; resumed, the third again and a fourth."""
    path, batches = tmp_path / "session", [ternary(size) for size in (4, 5, 6, 7)]
    with recorded(path, INSIDE[kind]) as first:
        for batch in batches[:2]:
            first.project(batch)
        state = first.state_dict()
        third = first.project(batches[2])
    with recorded(path, INSIDE[kind]) as resumed:
        resumed.load_state_dict(state)
        np.testing.assert_array_equal(resumed.project(batches[2]), third)
        fourth = resumed.project(batches[3])
    recording = Recording(path)
    assert len(recording.requests) == 5
    recording.close()
    with open_device("replay", path=path) as replay:
        for batch in batches[:2]:
            replay.project(batch)
        np.testing.assert_array_equal(replay.project(batches[2]), third)
        np.testing.assert_array_equal(replay.project(batches[3]), fourth)
        replay.load_state_dict(state)
        np.testing.assert_array_equal(replay.project(batches[2]), third)


def test_a_mismatch_says_where_and_what(tmp_path: Path) -> None:
    path = tmp_path / "session"
    with recorded(path, {"name": "emulator", **DIM}) as device:
        for _ in range(3):
            device.project(ternary(6))
    other = ternary(6).copy()
    other[5, 4] = 1 if other[5, 4] < 1 else 0
    with open_device("replay", path=path) as replay:
        replay.project(ternary(6))
        with pytest.raises(ReplayMismatch) as error:
            replay.project(other)
    assert str(error.value).startswith(
        f"{path}: request 1 (expose at stream 0, frame 32) was another: frames differ in "
    )
    assert str(error.value).endswith(" at 4")
    with open_device("replay", path=path) as replay:
        shapes = r"phases of shape \(12,\), recorded \(32,\); frames of shape \(12, 30\), recorded"
        with pytest.raises(ReplayMismatch, match=shapes):
            replay.project(ternary(3))
        replay.load_state_dict({**replay.state_dict(), "position": {"stream": 0, "frame": 5}})
        message = "no expose at stream 0, frame 5 was recorded; next is request 1, expose at stream 0, frame 32"
        with pytest.raises(ReplayMismatch, match=message):
            replay.project(ternary(6))


def test_vectors_that_differ(tmp_path: Path) -> None:
    path = tmp_path / "session"
    with recorded(path, "digital") as device:
        device.project(ternary(6))
    wrong = ternary(6).copy()
    wrong[3, [1, 7]] ^= 1
    message = r"request 0 \(project at no position\) was another: vectors differ in 1 of 6, first in number 3 at 1, 7"
    with open_device("replay", path=path) as replay, pytest.raises(ReplayMismatch, match=message):
        replay.project(wrong)


def test_faults_are_replayed(tmp_path: Path) -> None:
    class Failing(EmulatedBench):
        calls = 0

        def expose(self, *args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == 2:
                raise TimeoutError("no trigger")
            return super().expose(*args, **options)

    bench = Failing(40, 80, 5, load_preset("phase-stepping", DIM).bench)
    path, inside = tmp_path / "session", {"name": "bench", "bench": bench, "gain_vectors": 16, "integrity": "none"}

    def session(device: ProjectionDevice) -> Any:
        with pytest.raises(DeviceFault if bench.calls > 2 else Exception, match="no trigger"):
            device.project(ternary(4))
        return device.project(ternary(4))

    with recorded(path, inside) as device:
        fields = session(device)
    with open_device("replay", path=path) as replay:
        with pytest.raises(Exception, match=r"the bench did not answer a request of 24 frames in time \(no trigger\)"):
            replay.project(ternary(4))
        np.testing.assert_array_equal(replay.project(ternary(4)), fields)


def test_what_is_cut_off_at_the_end_is_left_out_and_gone_on_from(tmp_path: Path) -> None:
    """At any byte behind the header, a killed process leaves the whole requests before it."""
    whole = tmp_path / "whole"
    with recorded(whole, "digital", n_outputs=3) as device:
        fields = [device.project(ternary(size)) for size in (2, 3)]
    content = whole.read_bytes()
    first = Recording(whole)
    ends = [first._offsets[1], first.size]
    first.close()
    assert ends[1] == len(content)
    for length in (*range(ends[0] - 5, len(content), 97), len(content) - 1):
        cut = tmp_path / "cut"
        cut.write_bytes(content[:length])
        recording = Recording(cut)
        n_whole = sum(end <= length for end in ends)
        assert len(recording.requests) == n_whole
        recording.close()
    with recorded(cut, "digital", n_outputs=3) as device:
        device.project(ternary(3))
    assert cut.read_bytes() == content
    with open_device("replay", path=cut) as replay:
        for size, expected in zip((2, 3), fields, strict=True):
            np.testing.assert_array_equal(replay.project(ternary(size)), expected)


def test_a_damaged_request_is_found(tmp_path: Path) -> None:
    path = tmp_path / "session"
    with recorded(path, "digital") as device:
        device.project(ternary(4))
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    message = r"request 0 is damaged \(checksum of fields\)"
    with open_device("replay", path=path) as replay, pytest.raises(DeviceFault, match=message):
        replay.project(ternary(4))


def test_numpy_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "session"
    with recorded(path, "digital") as device:
        fields = device.project(ternary(4))
    with path.open("rb") as file:
        header = json.loads(np.load(file).tobytes())
        request = json.loads(np.load(file).tobytes())
        arrays = [np.load(file) for _ in request["arrays"]]
        assert not file.read()
    assert (header["format"], header["device"]["name"], list(request["arrays"])) == (
        "optical_dfa.recording", "digital", ["vectors", "fields"],
    )  # fmt: skip
    np.testing.assert_array_equal(arrays[0], ternary(4))
    np.testing.assert_array_equal(arrays[1], fields)


def test_memory_is_that_of_a_request(tmp_path: Path) -> None:
    """A file of 64 MB is written and scanned with a request of 1 MB in memory, by tracemalloc."""
    import tracemalloc

    path, images = tmp_path / "large", np.zeros((16, 256, 256), np.uint8)
    tracemalloc.start()
    writer = RecordingWriter(path, {})
    for number in range(64):
        writer.append({"kind": "expose", "at": [0, number, None]}, {"images": images})
    writer.close()
    recording = Recording(path)
    assert len(recording.requests) == 64
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    recording.close()
    assert path.stat().st_size > 64 << 20
    assert peak < 6 << 20


def test_what_is_no_recording_of_this_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "session"
    with recorded(path, "digital") as device:
        device.project(ternary(4))
    message = r"holds a recording of something else \(other device, fingerprint"
    with recorded(path, "digital", n_outputs=7) as other, pytest.raises(DeviceUnavailable, match=message):
        other.project(ternary(4))
    (tmp_path / "text").write_text("no recording")
    with pytest.raises(RecordingError, match=r"must be a recording \('optical_dfa.recording', version 1\); got None"):
        Recording(tmp_path / "text")
    with pytest.raises(InvalidConfig, match=r"device 'replay' cannot be made: path: .*cannot be read \(No such file"):
        make_device("replay", path=tmp_path / "nothing")
    with pytest.raises(InvalidConfig, match="n_inputs: must be 30, as recorded in"):
        make_device("replay", path=path, n_inputs=31)
    with pytest.raises(InvalidConfig, match="must be the name of a device, or a mapping with a `name`; got 3"):
        make_device("record", path=path, device=3)
    with pytest.raises(InvalidConfig, match="options of a recorded device must be plain values"):
        recorded(path, {"name": "emulator", "preset": load_preset("ideal")})
    shutil.rmtree(tmp_path)


def test_configurations_are_checked_with_the_sizes_of_the_device_inside(tmp_path: Path) -> None:
    path = tmp_path / "session"
    with recorded(path, "digital") as device:
        device.project(ternary(4))
    info = check_device_config("record", path=tmp_path / "new", device={"name": "emulator", "preset": "ideal"})
    assert (info.name, info.n_inputs, info.exact) == ("emulator", 1, True)
    assert check_device_config("replay", path=path).n_outputs == 140
    assert (
        check_device_config("record", path=tmp_path / "new", device={"name": "replay", "path": path}).n_outputs == 140
    )
    with pytest.raises(InvalidConfig) as error:
        check_device_config("record", path=tmp_path / "new", device={"name": "emulator", "camera": {"adc_bit": 8}})
    assert [fault.path for fault in error.value.faults] == [("device", "camera", "adc_bit")]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["three steps", "anchored", "bench"])
def test_a_bench_wrapped_while_it_is_open_keeps_its_calibration(kind: str) -> None:
    """What is put in between sees the frames that follow, and changes nothing."""
    options = INSIDE.get(kind, {"name": "bench", "bench": own_bench, "gain_vectors": 40})
    with (
        open_device(**options, n_inputs=30, n_outputs=140) as plain,
        open_device(**options, n_inputs=30, n_outputs=140) as tapped,
    ):
        taps: list[FrameTap] = []

        def wrap(bench: Bench, taps: list[FrameTap] = taps) -> FrameTap:
            taps.append(FrameTap(bench))
            return taps[0]

        assert tapped.wrap_bench(wrap)
        np.testing.assert_array_equal(tapped.project(ternary(6)), plain.project(ternary(6)))
        assert counts(tapped.usage) == counts(plain.usage)
        last = taps[0].last
    assert last is not None
    assert len(last["frames"]) == len(last["images"]) > 0
    assert not make_device("digital", n_inputs=3, n_outputs=3).wrap_bench(FrameTap)
