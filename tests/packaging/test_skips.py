"""The rule of tests/conftest.py: in CI a skip fails the run unless the test is marked `gpu`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
SKIP = """import pytest

{marker}
@pytest.mark.skip(reason="as an example")
def test_skipped(): pass
"""
GPU_SKIP = SKIP.format(marker="@pytest.mark.gpu")
PLAIN_SKIP = SKIP.format(marker="")
MODULE_SKIP = "import pytest\n\npytest.skip('as an example', allow_module_level=True)\n"


@pytest.mark.parametrize(
    ("source", "ci", "status"),
    [(GPU_SKIP, "1", 0), (PLAIN_SKIP, "", 0), (PLAIN_SKIP, "1", 1), (MODULE_SKIP, "1", 1)],
    ids=["gpu in CI", "plain at home", "plain in CI", "module in CI"],
)
def test_skip_rule(source: str, ci: str, status: int, tmp_path: Path) -> None:
    shutil.copy(CONFTEST, tmp_path / "conftest.py")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    (tmp_path / "test_sample.py").write_text(source)
    (tmp_path / "test_other.py").write_text("def test_other(): pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert ("skipped without the gpu marker: test_sample.py" in done.stdout) == bool(status)
