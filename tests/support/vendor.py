"""The vendor's software, for processes of their own: `make .vendor/.installed` installs it."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".vendor"


def environment() -> dict[str, str]:
    """That of a process which imports it beside this package and what tests share."""
    assert (FOLDER / ".installed").exists(), "the vendor's software is not installed: make .vendor/.installed"
    path = (FOLDER, ROOT / "tests" / "support", ROOT)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
