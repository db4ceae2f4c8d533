"""The benchmark of a served device runs from end to end, at toy size."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(FOLDER))  # the server's process imports it by its name, too
    yield importlib.import_module("remote")
    del sys.modules["remote"]


def test_a_row_is_judged_from_64_vectors_on(benchmark: Any) -> None:
    row = benchmark.Row(64, 0.064, 0.068, 0.1, (0.09, 0.12), 0.011)
    assert row.cells == ["64", "64.00", "68.00", "10.0%", "9.0% … 12.0%", "10%", "✓ met", "11.00"]
    assert benchmark.Row(128, 0.1, 0.12, 0.11, (0.0, 0.2), 0.0).cells[5:7] == ["10%", "✗ missed"]
    assert benchmark.Row(63, 0.1, 0.12, 0.2, (0.0, 0.2), 0.0).cells[5:7] == ["", ""]


def test_it_prints_and_writes_a_table(benchmark: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Three vectors of 2 ms and more: a frame takes 0.5 ms at least, on any machine."""
    benchmark.main(["--pairs", "1", "--batches", "3", "--inputs", "5", "--outputs", "7", "-o", str(tmp_path)])
    printed = capsys.readouterr().out
    row = re.search(r"^\| 3 \| (\d+\.\d\d) \| (\d+\.\d\d) \|", printed, re.MULTILINE)
    assert row is not None
    assert min(float(time) for time in row.groups()) >= 3.0
    assert "5 inputs, 7 outputs, 1 pairs." in printed
    (written,) = tmp_path.iterdir()
    assert written.name.startswith("remote-")
    assert written.read_text("utf-8") == printed.removesuffix("\n")
