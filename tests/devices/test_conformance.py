"""The public suite passes every device here, and finds each broken promise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cupy_kinds import cupy_of, every_cupy
from served import Keys, serving

from optical_dfa.devices import DeviceInfo, ProjectionDevice, Usage, load_preset, make_device, open_device
from optical_dfa.devices.base import Fields, Vectors
from optical_dfa.devices.conformance import ConformanceError, check_device
from optical_dfa.emulator import EmulatedBench
from optical_dfa.measure import measure_matrix

SIZES: dict[str, Any] = {"n_inputs": 30, "n_outputs": 400}
MAPS = {"dark_frames": 64, "reference_frames": 64}
DIM: dict[str, Any] = {"photometry": {"signal_e_per_feature": 100.0}}


def own_bench() -> EmulatedBench:
    return EmulatedBench(40, 250, 5, load_preset("lab-bench").bench)


DEVICES: dict[str, dict[str, Any]] = {
    "digital": {"name": "digital"},
    "ideal": {"name": "emulator", "preset": "ideal"},
    "phase-stepping": {"name": "emulator", "preset": "phase-stepping"},  # on Numba, where that can run
    "phase-stepping, numpy": {"name": "emulator", "preset": "phase-stepping", "backend": "numpy"},
    "off-axis": {"name": "emulator", "preset": "off-axis", **DIM},
    "worst-case": {"name": "emulator", "preset": "worst-case", "readout": {"probe_every": 4, "calibration": MAPS}},
    "lighton-aurora": {"name": "emulator", "preset": "lighton-aurora"},
    "lab-bench": {"name": "emulator", "preset": "lab-bench"},
    "three steps": {"name": "emulator", "readout": {"steps": 3}},
    "marks and probes": {"name": "emulator", "readout": {"sync_every": 16, "probe_every": 8},
                         "camera": {"dropped_frames": 0.002}},
    "grain": {"name": "emulator", "grain": {"size_px": 2.0}, **DIM},
    "anchored": {"name": "emulator", "readout": {"kind": "anchored"}, **DIM},
    "statistical": {"name": "emulator", "fidelity": "statistical"},
    "bench": {"name": "bench", "bench": own_bench},
    "bench, averaged": {"name": "bench", "bench": own_bench, "integrity": "none", "average": 3},
    "bench, anchored": {"name": "bench", "bench": own_bench, "readout": {"kind": "anchored", "n_anchors": 1},
                        "n_outputs": 150},
    "faulty": {"name": "faulty", "device": "emulator", "failing_requests": 0.2, "on_fault": {"backoff_s": 0.0,
               "retries": 20}},
    "faulty digital": {"name": "faulty", "device": "digital", "failing_requests": 0.2, "on_fault": {"backoff_s": 0.0,
                       "retries": 20}},
    "resilient": {"name": "emulator", "on_fault": {"twin": "digital"}},
    "twin": {"name": "faulty", "device": "emulator", "failing_requests": 0.999999, "on_fault": {"retries": 0,
             "twin": "digital"}},
    "matrix": {"name": "matrix", "matrix": np.random.default_rng(1).choice([-1, 1], (400, 30))},
}  # fmt: skip


@pytest.mark.parametrize("kind", DEVICES)
def test_every_device_here_conforms(kind: str) -> None:
    device = make_device(**{**SIZES, **DEVICES[kind]})
    checked = check_device(device, snr_db=8.0)
    assert {"unit gain", "superposition", "bad vectors", "state", "closed refuses"} <= {*checked}
    with pytest.raises(Exception, match="is closed"):
        device.project(np.zeros((1, 30), np.int8))


@pytest.mark.parametrize("kind", [kind for kind in DEVICES if kind != "matrix"])  # whose entries are an array
def test_a_device_can_be_made_again_from_its_specification(kind: str, tmp_path: Path) -> None:
    """With the same options; wrapped in others too."""
    made = make_device(**{**SIZES, **DEVICES[kind]})
    again = make_device(**made.spec())
    assert (type(again), again.fingerprint, again.spec()) == (type(made), made.fingerprint, made.spec())
    if not kind.startswith("bench"):  # a bench is an object here, recorded ones are plain values
        recorder = make_device("record", path=tmp_path / "session", device=made.spec(), on_fault={})
        assert make_device(**recorder.spec()).spec() == recorder.spec()
        assert recorder.fingerprint == made.fingerprint


@every_cupy
@pytest.mark.parametrize("name", ["digital", "emulator"])
def test_devices_on_cupy_conform(name: str, kind: str) -> None:
    with cupy_of(kind):
        check_device(make_device(name, backend="cupy", **SIZES), snr_db=8.0)


@pytest.mark.parametrize("kind", ["digital", "ideal", "phase-stepping", "bench", "faulty"])
def test_a_served_device_conforms(kind: str, tmp_path: Path) -> None:
    """Behind a server with keys; `faulty` is wrapped there, and asked again from here."""
    keys = Keys(tmp_path)
    with serving(make_device(**{**SIZES, **DEVICES[kind]}), **keys.of_server) as address:
        device = make_device("remote", address=address, **SIZES, **keys.of_client())
        checked = check_device(device, snr_db=8.0)
    assert {"unit gain", "superposition", "bad vectors", "state", "closed refuses"} <= {*checked}


@pytest.mark.parametrize("inner", ["digital", "statistical", "bench"])
def test_recordings_conform(inner: str, tmp_path: Path) -> None:
    """Of vectors and of frames: what was recorded passes again when it is replayed."""
    path = str(tmp_path / "session")
    recorder = make_device("record", path=path, device={**SIZES, **DEVICES[inner]})
    check_device(recorder, snr_db=8.0)
    check_device(make_device("replay", path=path), snr_db=8.0)


def test_files_conform(tmp_path: Path) -> None:
    """A measured matrix; a recorder and what it recorded."""
    with open_device("emulator", **SIZES) as device:
        measure_matrix(device, tmp_path / "matrix.safetensors")
        check_device(device)
        device.project(np.zeros((1, 30), np.int8))  # it is open still
    check_device(make_device("measured", path=tmp_path / "matrix.safetensors"))
    check_device(make_device("record", path=tmp_path / "session", device="emulator", **SIZES))
    replay = make_device("replay", path=tmp_path / "session")
    check_device(replay)
    assert make_device(**replay.spec()).fingerprint == replay.fingerprint


class Broken(ProjectionDevice):
    """A stored matrix that breaks one promise."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault, self._at, self._answers = fault, 0, dict[bytes, Fields]()
        self._rows = np.random.default_rng(0).standard_normal((400, 30)).astype(np.float32)
        self.matrix_identity = {"kind": "broken"}
        self.info = DeviceInfo(
            name="broken", n_inputs=30, n_outputs=400, linear=True, exact="nois" not in fault,
            accepts_real=False, backend="numpy", frames_per_vector=1, n_pixels=0, outputs_per_mode=1,
            output_map="rows", matrix=None,
        )  # fmt: skip

    def effective_matrix(self, rows: slice = slice(None)) -> Fields:
        return (self._rows[::-1] if "matrix" in self.fault else self._rows)[rows]

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        self._at += len(vectors)
        fields = vectors.astype(np.float32) @ self._rows.T
        if self.fault == "gain":
            fields *= 2
        if self.fault == "type":
            return fields.astype(np.float64), Usage()
        if self.fault == "linear":
            fields = np.abs(fields)
        if self.fault == "zero":
            fields += 1
        if self.fault == "batch":
            fields += np.float32(len(vectors))
        if self.fault == "noise":
            fields += np.random.default_rng(self._at).normal(0, 20, fields.shape).astype(np.float32)
        if self.fault == "matrix of a noisy one":
            fields += np.random.default_rng(self._at).normal(0, 0.1, fields.shape).astype(np.float32)
        if self.fault == "kept":
            fields = self._answers.setdefault(vectors.tobytes(), fields)
        return fields, Usage(frames=2 * len(vectors) if self.fault == "usage" else 0)

    def _check(self, vectors: Vectors) -> None:
        if self.fault != "vectors":
            super()._check(vectors)

    def _position(self) -> dict[str, Any]:
        return {"at": np.int64(self._at) if self.fault == "plain" else self._at}

    def _restore_position(self, position: Any) -> None:
        if self.fault != "state":
            self._at = int(position["at"])


def test_a_sound_device_passes() -> None:
    check_device(Broken())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("gain", r"E\[field²\] / \|x\|² must be 1 ± 0.42; it is [34]"),
        ("type", r"project must give float32 \(3, 400\); it gave float64"),
        ("linear", r"P\(x \+ y\) must be P\(x\) \+ P\(y\); it is off by"),
        ("zero", "zero vectors must give zero fields"),
        ("batch", "fields must not depend on the split into calls"),
        ("kept", "submit must serve in order, and as project does, in new arrays"),
        ("noise", r"the SNR of two showings must be 0 dB or more; it is -"),
        ("usage", "7 vectors must take at most 7 frames by info.frames_per_vector; they took 14"),
        ("vectors", "bad vectors|project must raise InvalidVectors"),
        ("plain", "state|not JSON serializable"),
        ("state", "state_dict must give back what load_state_dict took"),
        ("matrix", "fields must be the product with effective_matrix"),
        ("matrix of a noisy one", "fields must be the product with effective_matrix"),
    ],
)
def test_a_broken_promise_is_found(fault: str, message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        check_device(Broken(fault))
