"""Where a run comes from: configuration, data, device, and every process that worked on it."""

import dataclasses
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import optical_dfa
from optical_dfa.training.log import read_json, write_json
from optical_dfa.training.run import Run


def write_provenance(path: Path, run: Run) -> None:
    """Write `provenance.json`, with this process added to those it names already.

    Args:
        path: the file.
        run: the run, at the position where this process takes it up.
    """
    processes = read_json(path)["processes"] if path.exists() else []
    device = None if run.feedback is None else run.feedback.device
    values = {
        "config": run.config.as_dict(),
        "data": {
            "sha256": run.task.sha256,
            "train_images": len(run.task.train_images),
            "test_images": len(run.task.test_images),
            "pixel_mean": run.task.pixel_mean,
            "pixel_std": run.task.pixel_std,
        },
        "device": device
        and {"fingerprint": device.fingerprint, **dataclasses.asdict(device.info), "settings": dict(device.settings)},
        "processes": [*processes, {"from": run.position, **process()}],
    }
    write_json(path, values)


def process() -> dict[str, Any]:
    """This process: versions, machine, threads, and when it was asked."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "optical_dfa": optical_dfa.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _cpu() -> str:
    """Model of the CPU; `platform` alone does not know it on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
