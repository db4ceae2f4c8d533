"""The benchmark of the training step runs from end to end, at toy size, its processes in this one."""

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "step.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("benchmarks_step", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "benchmarks_step", module)  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def here(benchmark: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """What a child would find, without a process."""

    def in_child(task: str, row: Any, threads: int, **more: Any) -> Any:
        answer = tmp_path / "answer.json"
        request = {"task": task, "row": asdict(row), "threads": threads, "answer": str(answer), **more}
        before = torch.get_num_threads()
        try:
            benchmark.child(request)
        finally:
            torch.set_num_threads(before)
        return json.loads(answer.read_text())

    monkeypatch.setattr(benchmark, "in_child", in_child)
    return in_child


def test_it_prints_and_writes_a_table(
    benchmark: Any, here: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["--scale", "0.02", "--pairs", "2", "--rows", "small", "emulator", "memory", "--threads", "1"]
    benchmark.main([*arguments, "-o", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    number = r"\d+\.\d{3}"
    assert re.search(rf"^\| 16-20x3-2, batch 3 \| digital \| 1 \| {number} \|", printed, re.MULTILINE)
    assert re.search(rf"^\| 16-20x3-2, batch 3 \| free \| 1 \| {number} \|", printed, re.MULTILINE)
    assert re.search(rf"^\| 16-20x3-2, batch 3 \| by hand \| 1 \| {number} \|", printed, re.MULTILINE)
    assert re.search(rf"^\| 16-41x8-2, batch 5 \| emulator \| 1 \| {number} \|", printed, re.MULTILINE)
    assert "Sizes scaled by 0.02: bars hold for full sizes alone." in printed
    assert "met" not in printed.partition("## Time")[2]
    (written,) = (tmp_path / "out").iterdir()
    assert written.name.startswith("step-")
    assert written.read_text("utf-8") + "\n" == printed


def test_the_floors_are_those_of_the_bars(benchmark: Any) -> None:
    """PERFORMANCE.md: .735, .679, .725 of the multiply-adds of backpropagation remain."""
    floors = {name: row.floor for name, row in benchmark.ROWS.items()}
    assert floors == {
        "small": pytest.approx(0.735, abs=6e-4),
        "wide": pytest.approx(0.679, abs=6e-4),
        "classes": pytest.approx(0.725, abs=6e-4),
        "emulator": pytest.approx(0.679, abs=6e-4),
    }


def test_verdicts(benchmark: Any) -> None:
    row = benchmark.ROWS["small"]
    assert [benchmark.verdict(value, row, False) for value in (0.76, 0.78, 0.81)] == ["★ aim", "✓ met", "✗ missed"]
    assert benchmark.verdict(0.5, row, True) == ""


def test_a_ratio_takes_one_clock(benchmark: Any) -> None:
    pairs = [((3.0, 5.0), (2.0, 10.0)), ((1.0, 1.0), (4.0, 2.0))]
    assert benchmark.ratios(pairs, 0) == [1.5, 0.25]
    assert benchmark.ratios(pairs, 1) == [0.5, 0.5]
