"""Training on a device that fails: the weights are those of the undisturbed run, to the bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from optical_dfa.config import RunConfig
from optical_dfa.devices import DeviceTimeout, EmulatedDevice
from optical_dfa.run_errors import ConfigError, TrainingInterrupted
from optical_dfa.training import train

FAST = {"backoff_s": 0.001}


def config(device: Any, epochs: int = 2) -> RunConfig:
    training = {"epochs": epochs, "threads": 1, "checkpoint_every_steps": 5, "learning_rate": 5e-3, "seed": 3}
    return RunConfig.model_validate({"model": {"hidden": [64]}, "training": training, "device": device})


def faulty(rate: float, **policy: Any) -> dict[str, Any]:
    return {"name": "faulty", "device": "emulator", "failing_requests": rate, "on_fault": {**FAST, **policy}}


def weights(folder: Path) -> dict[str, Tensor]:
    net: dict[str, Tensor] = torch.load(folder / "checkpoint.pt", weights_only=True)["net"]
    return net


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def assert_same_weights(one: Path, other: Path) -> None:
    assert {name: value.numpy().tobytes() for name, value in weights(one).items()} == {
        name: value.numpy().tobytes() for name, value in weights(other).items()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    train(config("emulator"), folder, progress=False)
    return folder


def test_repeated_requests_change_nothing(undisturbed: Path, tmp_path: Path) -> None:
    """24 steps at 30 % faults: none of them fails once in 5000 seeds, and this one does; every fault is in the log."""
    train(config(faulty(0.3, retries=20)), tmp_path / "run", progress=False)
    assert_same_weights(tmp_path / "run", undisturbed)
    kinds = [event["kind"] for event in events(tmp_path / "run")]
    assert kinds.count("retry") >= 3
    assert {*kinds} == {"retry", "answered"}
    first = events(tmp_path / "run")[0]
    assert first["at"].startswith("epoch 1, step ")
    assert "on purpose" in first["message"]


def test_without_a_policy_every_fault_stops_and_every_resumption_goes_on(undisturbed: Path, tmp_path: Path) -> None:
    """Each process draws the same luck from its start, so it gets a step or some further each time."""
    folder, stops = tmp_path / "run", 0
    device = {"name": "faulty", "device": "emulator", "failing_requests": 0.15, "seed": 1}
    while not (folder / "result.json").exists():
        try:
            train(config(device), folder, resume=folder.exists(), progress=False)
        except DeviceTimeout:
            stops += 1
        assert stops < 24
    assert stops >= 2
    assert_same_weights(folder, undisturbed)


WAITING = """
import sys, time
from optical_dfa.config import RunConfig
from optical_dfa.devices import DeviceTimeout, EmulatedDevice
from optical_dfa.training import train

project, calls = EmulatedDevice._project, 0

def dead(device, vectors):
    global calls
    calls += 1
    if calls >= 9:
        raise DeviceTimeout("the light is off")
    return project(device, vectors)

EmulatedDevice._project = dead
train(RunConfig.model_validate_json(sys.argv[1]), sys.argv[2], progress=False)
"""


def test_a_run_that_waits_has_saved_itself(undisturbed: Path, tmp_path: Path) -> None:
    """The device dies at step 8 and the run waits an hour for it; killed meanwhile, it goes on from step 8."""
    run, folder = config({"name": "emulator", "on_fault": {**FAST, "wait_s": 3600.0}}), tmp_path / "run"
    program = [sys.executable, "-c", WAITING, run.model_dump_json(), str(folder)]
    process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "waiting at most 3600 s for it" in line:
            break
    while not (folder / "events.jsonl").exists() or "waiting" not in (folder / "events.jsonl").read_text():
        assert process.poll() is None
    process.kill()
    process.wait(timeout=60)
    assert process.returncode == -signal.SIGKILL
    process.stderr.close()
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] == 8
    train(run, folder, resume=True, progress=False)
    assert_same_weights(folder, undisturbed)


def test_stopping_a_run_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, calls = EmulatedDevice._project, 0

    def dead(device: EmulatedDevice, vectors: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= 4:
            os.kill(os.getpid(), signal.SIGINT)
            raise DeviceTimeout("the light is off")
        return project(device, vectors)

    monkeypatch.setattr(EmulatedDevice, "_project", dead)
    with pytest.raises(TrainingInterrupted, match="stopped on request, while the device was waited for"):
        train(config({"name": "emulator", "on_fault": {"wait_s": 3600.0}}), tmp_path / "run", progress=False)
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 3


def test_the_digital_twin_takes_over(tmp_path: Path) -> None:
    """A device that never answers: the run is that of the digital device, to the bit, and says so."""
    train(config("digital"), tmp_path / "digital", progress=False)
    device = faulty(0.999999, retries=0, twin="digital", recheck_s=3600.0)
    train(config(device), tmp_path / "twin", progress=False)
    assert {name: value.numpy().tobytes() for name, value in weights(tmp_path / "twin").items()} == {
        name: value.numpy().tobytes() for name, value in weights(tmp_path / "digital").items()
    }
    assert [event["kind"] for event in events(tmp_path / "twin")][:2] == ["failed", "twin"]


def test_a_policy_is_checked_with_the_configuration() -> None:
    with pytest.raises((ValueError, ConfigError), match=r"device\.on_fault\.retrys"):
        config({"name": "emulator", "on_fault": {"retrys": 3}})


def test_frames_that_a_bench_drops_are_found_and_shown_again(tmp_path: Path) -> None:
    """A bench of one's own under `integrity: marks`: with frames dropped and repeated, the weights are the same."""
    bench = {"name": "bench", "bench": "own_bench:make", "gain_vectors": 32}
    train(config(bench, 1), tmp_path / "undisturbed", progress=False)
    dropping = {"name": "faulty", "device": bench, "dropped_frames": 0.0004, "on_fault": {**FAST, "retries": 50}}
    train(config(dropping, 1), tmp_path / "run", progress=False)
    assert_same_weights(tmp_path / "run", tmp_path / "undisturbed")
    messages = [event["message"] for event in events(tmp_path / "run") if event["kind"] == "retry"]
    assert len(messages) >= 3
    assert all("are not those of their frames" in message for message in messages)
