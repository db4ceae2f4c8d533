"""Checkpoints: written whole or not at all, the one before kept, every byte checked when read.

A checkpoint is a file of `torch.save` that holds tensors and plain values only, so that reading one runs no code of it.
"""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from optical_dfa.files import write_whole
from optical_dfa.run_errors import CheckpointError

FORMAT = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; the one that was there is kept as `previous_checkpoint(path)`.

    Args:
        path: the checkpoint file.
        state: tensors and plain values in dicts, lists and tuples.
    """
    new = path.with_suffix(".new")
    write_whole(new, lambda file: torch.save({"format": FORMAT, **state}, file))
    if path.exists():
        path.replace(previous_checkpoint(path))
    new.replace(path)


def previous_checkpoint(path: Path) -> Path:
    """Where the checkpoint before the one at `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state in a checkpoint, None if there is none. Changes nothing.

    Raises:
        CheckpointError: the file is damaged, or of another version; the message says how to go on.
    """
    previous = previous_checkpoint(path)
    if not path.exists():
        if not previous.exists():
            return None
        path = previous  # stopped between the two moves of save_checkpoint
    try:
        state = _read(path)
    except pickle.UnpicklingError:  # its message recommends to load the file without this protection
        raise CheckpointError(_damaged(path, previous, "more in it than tensors and plain values")) from None
    except Exception as error:  # a damaged file can fail in any way: zip, text encoding, missing keys
        raise CheckpointError(_damaged(path, previous, f"{type(error).__name__}: {error}")) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        given = state.get("format") if isinstance(state, dict) else None
        raise CheckpointError(
            f"{path}: not a checkpoint of format {FORMAT}; got format {given!r}: train anew with another -o"
        )
    return state


def _read(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"wrong checksum of {damaged}")
    return torch.load(path, map_location="cpu", weights_only=True)


def _damaged(path: Path, previous: Path, fault: str) -> str:
    if previous.exists() and previous != path:
        advice = f"the checkpoint before it is kept: mv {previous} {path}, and resume"
    else:
        advice = "there is no earlier one: train anew with another -o"
    return f"{path}: damaged ({fault}); {advice}"
