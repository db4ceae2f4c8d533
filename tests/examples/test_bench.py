"""The example of a bench of one's own runs against its simulated pair of DMD and camera."""

import sys
from pathlib import Path

import numpy as np
import pytest

from optical_dfa.config import load_config
from optical_dfa.devices import DeviceTimeout, open_device
from optical_dfa.emulator import reference
from optical_dfa.training import train

FOLDER = Path(__file__).parents[2] / "examples" / "bench"


@pytest.fixture(autouse=True)
def _on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    for name in ("lab_bench", "simulated_pair"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_the_bench_projects_by_the_matrix_of_the_pair() -> None:
    """The preset's SNR is 21 dB with its uneven beam counted, 25 dB without: correlations above 1/√(1 + 10^-2)."""
    vectors = np.zeros((40, 32), np.int8)
    for number, vector in enumerate(vectors):
        vector[[number % 32, (number + 7) % 32]] = 1, -1
    with open_device("bench", bench="simulated_pair:open_bench", n_inputs=32, n_outputs=1000) as device:
        fields = device.project(vectors)
    exact = vectors @ reference.matrix(0, 1000, 32).astype(np.float64).T
    assert np.corrcoef(fields.ravel(), exact.ravel())[0, 1] > 0.96


def test_an_image_that_does_not_come_is_a_timeout() -> None:
    import simulated_pair

    bench = simulated_pair.open_bench()
    with open_device("bench", bench=bench, n_inputs=32, n_outputs=1000) as device:
        bench.dmd.run = lambda: None
        with pytest.raises(DeviceTimeout, match="12 of 12 images did not come"):
            device.project(np.ones((1, 32), np.int8))


def test_the_digits_are_learnt_on_it(tmp_path: Path) -> None:
    """Exact feedback comes to 62 % of the test images in the same three epochs of batches of 128; chance is 10 %."""
    overrides = ["training.epochs=3", "training.batch_size=128"]
    result = train(load_config(FOLDER / "train.yaml", overrides), tmp_path / "run", progress=False)
    assert result.test_accuracy > 0.45
    assert result.frames == 35_640
