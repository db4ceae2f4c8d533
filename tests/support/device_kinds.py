"""The devices that the contract is tested on, and vectors for them."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from optical_dfa.devices import ProjectionDevice, Usage, make_device
from optical_dfa.measure import save_matrix

# Ten features ON a side give Is 250 e- beside R² 1500 e-: no pixel near the full well of 10,000 e-.
DIM = {"photometry": {"signal_e_per_feature": 25.0}}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "digital": ("digital", {}),
    "ideal": ("emulator", {"preset": "ideal"}),
    "noisy": ("emulator", DIM),
    "tracked": ("emulator", {"readout": {"probe_every": 3}, "medium": {"piston_walk_rad": 0.2}, **DIM}),
    "off-axis": ("emulator", {"preset": "off-axis", **DIM}),
}
EXACT_KINDS = ("digital", "ideal")
every_kind = pytest.mark.parametrize("kind", KINDS)
any_kind = pytest.mark.parametrize("kind", [*KINDS, "measured"])  # for what needs neither a certain T nor a known seed
exact_kinds = pytest.mark.parametrize("kind", EXACT_KINDS)

_FOLDER = TemporaryDirectory()

Ternary = npt.NDArray[np.int8]


def closed(kind: str, n_inputs: int = 30, n_outputs: int = 21, **options: Any) -> ProjectionDevice:
    if kind == "measured":
        return _measured(n_inputs, n_outputs, **options)
    name, preset = KINDS[kind]
    return make_device(name, **{"n_inputs": n_inputs, "n_outputs": n_outputs, **preset, **options})


def _measured(n_inputs: int, n_outputs: int, seed: int = 0) -> ProjectionDevice:
    """The device of a file that lasts as long as the tests."""
    path = Path(_FOLDER.name) / f"{n_inputs}-{n_outputs}-{seed}.safetensors"
    if not path.exists():
        matrix = np.random.default_rng(seed).standard_normal((n_outputs, n_inputs))
        save_matrix(path, matrix, outputs_per_mode=1)
    return make_device("measured", path=path)


def opened(kind: str, n_inputs: int = 30, n_outputs: int = 21, **options: Any) -> ProjectionDevice:
    return closed(kind, n_inputs, n_outputs, **options).open()


def ternary(batch: int, n_inputs: int = 30) -> Ternary:
    """Random vectors; of every five, one is zero, one has no +1 and one has no -1."""
    vectors = np.random.default_rng(batch).integers(-1, 2, (batch, n_inputs), np.int8)
    vectors[1::5] = 0
    vectors[2::5] = -np.abs(vectors[2::5])
    vectors[3::5] = np.abs(vectors[3::5])
    return vectors


def counts(usage: Usage) -> dict[str, float]:
    return {name: value for name, value in vars(usage).items() if name != "wall_seconds"}
