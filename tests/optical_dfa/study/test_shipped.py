"""The studies in examples/studies are what the documentation says they are."""

from pathlib import Path

import pytest

from optical_dfa.study.file import load_study

FOLDER = Path(__file__).parents[3] / "examples" / "studies"

RUNS = {
    "bits-photons": 3 * (3 * 5 + 4),
    "cifar10": 3 * (6 + 4),
    "cora": 3 * (6 + 4),
    "depth-width": 3 * 3 * (4 + 1),
    "digits-200": 5 * (6 * 6 + 4),
    "drift": 3 * (9 + 1),
    "learning-rates": 3 * 4,
    "readouts": 3 * (8 + 1),
    "saturation": 3 * (5 + 2),
    "threshold": 3 * (8 + 2),
}
"""Seeds times conditions: those of the optics, and the methods that no factor touches."""


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_number_of_runs(path: Path) -> None:
    assert len(load_study(path).cells) == RUNS[path.stem]
