"""Long: a training run that is killed again and again ends as the undisturbed one does."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

CONFIG = """
training: {epochs: 12, batch_size: 16, threads: 1, checkpoint_every_steps: 7, seed: 5}
device: {name: emulator, preset: phase-stepping}
"""


def program(folder: Path, *options: str) -> list[str]:
    script = "from optical_dfa.cli import app; app()"
    return [sys.executable, "-c", script, "train", str(folder.parent / "run.yaml"), "-o", str(folder), "-q", *options]


@pytest.mark.soak
def test_killed_at_any_moment(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(CONFIG)
    start = time.perf_counter()
    subprocess.run(program(tmp_path / "undisturbed"), check=True)
    seconds = time.perf_counter() - start
    generator, kills = np.random.default_rng(1), 0
    killed = tmp_path / "killed"
    while not (killed / "result.json").exists():
        process = subprocess.Popen(program(killed, *["--resume"] * (killed / "config.yaml").exists()))
        try:
            process.wait(float(generator.uniform(0.3, 1.0)) * seconds / 2 if kills < 12 else None)
            assert process.returncode == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    weights = [
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["net"] for name in ("undisturbed", "killed")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert kills >= 3
    print(f"\nkilled {kills} times with SIGKILL: weights identical to the bit")
