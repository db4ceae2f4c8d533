"""Tables and report: means and intervals against numbers from a table of Student's t, and a page that holds all."""

import base64
import html
import math
import re
import statistics
from pathlib import Path

import pandas as pd
import pytest
from studies import SMALL, queue_of, study_of, work_off

from optical_dfa.study.report.conditions import Estimate, changes, conditions_of
from optical_dfa.study.report.write import write_report
from optical_dfa.study.tables import half_interval, summarise

T_975 = {1: 12.706, 2: 4.303, 4: 2.776, 9: 2.262}
"""Quantile .975 of Student's t by degrees of freedom, from a printed table."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables and report of the small study."""
    folder = tmp_path_factory.mktemp("report")
    study = study_of(folder, SMALL)
    queue = queue_of(study, folder)
    work_off(queue)
    write_report(study, queue, folder, "here")
    return folder


@pytest.mark.parametrize("degrees", T_975)
def test_intervals_are_of_students_t(degrees: int) -> None:
    n = degrees + 1
    assert half_interval(n) == pytest.approx(T_975[degrees] / math.sqrt(n), rel=2e-4)
    values = [0.1 * i * i for i in range(n)]
    estimate = Estimate.of([*values, math.nan])
    assert estimate.mean == pytest.approx(statistics.mean(values))
    assert estimate.ci == pytest.approx(T_975[degrees] * statistics.stdev(values) / math.sqrt(n), rel=2e-4)


def test_summary_by_hand() -> None:
    rows = [
        ("a", 1.0, 0.5),
        ("a", 1.0, 0.7),
        ("a", 1.0, 0.9),
        ("a", 2.0, 0.4),
        ("b", math.nan, 0.2),
        ("b", math.nan, 0.4),
    ]
    cells = pd.DataFrame(rows, columns=["method", "noise", "test_accuracy"])
    cells["state"] = "complete"
    for name in ("train_loss", "train_accuracy", "alignment", "encoding_cosine", "feedback_cosine", "snr_db"):
        cells[name] = math.nan
    for name in ("saturated", "frames", "device_seconds", "device_joules"):
        cells[name] = 0.0
    found = summarise(cells, ["noise"])
    assert found["n"].tolist() == [3, 1, 2]
    assert found["test_accuracy_mean"].tolist() == pytest.approx([0.7, 0.4, 0.3])
    assert found["test_accuracy_std"].tolist() == pytest.approx([0.2, math.nan, 0.1414214], nan_ok=True, rel=1e-6)
    expected = [4.303 * 0.2 / math.sqrt(3), math.nan, 12.706 * 0.1414214 / math.sqrt(2)]
    assert found["test_accuracy_ci95"].tolist() == pytest.approx(expected, nan_ok=True, rel=2e-4)


def test_tables_hold_every_run(folder: Path) -> None:
    cells = pd.read_parquet(folder / "cells.parquet")
    assert cells["state"].tolist() == ["complete"] * 10
    assert cells["read noise"].isna().sum() == 4
    assert cells["test_accuracy"].between(0, 1).all()
    csv = pd.read_csv(folder / "cells.csv")
    pd.testing.assert_frame_equal(csv, cells, check_dtype=False)
    epochs = pd.read_parquet(folder / "epochs.parquet")
    assert len(epochs) == 20
    last = epochs[epochs["epoch"] == 2].set_index("cell")["test_accuracy"]
    assert (last.loc[cells["cell"]].to_numpy() == cells["test_accuracy"].to_numpy()).all()
    snr = cells[cells["method"] == "optical DFA"].groupby("read noise")["snr_db"].mean()
    assert snr.loc[0.0] > snr.loc[100.0] + 3 > snr.loc[400.0] + 10  # 13 e- of shot noise beside read noise
    assert len(pd.read_csv(folder / "timings.csv")) == 10


def test_changes_are_paired_by_seed(folder: Path) -> None:
    study = study_of(folder, SMALL)
    conditions = conditions_of(study.cells, queue_of(study, folder).results())
    found = changes(study.config, conditions, "read noise", "optical DFA")
    cells = pd.read_parquet(folder / "cells.parquet").set_index(["method", "read noise", "seed"])["test_accuracy"]
    assert [change.level for change in found] == [0.0, 100.0, 400.0]
    assert found[0].difference is None
    for change in found[1:]:
        pairs = [cells["optical DFA", change.level, seed] - cells["optical DFA", 0.0, seed] for seed in (0, 1)]
        assert change.difference is not None
        assert change.difference.mean == pytest.approx(statistics.mean(pairs))
        assert change.difference.ci == pytest.approx(12.706 * statistics.stdev(pairs) / math.sqrt(2), rel=2e-4)


def test_the_page_is_whole_and_loads_nothing(folder: Path) -> None:
    text = (folder / "report.html").read_text("utf-8")
    assert "<h1>A small study</h1>" in text
    assert "Does it &lt;work&gt; &amp; last?" in text
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    figures = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', text)
    assert len(figures) == 4
    for figure in figures:
        assert b"<svg" in base64.b64decode(figure)
    drawn = sorted(path.name for path in (folder / "figures").iterdir())
    names = ("against-snr", "factor-1-read-noise", "learning", "speckle")
    assert drawn == [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    assert text.count("<details>") == 1 + 5
    config = re.findall(r"<summary>optical DFA, read noise 100</summary><pre>(.*?)</pre>", text, re.DOTALL)
    assert "read_noise_e: 100.0" in html.unescape(config[0])
    assert text.count("<tr>") == 2 + 5 + 10


def test_the_report_of_an_unfinished_study_says_so(tmp_path: Path) -> None:
    study = study_of(tmp_path, SMALL)
    queue = queue_of(study, tmp_path)
    write_report(study, queue, tmp_path, "here")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "10 of 10 runs are still to be done" in text
    assert pd.read_csv(tmp_path / "cells.csv")["state"].tolist() == ["missing"] * 10
