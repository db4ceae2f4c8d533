"""A cell and its probe, against formulas written out here; and that probing disturbs nothing."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from optical_dfa.config import RunConfig
from optical_dfa.data import load_task
from optical_dfa.study.cell import run_cell
from optical_dfa.study.probe import N_IMAGES, probe
from optical_dfa.study.results import series
from optical_dfa.study.search import held_out
from optical_dfa.training import train
from optical_dfa.training.run import Run

TASK = load_task("digits")


def config(**changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "model": {"hidden": [20, 14]},
        "training": {"epochs": 2, "batch_size": 128, "learning_rate": 3e-3, "threads": 1, "seed": 4},
        "device": {"name": "emulator", "fidelity": "statistical", "backend": "numpy", "seed": 3},
    }
    return RunConfig.model_validate({**values, **changes})


@pytest.mark.parametrize("kind", [{"kind": "stochastic"}, {"kind": "bit-planes", "bits": 2}], ids=lambda k: k["kind"])
def test_a_cell_is_the_training_run(tmp_path: Path, kind: dict[str, Any]) -> None:
    """Same metrics to the bit as `optical-dfa train`, although it was probed after every epoch."""
    asked = config(feedback={"ternarize": kind})
    result = run_cell(asked, TASK)
    expected = train(asked, tmp_path / "run", progress=False)
    assert series(result, "test_accuracy") == [row.test_accuracy for row in expected.history]
    assert series(result, "train_loss") == [row.train_loss for row in expected.history]
    assert result["frames"] == expected.frames
    assert result == run_cell(asked, TASK)


def test_the_probe_is_its_definition() -> None:
    """Exact device, real error: the gradients of DFA and of backpropagation, layer by layer, by hand."""
    asked = config(device={"name": "digital", "seed": 3}, feedback={"ternarize": None})
    with Run(asked, TASK) as run:
        found = probe(run)
        assert run.feedback is not None
        matrix = torch.from_numpy(run.feedback.device.effective_matrix()).double()
        x, labels = TASK.train_images[:N_IMAGES].double(), TASK.train_labels[:N_IMAGES]
        w1, b1, w2, b2, w3, b3 = (parameter.detach().double() for parameter in run.net.parameters())
    h1 = torch.tanh(x @ w1.T + b1)
    h2 = torch.tanh(h1 @ w2.T + b2)
    error = (torch.softmax(h2 @ w3.T + b3, 1) - nn.functional.one_hot(labels, 10)) / N_IMAGES
    delta2 = error @ w3 * (1 - h2**2)
    delta1 = delta2 @ w2 * (1 - h1**2)
    exact = [delta1.T @ x, delta2.T @ h1]
    field = error @ matrix.T
    of_dfa = [(field[:, :20] / math.sqrt(20) * (1 - h1**2)).T @ x, (field[:, :14] / math.sqrt(14) * (1 - h2**2)).T @ h1]
    layers = [
        float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0)) for a, b in zip(of_dfa, exact, strict=True)
    ]
    together = [torch.cat([part.flatten() for part in parts]) for parts in (of_dfa, exact)]
    assert found.layer_alignment == pytest.approx(layers, abs=1e-5)
    assert found.alignment == pytest.approx(float(torch.cosine_similarity(together[0], together[1], dim=0)), abs=1e-5)
    assert (found.encoding_cosine, found.feedback_cosine) == pytest.approx((1, 1), abs=1e-6)
    assert (found.snr_db, found.saturated) == (math.inf, 0.0)


def test_noise_costs_the_cosine_what_theory_says() -> None:
    """cos(field) = cos(encoding) / √(1 + 1/SNR), to the sampling of 256 vectors times 20 outputs.

    Noise and signal are then orthogonal to 1/√5120 = 0.014 each; 5 times that is a false-alarm rate below 1e-6 for a
    free seed. The seed is fixed.
    """
    asked = config(device={**config().device, "camera": {"read_noise_e": 500.0}})
    with Run(asked, TASK) as run:
        found = probe(run)
    assert 5 < found.snr_db < 12
    expected = found.encoding_cosine / math.sqrt(1 + 10 ** (-found.snr_db / 10))
    assert found.feedback_cosine == pytest.approx(expected, abs=5 * 0.014)
    assert found.encoding_cosine == pytest.approx(0.9, abs=0.08)


def test_saturation_is_counted() -> None:
    dark = config(device={**config().device, "camera": {"full_well_e": 1500.0, "gain_dn_per_e": 0.17}})
    result = run_cell(dark, TASK)
    assert 0.2 < result["saturated"] < 0.8
    assert "pixel readings are saturated" in result["warnings"][0]


def test_backpropagation_has_no_feedback_to_probe() -> None:
    result = run_cell(config(training={**config().training.model_dump(), "method": "bp"}), TASK)
    assert "alignment" not in result
    assert (result["frames"], result["device_fingerprint"]) == (0, None)


def test_held_out_images_are_training_images() -> None:
    task = held_out(TASK, 0.2)
    n = len(TASK.train_images)
    assert (len(task.test_images), len(task.train_images)) == (round(0.2 * n), n - round(0.2 * n))
    together = torch.cat([task.train_images, task.test_images])
    as_sets = [sorted(map(bytes, np.asarray(images))) for images in (together, TASK.train_images)]
    assert as_sets[0] == as_sets[1]
    assert torch.equal(held_out(TASK, 0.2).test_labels, task.test_labels)
