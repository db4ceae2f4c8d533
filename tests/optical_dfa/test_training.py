"""Training runs: what they compute, what they leave behind, and that stopping them changes nothing."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optical_dfa.alignment import JsonLines
from optical_dfa.config import ModelConfig, RunConfig
from optical_dfa.data import load_task
from optical_dfa.devices import DeviceFault, EmulatedDevice, FingerprintMismatch
from optical_dfa.run_errors import (
    CheckpointError,
    DataError,
    LossNotFinite,
    RunFolderError,
    TrainingInterrupted,
)
from optical_dfa.training import Result, train
from optical_dfa.training.models import build_mlp
from optical_dfa.training.run import Run
from optical_dfa.training.trainer import epoch_order, torch_threads

STEPS_PER_EPOCH = 12  # 1437 images in batches of 128


def run_config(device: dict[str, Any] | str = "emulator", **training: Any) -> RunConfig:
    settings = {"epochs": 2, "threads": 1, "checkpoint_every_steps": 5, "learning_rate": 5e-3, "seed": 3, **training}
    return RunConfig.model_validate({"model": {"hidden": [128, 64]}, "training": settings, "device": device})


def weights(folder: Path) -> dict[str, Tensor]:
    net: dict[str, Tensor] = torch.load(folder / "checkpoint.pt", weights_only=True)["net"]
    return net


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["seconds"]  # the one thing that differs from run to run
    return rows


def exact(value: Any) -> Any:
    """Tensors as bytes, seconds left out, so that == compares to the bit."""
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items() if key != "seconds"}
    if isinstance(value, list | tuple):
        return [exact(item) for item in value]
    return (value.dtype, value.shape, value.numpy().tobytes()) if isinstance(value, Tensor) else value


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, optimiser, device position and metrics, to the bit."""
    checkpoints = [exact(torch.load(folder / "checkpoint.pt", weights_only=True)) for folder in (one, other)]
    assert checkpoints[0] == checkpoints[1]
    assert metrics(one) == metrics(other)
    assert Result.read(one / "result.json").snr_db == Result.read(other / "result.json").snr_db


def train_quietly(config: RunConfig, folder: Path, *, resume: bool = False) -> Result:
    return train(config, folder, resume=resume, progress=False)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    train_quietly(run_config(), folder)
    return folder


def before_step(monkeypatch: pytest.MonkeyPatch, count: int, action: Callable[[], None]) -> None:
    """Do `action` before step `count` (from 1) of the run."""
    steps, train_step = 0, Run.train_step

    def counted(run: Run, batch: Tensor) -> None:
        nonlocal steps
        steps += 1
        if steps == count:
            action()
        train_step(run, batch)

    monkeypatch.setattr(Run, "train_step", counted)


KILLED_RUN = """
import os, signal, sys
from optical_dfa.config import RunConfig
from optical_dfa.training import train
from optical_dfa.training.run import Run

steps, train_step = 0, Run.train_step

def counted(run, batch):
    global steps
    steps += 1
    if steps == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    train_step(run, batch)

Run.train_step = counted
train(RunConfig.model_validate_json(sys.argv[1]), sys.argv[2], progress=False)
"""


def test_kill_9_in_mid_epoch_and_resume(undisturbed: Path, tmp_path: Path) -> None:
    config, folder = run_config(), tmp_path / "run"
    program = [sys.executable, "-c", KILLED_RUN, config.model_dump_json(), str(folder)]
    assert subprocess.run(program, check=False).returncode == -signal.SIGKILL
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert (state["epoch"], state["step"]) == (1, 3)  # 19 steps were done, 15 are in the checkpoint
    assert not (folder / "result.json").exists()
    train_quietly(config, folder, resume=True)
    assert_same_run(undisturbed, folder)
    processes = json.loads((folder / "provenance.json").read_text())["processes"]
    assert [process["from"] for process in processes] == ["epoch 1, step 0 of 12", "epoch 2, step 3 of 12"]


def test_metrics_after_the_checkpoint_are_done_again(undisturbed: Path, tmp_path: Path) -> None:
    config, folder = run_config(checkpoint_every_steps=None), tmp_path / "run"
    train_quietly(config, folder)
    assert metrics(folder) == metrics(undisturbed)
    (folder / "checkpoint.previous.pt").replace(folder / "checkpoint.pt")  # the end of epoch 1
    (folder / "result.json").unlink()
    train_quietly(config, folder, resume=True)
    assert_same_run(undisturbed, folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_on_request_and_resume(
    number: signal.Signals, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, handlers = tmp_path / "run", (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    with monkeypatch.context() as patch:
        before_step(patch, 7, lambda: os.kill(os.getpid(), number))
        with pytest.raises(TrainingInterrupted) as caught:
            train_quietly(run_config(), folder)
    assert caught.value.__notes__ == [
        "in epoch 1, step 7 of 12",
        f"the last checkpoint is kept in {folder}: go on with --resume",
    ]
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] == 7
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    train_quietly(run_config(), folder, resume=True)
    assert_same_run(undisturbed, folder)


def test_device_fault_loses_nothing(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    project, calls = EmulatedDevice.project, 0

    def failing(device: EmulatedDevice, vectors: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise DeviceFault("the camera sent half an image")
        return project(device, vectors)

    monkeypatch.setattr(EmulatedDevice, "project", failing)
    with pytest.raises(DeviceFault, match="half an image") as caught:
        train_quietly(run_config(), folder)
    assert caught.value.__notes__[0] == "in epoch 1, step 8 of 12"
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] == 8
    train_quietly(run_config(), folder, resume=True)
    assert_same_run(undisturbed, folder)


def test_loss_that_is_not_finite(tmp_path: Path) -> None:
    config, folder = run_config(optimizer="sgd", learning_rate=1e38, method="bp"), tmp_path / "run"
    with pytest.raises(LossNotFinite, match=r"the loss is (nan|inf): lower training\.learning_rate") as caught:
        train_quietly(config, folder)
    assert caught.value.__notes__ == ["in epoch 1, step 1 of 12", f"the last checkpoint is kept in {folder}"]
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] == 0


def test_finished_run_gives_its_result(undisturbed: Path) -> None:
    before = {path.name: path.read_bytes() for path in undisturbed.iterdir()}
    result = train_quietly(run_config(), undisturbed, resume=True)
    assert {path.name: path.read_bytes() for path in undisturbed.iterdir()} == before
    assert result.folder == undisturbed
    assert result.test_accuracy == result.history[-1].test_accuracy
    assert [row.epoch for row in result.history] == [1, 2]


def test_nothing_is_overwritten(undisturbed: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in undisturbed.iterdir()}
    with pytest.raises(
        RunFolderError, match=r"holds a finished run: --resume to show its result, or -o another folder"
    ):
        train_quietly(run_config(), undisturbed)
    for resume in (False, True):
        with pytest.raises(RunFolderError, match="holds a finished run with another configuration") as caught:
            train_quietly(run_config("digital", seed=4), undisturbed, resume=resume)
        assert str(caught.value).splitlines()[1:] == [
            "  training.seed: 3 in the folder, 4 now",
            "  device.name: 'emulator' in the folder, 'digital' now",
        ]
    assert {path.name: path.read_bytes() for path in undisturbed.iterdir()} == before
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RunFolderError, match=r"holds other files and no run: give the run its own folder with -o"):
        train_quietly(run_config(), tmp_path)
    with pytest.raises(RunFolderError, match=r"notes\.txt: is a file: give the run a folder with -o"):
        train_quietly(run_config(), tmp_path / "notes.txt")
    with pytest.raises(RunFolderError, match=r"absent: holds no run to resume: leave out --resume"):
        train_quietly(run_config(), tmp_path / "absent", resume=True)
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_bad_data_leaves_no_folder(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"task": {"name": "mnist", "folder": str(tmp_path / "absent")}})
    with pytest.raises(DataError, match="no such folder"):
        train_quietly(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def unfinished_copy(run: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> bytes:
    """An unfinished run with a changed checkpoint; the bytes of that."""
    folder.mkdir()
    for name in ("config.yaml", "provenance.json", "metrics.csv"):
        (folder / name).write_bytes((run / name).read_bytes())
    state = torch.load(run / "checkpoint.previous.pt", weights_only=True)
    change(state)
    torch.save(state, folder / "checkpoint.pt")
    return (folder / "checkpoint.pt").read_bytes()


def test_checkpoint_of_another_device(undisturbed: Path, tmp_path: Path) -> None:
    fingerprint = json.loads((undisturbed / "provenance.json").read_text())["device"]["fingerprint"]

    def change(state: dict[str, Any]) -> None:
        assert state["feedback"]["device"]["fingerprint"] == fingerprint
        state["feedback"]["device"]["fingerprint"] = "0123456789abcdef"

    content = unfinished_copy(undisturbed, tmp_path / "run", change)
    with pytest.raises(FingerprintMismatch, match=f"0123456789abcdef.*{fingerprint}"):
        train_quietly(run_config(), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == content


def test_checkpoint_of_other_data(undisturbed: Path, tmp_path: Path) -> None:
    unfinished_copy(undisturbed, tmp_path / "run", lambda state: state.update(data_sha256="f" * 64))
    with pytest.raises(CheckpointError, match=r"made with other data \(SHA-256 ffff.*resume with the files of the run"):
        train_quietly(run_config(), tmp_path / "run", resume=True)


def test_corrupt_checkpoint(undisturbed: Path, tmp_path: Path) -> None:
    unfinished_copy(undisturbed, tmp_path / "run", lambda _: None)
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"PK\3\4")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: damaged \("):
        train_quietly(run_config(), tmp_path / "run", resume=True)


def test_what_a_run_leaves_behind(undisturbed: Path) -> None:
    result = Result.read(undisturbed / "result.json")
    rows = metrics(undisturbed)
    assert [float(row["test_accuracy"]) for row in rows] == [row.test_accuracy for row in result.history]
    assert round(result.test_accuracy * 360, 9) in range(361)
    frames = [row.frames for row in result.history]
    # a vector with features on both sides takes 8 frames, one with a dark side 4
    assert all(4 * 1437 <= count <= 8 * 1437 for count in frames)
    for row in result.history:
        assert row.device_seconds == pytest.approx(row.frames * 500e-6, abs=1e-6)  # 500 us a frame, 30 W
        assert row.device_joules == pytest.approx(30 * row.device_seconds, abs=1e-4)
    assert result.frames == sum(frames)
    assert result.snr_db is not None
    assert 15 < result.snr_db < 35
    provenance = json.loads((undisturbed / "provenance.json").read_text())
    assert provenance["config"] == run_config().as_dict()
    assert provenance["data"]["sha256"] == load_task("digits").sha256
    process = provenance["processes"][0]
    assert process["threads"] == 1
    assert process["torch"] == torch.__version__


def test_net_that_learns(undisturbed: Path) -> None:
    history = Result.read(undisturbed / "result.json").history
    assert history[1].train_loss < history[0].train_loss < math.log(10) + 0.3
    assert history[1].test_accuracy > 0.3  # chance: 0.1


def hand_written_backpropagation(epochs: int) -> nn.Sequential:
    task = load_task("digits")
    net = build_mlp(ModelConfig(hidden=(128, 64)), 64, 10, seed=3)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for epoch in range(epochs):
        order = epoch_order(3, epoch, 1437)
        for first in range(0, 1437, 128):
            batch = order[first : first + 128]
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(task.train_images[batch]), task.train_labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net


def test_backpropagation_is_the_textbook_loop(tmp_path: Path) -> None:
    result = train_quietly(run_config(method="bp"), tmp_path / "run")
    with torch_threads(1):
        expected = hand_written_backpropagation(epochs=2).state_dict()
    torch.testing.assert_close(weights(tmp_path / "run"), dict(expected), rtol=0, atol=0)
    assert (result.frames, result.snr_db) == (0, None)


def test_shallow_changes_the_last_layer_only(tmp_path: Path) -> None:
    train_quietly(run_config(method="shallow"), tmp_path / "run")
    initial = build_mlp(ModelConfig(hidden=(128, 64)), 64, 10, seed=3).state_dict()
    changed = {name for name, value in weights(tmp_path / "run").items() if not torch.equal(value, initial[name])}
    assert changed == {"4.weight", "4.bias"}


def test_exact_device_has_infinite_snr(tmp_path: Path) -> None:
    result = train_quietly(run_config("digital", epochs=1), tmp_path / "run")
    assert result.snr_db == math.inf
    assert json.loads((tmp_path / "run" / "result.json").read_text())["snr_db"] == "inf"
    assert Result.read(tmp_path / "run" / "result.json") == result


def test_initial_weights_are_those_of_pytorch() -> None:
    net = build_mlp(ModelConfig(hidden=(5,), activation="relu"), 4, 3, seed=11)
    torch.manual_seed(11)
    expected = [nn.Linear(4, 5), nn.Linear(5, 3)]
    assert [type(layer) for layer in net] == [nn.Linear, nn.ReLU, nn.Linear]
    assert torch.equal(net.state_dict()["0.weight"], expected[0].weight)
    assert torch.equal(net.state_dict()["2.bias"], expected[1].bias)


def test_caller_keeps_generator_and_threads(tmp_path: Path) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    train_quietly(run_config(epochs=1, threads=threads + 1, method="bp"), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_resumed_run_keeps_its_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, folder = run_config(threads=None, method="bp"), tmp_path / "run"
    with torch_threads(2), monkeypatch.context() as patch:
        before_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(TrainingInterrupted):
            train_quietly(config, folder)
    with torch_threads(1):
        train_quietly(config, folder, resume=True)
    processes = json.loads((folder / "provenance.json").read_text())["processes"]
    assert [process["threads"] for process in processes] == [2, 2]


def test_leftovers_of_a_killed_write_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".config.yaml.0123abcd.part").write_text("half a conf")
    train_quietly(run_config(epochs=1, method="shallow"), tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_damaged_result(undisturbed: Path, tmp_path: Path) -> None:
    unfinished_copy(undisturbed, tmp_path / "run", lambda _: None)
    (tmp_path / "run" / "result.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"result\.json: damaged \(.*\): delete it and --resume"):
        train_quietly(run_config(), tmp_path / "run", resume=True)


def test_epoch_order_is_a_function_of_seed_and_epoch() -> None:
    order = epoch_order(3, 1, 1000)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(1000))
    assert torch.equal(order, epoch_order(3, 1, 1000))
    assert not torch.equal(order, epoch_order(3, 2, 1000))
    assert not torch.equal(order, epoch_order(1, 3, 1000))
    assert epoch_order(0, 0, 8).tolist() == [2, 4, 3, 6, 5, 0, 1, 7]  # pinned: published numbers depend on it


def test_progress_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(run_config(epochs=1), tmp_path / "run")
    train(run_config("digital", epochs=1), tmp_path / "digital")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "dfa, digits, 64-128-64-10 tanh, emulator, seed 3",
        "epoch    loss   train    test  seconds      frames  device s  device J",
    ]
    assert [len(line) for line in lines[1:3]] == [70, 70]
    assert lines[3:5] == ["dfa, digits, 64-128-64-10 tanh, digital, seed 3", "epoch    loss   train    test  seconds"]
    assert len(lines) == 6


# ---- alignment


def aligned_config(every: int = 4, **training: Any) -> RunConfig:
    return RunConfig.model_validate({**run_config(**training).as_dict(), "alignment": {"every": every}})


def test_measuring_alignment_changes_nothing_and_leaves_its_log(undisturbed: Path, tmp_path: Path) -> None:
    train_quietly(aligned_config(), tmp_path / "run")
    assert exact(weights(tmp_path / "run")) == exact(weights(undisturbed))
    assert metrics(tmp_path / "run") == metrics(undisturbed)
    found = JsonLines(tmp_path / "run" / "alignment.jsonl").read()
    assert [one.step for one in found] == list(range(0, 2 * STEPS_PER_EPOCH, 4))
    assert found[-1].layers["4"].cosine == pytest.approx(1)
    assert found[-1].delta > found[0].delta  # it learns
    assert (tmp_path / "run" / "alignment.png").read_bytes().startswith(b"\x89PNG")


def test_alignment_goes_on_where_a_run_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by a fault after a measurement that the last checkpoint knows nothing of."""
    train_quietly(aligned_config(), tmp_path / "whole")
    config = aligned_config()
    project, calls = EmulatedDevice.project, 0

    def fails(self: EmulatedDevice, vectors: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 18:
            raise KeyboardInterrupt
        return project(self, vectors)

    monkeypatch.setattr(EmulatedDevice, "project", fails)
    with pytest.raises(KeyboardInterrupt):
        train_quietly(config, tmp_path / "run")
    monkeypatch.setattr(EmulatedDevice, "project", project)
    assert [one.step for one in JsonLines(tmp_path / "run" / "alignment.jsonl").read()] == [0, 4, 8, 12, 16]
    train_quietly(config, tmp_path / "run", resume=True)
    whole, resumed = ((tmp_path / name / "alignment.jsonl").read_text() for name in ("whole", "run"))
    assert resumed == whole


def test_alignment_needs_feedback() -> None:
    with pytest.raises(ValueError, match="method 'bp' has no feedback: remove the section"):
        RunConfig.model_validate({"training": {"method": "bp"}, "alignment": {}})
