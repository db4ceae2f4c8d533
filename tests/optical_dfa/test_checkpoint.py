"""Checkpoints: whole or not at all, the one before kept, no byte trusted."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from optical_dfa.files import write_whole
from optical_dfa.run_errors import CheckpointError
from optical_dfa.training.checkpoint import load_checkpoint, previous_checkpoint, save_checkpoint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.pt"


def state(step: int) -> dict[str, Any]:
    weights = torch.arange(50.0) + step
    return {"step": step, "net": {"weights": weights}, "history": [{"loss": 0.1}], "none": None, "pair": (1, "a")}


def test_what_is_saved_is_loaded(path: Path) -> None:
    assert load_checkpoint(path) is None
    save_checkpoint(path, state(3))
    loaded = load_checkpoint(path)
    assert loaded is not None
    assert torch.equal(loaded.pop("net")["weights"], torch.arange(50.0) + 3)
    assert loaded == {"format": 1, "step": 3, "history": [{"loss": 0.1}], "none": None, "pair": (1, "a")}


def test_previous_is_kept_and_used_after_a_stop_between_the_moves(path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(path, state(step))
    assert sorted(os.listdir(path.parent)) == ["checkpoint.previous.pt", "checkpoint.pt"]
    path.unlink()
    loaded = load_checkpoint(path)
    assert loaded is not None
    assert loaded["step"] == 2


def test_every_damaged_byte_is_noticed_or_harmless(path: Path) -> None:
    save_checkpoint(path, state(1))
    save_checkpoint(path, state(2))
    content = path.read_bytes()
    messages = []
    for position in range(0, len(content), 7):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :])
        try:
            loaded = load_checkpoint(path)
        except CheckpointError as error:
            messages.append(str(error))
        else:
            assert loaded is not None
            assert loaded["step"] == 2
            assert torch.equal(loaded["net"]["weights"], torch.arange(50.0) + 2)
    advice = f"the checkpoint before it is kept: mv {previous_checkpoint(path)} {path}, and resume"
    assert messages
    assert all(message.startswith(f"{path}: damaged (") and message.endswith(advice) for message in messages)


@pytest.mark.parametrize("size", [0, 1, 100, -1])
def test_cut_off_file(path: Path, size: int) -> None:
    save_checkpoint(path, state(1))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"damaged \(.*\); there is no earlier one: train anew with another -o"):
        load_checkpoint(path)


def test_previous_can_be_put_in_place(path: Path) -> None:
    save_checkpoint(path, state(1))
    save_checkpoint(path, state(2))
    path.write_bytes(b"nothing good")
    with pytest.raises(CheckpointError, match="the checkpoint before it is kept"):
        load_checkpoint(path)
    previous_checkpoint(path).replace(path)
    loaded = load_checkpoint(path)
    assert loaded is not None
    assert loaded["step"] == 1


class Intruder:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_reading_runs_no_code(path: Path, tmp_path: Path) -> None:
    torch.save({"format": 1, "net": Intruder(tmp_path / "made by a checkpoint")}, path)
    with pytest.raises(CheckpointError, match=r"damaged \(more in it than tensors and plain values\)"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Intruder(tmp_path / "made by a checkpoint")))
    with pytest.raises(CheckpointError, match=r"damaged \("):
        load_checkpoint(path)
    assert not (tmp_path / "made by a checkpoint").exists()


@pytest.mark.parametrize(("content", "given"), [({"format": 2}, "2"), ({"step": 1}, "None"), ([1, 2], "None")])
def test_other_formats(path: Path, content: Any, given: str) -> None:
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=f"not a checkpoint of format 1; got format {given}"):
        load_checkpoint(path)


def test_failed_writing_leaves_what_was_there(path: Path) -> None:
    save_checkpoint(path, state(1))
    before = path.read_bytes()

    def fail(file: Any) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_whole(path, fail)
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(path, {"net": lambda: None})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["checkpoint.pt"]


def test_files_have_the_usual_permissions(path: Path) -> None:
    save_checkpoint(path, state(1))
    reference = path.with_name("reference")
    reference.touch()
    assert path.stat().st_mode == reference.stat().st_mode
