"""The benchmark for GPUs runs from end to end, at toy size on the fake one."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from fake_cupy import Fake, installed

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("benchmarks_gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROUNDS", 2)
    monkeypatch.setattr(module, "SECONDS", 0.0)
    return module


def test_it_prints_a_table(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with installed(Fake(free_bytes=1 << 24)):
        benchmark.main(["--scale", "0.0005"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Fake GPU, CuPy 0, CUDA runtime 12000"
    for job, sizes in (("mid", r"\(1, 5, 1\)"), ("square", r"\(33, 33, 1\)")):
        assert any(re.fullmatch(rf"\| {job} \| {sizes} \| \S+ \| \S+ \| \S+ \|", line) for line in lines), lines
    assert any(re.match(r"T made anew: \S+ entries a second\.", line) for line in lines)
    assert any(re.match(r"Full size \(500, 1000, 1\), T made anew: \S+ s; bar", line) for line in lines)
    assert lines[-1] == "Random rows of every result equal the reference."


def test_what_does_not_fit_is_left_out(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with installed(Fake(free_bytes=1000)):
        benchmark.main(["--scale", "0.0005", "--jobs", "square"])
    assert "| square | (33, 33, 1) | too large for this GPU | – | – |" in capsys.readouterr().out


def test_a_wrong_product_stops_it(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark.CupyProduct, "__call__", lambda self, vectors: self.fields(vectors))
    with installed(Fake(1)), pytest.raises(SystemExit, match="differs from the reference"):
        benchmark.main(["--scale", "0.01", "--jobs", "mid"])


def test_without_a_gpu_it_says_so(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with installed(Fake()) as fake:
        monkeypatch.setattr(fake.module.cuda.runtime, "getDeviceCount", lambda: 0)
        with pytest.raises(SystemExit, match="no CUDA device is visible"):
            benchmark.main([])
