"""The benchmark of deferred projections runs from end to end, at toy size; its numbers follow from its timelines."""

import importlib.util
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "pipeline.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("benchmarks_pipeline", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "benchmarks_pipeline", module)  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    return module


def test_it_prints_and_writes_a_table_and_a_figure(
    benchmark: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    benchmark.main(
        ["--toy", "--pairs", "1", "--devices", "here", "-o", str(tmp_path), "--figure", str(tmp_path / "line")]
    )
    assert torch.get_num_threads() == threads
    printed = capsys.readouterr().out
    (written,) = tmp_path.glob("pipeline-*.md")
    assert written.read_text("utf-8") + "\n" == printed
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| here")]
    assert [row[1] for row in rows] == ["device ≪ compute", "device ≈ compute", "device ≫ compute"]
    for row in rows:
        device, compute, plain, deferred, bound, ratio = map(float, row[2:8])
        assert plain == pytest.approx(device + compute, abs=0.11)  # each is rounded to 0.1 ms
        assert bound == pytest.approx(max(device, compute) + min(device, compute) / 8, abs=0.11)
        assert ratio == pytest.approx(deferred / bound, rel=0.051 / deferred + 0.051 / bound + 1e-3)
        assert row[8:10] == ["1.05", ""], "toy sizes are not judged"
    assert (tmp_path / "line.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "line.svg").read_text("utf-8")


def test_nothing_overlaps_without_and_everything_is_in_order_with(benchmark: Any) -> None:
    """Of each micro-batch, forward, projection and backward follow each other; of a device, projections do."""
    with benchmark.device_of("here", (4, 30), 0.05) as device:
        bed = benchmark.Bed(**benchmark.TOY, device=device)
        for deferred in (False, True):
            timeline, gradients = bed.step(deferred)
            assert len(gradients) == 6
            lines = timeline.forward, timeline.device, timeline.backward
            assert [len(spans) for spans in lines] == [benchmark.MICRO_BATCHES] * 3
            for number, (forward, shown, backward) in enumerate(zip(*lines, strict=True)):
                assert 0 <= forward[0] < forward[1]
                assert forward[0] < shown[0] < shown[1] < backward[0] < backward[1] <= timeline.total
                if number and not deferred:
                    assert timeline.backward[number - 1][1] < forward[0]
            for spans in lines:
                assert all(one[1] <= two[0] for one, two in pairwise(spans))
    # the device waited for each of its frames
    assert timeline.device_s >= 0.05 * device.usage.device_seconds / 2 * 0.999


def test_the_bound(benchmark: Any) -> None:
    """Eight projections of 2 s and 4 s of computing: the longer, and an eighth of the shorter."""
    timeline = benchmark.Timeline(device=[(3.0 * n, 3.0 * n + 2) for n in range(8)], total=20.0)
    assert (timeline.device_s, timeline.compute_s, timeline.bound_s) == (16.0, 4.0, 16.5)
    swapped = benchmark.Timeline(device=[(3.0 * n, 3.0 * n + 0.5) for n in range(8)], total=20.0)
    assert swapped.bound_s == 16.5


def test_verdicts(benchmark: Any) -> None:
    plain = benchmark.Timeline(device=[(0.0, 16.0)], total=20.0)
    for total, verdict in ((17.3, "✓ met"), (17.4, "✗ missed")):  # 1.05 times 16.5 s is 17.325 s
        row = benchmark.row_of("here", "", [(plain, benchmark.Timeline(total=total))], False)
        assert verdict in row
        assert "met" not in benchmark.row_of("here", "", [(plain, benchmark.Timeline(total=total))], True)
