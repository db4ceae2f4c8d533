"""The recipes for other trainers run and print what their page shows, each in an interpreter of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "train-with-lightning-or-transformers.md").read_text("utf-8")
RECIPES = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("code", "shown"), RECIPES, ids=["lightning", "transformers"])
def test_recipe(code: str, shown: str, tmp_path: Path) -> None:
    """Lines of the recipe's own; both packages print more."""
    (tmp_path / "recipe.py").write_text(code, "utf-8")
    child = subprocess.run([sys.executable, "recipe.py"], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert child.returncode == 0, child.stderr
    for line in shown.splitlines():
        pattern = re.sub(r"\d+%", r"\\d+%", re.escape(line).replace(re.escape("%"), "%"))
        assert re.search(f"^{pattern}$", child.stdout, re.MULTILINE), child.stdout
