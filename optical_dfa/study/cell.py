"""One cell: a training run in memory, probed after every epoch."""

import math
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from optical_dfa.config import RunConfig
from optical_dfa.data import ImageTask, load_task
from optical_dfa.study.probe import probe
from optical_dfa.training.run import Run
from optical_dfa.training.trainer import epochs_of, torch_threads


@lru_cache(maxsize=2)
def task_of(name: str, folder: str | None) -> ImageTask:
    """A task, read once by a process."""
    return load_task(name, folder)


def run_cell(config: RunConfig, task: ImageTask, after_epoch: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Train a configuration, and say what it came to: plain values, the same to the bit wherever it is run.

    Args:
        config: of the run.
        task: what it learns.
        after_epoch: called after each epoch; may raise to end the run.

    Returns:
        Values of the last epoch, sums over all, `epochs` with a mapping for each, and `warnings`. Numbers that are not
        finite are None, but for an SNR of inf, the text "inf".

    Raises:
        TrainingError, DeviceError: as training does.
    """
    epochs: list[dict[str, Any]] = []
    with (
        warnings.catch_warnings(record=True) as caught,
        torch_threads(config.training.threads),
        torch.random.fork_rng(devices=[]),
        Run(config, task) as run,
    ):
        warnings.simplefilter("always")
        torch.manual_seed(config.training.seed)
        for row in epochs_of(run):
            values = {name: getattr(row, name) for name in _METRICS}
            if run.feedback is not None:
                values |= probe(run).as_dict()
            epochs.append({name: _plain(value) for name, value in values.items()})
            after_epoch()
        info = None if run.feedback is None else run.feedback.device.info
        fingerprint = None if run.feedback is None else run.feedback.device.fingerprint
    last = {name: value for name, value in epochs[-1].items() if name not in ("epoch", *_SUMS)}
    sums = {name: round(sum(epoch[name] for epoch in epochs), 6) for name in _SUMS}
    return {
        **last,
        **sums,
        "epochs": epochs,
        "data_sha256": task.sha256,
        "device_fingerprint": fingerprint,
        "backend": info and info.backend,
        "camera_backend": info and info.camera_backend,
        "warnings": sorted({str(warning.message) for warning in caught}),
    }


_SUMS = ("frames", "device_seconds", "device_joules")
_METRICS = ("epoch", "train_loss", "train_accuracy", "test_accuracy", *_SUMS)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "inf" if value == math.inf else None
    return value
