"""Tables and report: means and intervals against numbers from a table of Student's t, and a page that holds all."""

import base64
import html
import math
import re
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.lines import Line2D
from studies import SMALL, queue_of, study_of, work_off

from optical_dfa.config import RunConfig
from optical_dfa.study.models import Scalar, StudyConfig
from optical_dfa.study.queue import Progress
from optical_dfa.study.report.conditions import Condition, Estimate, beside, changes, conditions_of
from optical_dfa.study.report.figures import draw_all
from optical_dfa.study.report.words import summary
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


NAMED = StudyConfig.model_validate(
    {
        "title": "Named levels",
        "methods": {"optical DFA": {}, "exact DFA": {"device": "digital", "feedback.ternarize": None}},
        "factors": {
            "light": {
                "levels": [
                    {"value": name, "set": {"device.photometry.signal_e_per_feature": signal}}
                    for name, signal in (("bright", 250.0), ("dim", 1.0), ("out", 0.1))
                ]
            }
        },
    }
)


def condition(
    accuracies: tuple[float, ...], light: Scalar = None, snr_db: float = math.inf, cosine: float | None = 0.9
) -> Condition:
    """Of the emulator at that light; exact DFA without."""
    exact = {"device": "digital", "feedback": {"ternarize": None}} if light is None else {}
    results = {
        seed: {"test_accuracy": accuracy, "snr_db": snr_db, "feedback_cosine": cosine, "encoding_cosine": 0.9,
               "saturated": 0.0, "epochs": [{"test_accuracy": accuracy}]}
        for seed, accuracy in enumerate(accuracies)
    }  # fmt: skip
    levels = {} if light is None else {"light": light}
    method = "optical DFA" if levels else "exact DFA"
    return Condition(method, levels, RunConfig.model_validate(exact), results, len(results))


EXACT = condition((0.950, 0.960, 0.955))
BRIGHT = condition((0.952, 0.961, 0.956), "bright", 28.0)
DIM = condition((0.920, 0.935, 0.925), "dim", -9.0, 0.2)
OUT = condition((0.830, 0.820, 0.810), "out", 0.0, None)  # nothing but zeros: 0 dB, all of it missing


def test_as_well_means_that_the_whole_interval_is_within_a_point() -> None:
    difference = beside(BRIGHT, EXACT)
    assert difference.mean == pytest.approx((0.002 + 0.001 + 0.001) / 3)
    assert difference.ci == pytest.approx(4.303 * statistics.stdev([0.002, 0.001, 0.001]) / math.sqrt(3), rel=2e-4)
    words = summary(NAMED, [BRIGHT, DIM, OUT, EXACT], Progress(12, 12))[-1]
    assert words.startswith("With a measured SNR of 28.0 dB or better, every condition learns as well as exact DFA")
    # a mean that is closer than a point, and an interval that is not: 4.303 · 0.866 / √3 = 2.15 points
    wide = condition((0.940, 0.965, 0.960), "bright", 28.0)
    assert beside(wide, EXACT).mean == pytest.approx(0)
    words = summary(NAMED, [wide, DIM, OUT, EXACT], Progress(12, 12))[-1]
    assert words.startswith("At the best SNR, 28.0 dB, it is +0.0 ± 2.2 points beside exact DFA: not shown to learn")


def first_points(axes: Axes) -> Line2D:
    container = axes.containers[0]
    assert isinstance(container, ErrorbarContainer)
    assert container.lines[0] is not None
    return container.lines[0]


def test_named_levels_are_rows_without_lines() -> None:
    drawn = {each.name: each.figure for each in draw_all(NAMED, [BRIGHT, DIM, OUT, EXACT])}
    axes = drawn["factor-1-light"].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["bright", "dim", "out"]
    points = first_points(axes)
    assert points.get_linestyle() == "None"
    assert points.get_xdata() == pytest.approx([95.6333, 92.6667, 82.0], abs=1e-3)
    # 13.6 points apart: linear, and no interval beyond what can be
    assert (axes.get_xscale(), axes.get_xlim()[1] <= 100) == ("linear", True)
    # a bench that gives nothing but zeros has no place on an axis of SNR
    snr = first_points(drawn["against-snr"].axes[2]).get_xdata()
    assert np.sort(np.asarray(snr)).tolist() == [-9.0, 28.0]


def test_accuracies_far_apart_are_stretched() -> None:
    low = condition((0.10, 0.11, 0.60), "out", -20.0)
    drawn = {each.name: each.figure for each in draw_all(NAMED, [BRIGHT, DIM, low, EXACT])}
    axes = drawn["factor-1-light"].axes[0]
    assert axes.get_xscale() == "function"
    left, right = axes.get_xlim()
    assert 0 <= left < 27
    assert 96 < right <= 100
    to = axes.transData.transform
    assert to((95, 0))[0] - to((90, 0))[0] > to((50, 0))[0] - to((45, 0))[0]


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
