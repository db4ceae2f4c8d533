"""What tests of the exact product share: a fresh interpreter, and sparse ternary vectors."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).parents[2]


def interpreter(*arguments: str, environment: Mapping[str, str] | None = None, cwd: Path = ROOT) -> str:
    """What a fresh interpreter prints with these arguments and variables of the environment; it must succeed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ternary_of(seed: int, batch: int, n_inputs: int, sparsity: float) -> npt.NDArray[np.int8]:
    """Vectors with about that fraction of zeros, every third one entirely zero."""
    generator = np.random.default_rng(seed)
    vectors = generator.integers(0, 2, (batch, n_inputs), np.int8) * np.int8(2) - np.int8(1)
    vectors[generator.random(vectors.shape) < sparsity] = 0
    vectors[1::3] = 0
    return vectors
