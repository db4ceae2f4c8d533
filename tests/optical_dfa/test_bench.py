"""The benchmark at toy size: every job runs, its products equal the reference, and the report holds together.

Nothing here looks at how long anything takes.
"""

import json
import math
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from optical_dfa.bench import child, rows, run
from optical_dfa.bench.bars import QUANTITIES, pairs_of
from optical_dfa.bench.cells import number, sections
from optical_dfa.bench.contenders import check_rows
from optical_dfa.bench.jobs import JOBS, SETTINGS
from optical_dfa.bench.machine import Machine
from optical_dfa.bench.markdown import to_markdown
from optical_dfa.bench.measure import FEWEST, Timing, ratios, timed_pairs
from optical_dfa.bench.peak import NEEDS
from optical_dfa.bench.report import Report, Row, from_json, missed, summary, to_json
from optical_dfa.bench.run import Options
from optical_dfa.cli import app
from optical_dfa.emulator import reference
from optical_dfa.emulator.numba_support import why_no_product, why_unavailable

SCALE = 0.02
NUMBA_RUNS = why_no_product() is None


@pytest.fixture(scope="module")
def report() -> Report:
    """Every job, in this process but for the compilation, which counts from the start of one."""
    begin = run._child

    def here(task: str, options: Options, **settings: Any) -> dict[str, Any]:
        return begin(task, options, **settings) if "cache" in settings else child.main(task, options.scale)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_child", here)
        return run.run(Options(scale=SCALE, full=True))


def row(report: Report, quantity: str, job: str, setting: str) -> Row:
    (found,) = (r for r in report.rows if (r.quantity, r.job, r.setting) == (quantity, job, setting))
    return found


def test_every_quantity_has_a_row_for_each_of_its_jobs_and_settings(report: Report) -> None:
    wanted = {
        (quantity.name, job, setting)
        for quantity in QUANTITIES
        for job in quantity.jobs + quantity.reported
        for setting in JOBS[job].settings
    }
    found = [(row.quantity, row.job, row.setting) for row in report.rows]
    assert len(found) == len(wanted)
    assert set(found) == wanted


def test_values_are_positive_medians_of_their_pairs(report: Report) -> None:
    for row in report.rows:
        if row.value is None:
            assert row.verdict == "not measured"
            assert row.note
            continue
        assert math.isfinite(row.value)
        assert row.value >= 0 if row.unit == "MB" else row.value > 0
        if row.unit == "ratio":
            assert len(row.pairs) == FEWEST
            assert row.value == statistics.median(row.pairs)
    unmeasured = {row.quantity for row in report.rows if row.value is None}
    allowed = {"field-vendor-tiny", "field-vendor-mid", "vendor-g1"}
    if not NUMBA_RUNS:
        allowed |= {q.name for q in QUANTITIES if "numba" in q.name or (q.pair and q.pair[0] == "numba")}
        allowed |= {"memory", "first-call", "cached-call", "full"}
    assert unmeasured <= allowed


def test_products_were_compared_with_the_reference(report: Report) -> None:
    for row in report.rows:
        if row.value is not None and row.quantity not in ("g1", "import"):
            assert row.checked_rows > 0, row


def test_rates_follow_from_the_sizes(report: Report) -> None:
    """The ratio of two rates is that of the times, twice over: the exact product does two times the work of G1."""
    for job in ("mid", "large"):
        g1, numpy = row(report, "g1", job, "unset"), row(report, "field-numpy", job, "unset")
        assert g1.value is not None
        assert numpy.gmacs is not None
        assert min(numpy.pairs) * 0.2 < 2 * g1.value / numpy.gmacs < max(numpy.pairs) * 5


def test_floor_is_two_products_at_the_peak_of_the_instruction(report: Report) -> None:
    g1, numba = row(report, "g1", "mid", "unset"), row(report, "field-numba", "mid", "unset")
    peak = report.peak.vpdpbusd_512
    assert (peak is None) == (why_unavailable(NEEDS["vpdpbusd 512"]) is not None)
    if peak is None:
        assert numba.floor is numba.of_peak is None
        return
    assert g1.value is not None
    assert numba.gmacs is not None
    assert numba.floor == pytest.approx(2 * g1.value / peak)
    assert numba.of_peak == pytest.approx(numba.gmacs / peak)
    assert report.peak.fma_256 is not None
    # 64 and 8 multiply-adds an instruction, at the same or half the instructions a cycle; 4 x 2 leaves room for noise
    assert 1 < peak / report.peak.fma_256 < 16


def test_json_is_the_report(report: Report) -> None:
    text = to_json(report)
    assert from_json(text) == report
    values = json.loads(text)
    assert list(values) == list(Report.__dataclass_fields__)
    assert list(values["rows"][0]) == list(Row.__dataclass_fields__)
    assert list(values["machine"]) == list(Machine.__dataclass_fields__)
    del values["rows"][0]["unit"]
    with pytest.raises(ValidationError, match="unit"):
        from_json(json.dumps(values))


def test_markdown_shows_every_row_of_the_json(report: Report) -> None:
    page = to_markdown(from_json(to_json(report)))
    text = page.replace("\\_", "_")
    for section in sections(report, spread=True):
        assert f"\n## {section.title}\n" in text
    for row in report.rows:
        cells = [line for line in text.splitlines() if f"| {row.job} |" in line]
        assert cells, row.job
        if row.value is not None:
            assert any(re.search(rf"[| ]{re.escape(number(row.value))}[ |]", line) for line in cells), row
        else:
            assert row.note in text
    assert report.command in text
    assert "sizes scaled by 0.02" in text


def test_bars_are_not_judged_at_toy_size(report: Report) -> None:
    assert {row.verdict for row in report.rows} <= {"no bar", "not judged", "not measured"}
    assert missed(report) == []


def result(cpu: float) -> dict[str, Any]:
    """What a process would find if G1 took a second."""
    return {
        "pairs": {"numba/g1": [[[cpu, cpu], [1.0, 1.0]]] * 3},
        "cpu": {"g1": 1.0, "numba": cpu},
        "lacking": {"numpy": "left out"},
        "g1_pixels": 10_000,
        "checked_rows": 1,
    }


@pytest.mark.parametrize(
    ("ratio", "setting", "verdict"),
    [
        (0.46, "Haswell", "missed"),
        (0.45, "Haswell", "met"),
        (0.31, "Haswell", "aim"),
        (0.46, "unset", "aim"),
        (0.56, "unset", "met"),
        (0.71, "unset", "missed"),
    ],
)
def test_verdicts(ratio: float, setting: str, verdict: str) -> None:
    """Bars .45 and .70, aims .31 and .55."""
    found = rows.rows_of("mid", result(ratio), rows.Conditions(setting, 1.0, 1, 10.24))
    (numba,) = (row for row in found if row.quantity == "field-numba")
    assert numba.verdict == verdict
    # 2 x 2.56e9 multiply-adds at 10.24e9 a second are half of G1's second
    assert numba.floor == pytest.approx(0.5)
    assert numba.of_peak == pytest.approx(0.5 / ratio)


def test_a_missed_bar_and_one_out_of_reach_are_seen(report: Report) -> None:
    conditions = rows.Conditions("Haswell", 1.0, 1, 10.24)
    values = report.__dict__ | {"scale": 1.0, "rows": rows.rows_of("mid", result(0.6), conditions)}
    bad = Report(**values)
    assert [row.quantity for row in missed(bad)] == ["field-numba"]
    page = to_markdown(bad)
    assert "| ✗† 0.6 (0.6–0.6) |" in page
    assert summary(bad) == "1 bars measured: 0 met, 0 of them with the aim reached; 1 missed; 1 not measured"
    assert "not measured: NumPy, stored / G1: left out" in page.replace("Not", "not")


def test_full_is_judged_on_two_threads_only() -> None:
    found = {"cpu": 1000.0, "wall": 500.0, "checked_rows": 30}
    on_two, on_eight = (
        rows.rows_of("full", found, rows.Conditions("any", 1.0, threads, None))[0] for threads in (2, 8)
    )
    assert (on_two.value, on_two.verdict) == (500.0, "met")
    assert (on_eight.verdict, on_eight.note) == ("not judged", "the bar is for 2 threads; these are 8")


def test_pairs_are_taken_in_turn() -> None:
    calls: list[str] = []
    pairs = [("a", "g1"), ("b", "g1")]
    names = {name: (lambda name=name: calls.append(name)) for name in ("a", "b", "g1")}
    found = timed_pairs(names, pairs, fill_seconds=0, most=3)
    assert calls == ["g1", "a", "g1", "b", "a", "g1", "b", "g1", "g1", "a", "g1", "b"]
    assert {pair: len(timings) for pair, timings in found.items()} == dict.fromkeys(pairs, 3)
    assert ratios([(Timing(3.0, 8.0), Timing(2.0, 2.0))], "wall") == [4.0]


def test_a_wrong_product_stops_the_benchmark() -> None:
    vectors = np.ones((2, 8), np.int8)
    fields = reference.product(3, vectors, 64)
    assert check_rows(fields, vectors, 3, 5) == 5
    with pytest.raises(ArithmeticError, match="differs from the reference"):
        check_rows(fields + 1, vectors, 3, 5)


def test_every_job_has_something_to_measure() -> None:
    used = {job for quantity in QUANTITIES for job in quantity.jobs + quantity.reported}
    assert used == set(JOBS)
    assert all(bool(pairs_of(name)) == (job.kind == "pairs") for name, job in JOBS.items())
    assert {setting for quantity in QUANTITIES for setting in quantity.must} <= {*SETTINGS, "any"}


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In processes of their own, with files; OpenBLAS obeys its setting, and a wider table fits its terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    done = CliRunner().invoke(app, ["bench", "--jobs", "feedback", "--scale", "0.5", "-o", "tables"])
    assert done.exit_code == 0, done.output
    page, values = sorted(Path("tables").iterdir(), key=lambda path: path.suffix, reverse=True)
    assert page.stem == values.stem
    found = from_json(values.read_text())
    assert page.read_text() == to_markdown(found)
    assert found.command == "optical-dfa bench --jobs feedback --scale 0.5 -o tables"
    assert {row.job for row in found.rows} == {"feedback"}
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert done.stdout.splitlines()[-1] == str(page.with_suffix(".json"))
    if "openblas" in found.numerics.blas and "avx2" in found.machine.features:
        assert found.numerics.blas_core["Haswell"] == "Haswell"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--jobs", "mied"),
            "error: --jobs mied: unknown job. Did you mean 'mid'? Known: feedback, tiny, mid, large, ",
        ),
        (("--scale", "2"), "error: --scale 2: must be from 0.001 to 1\n"),
        (("--scale", "nan"), "error: --scale nan: must be from 0.001 to 1\n"),
        (("--threads", "0"), "error: --threads 0: must be from 1 to "),
        (("-o", "file"), "error: -o file: is a file: give a folder\n"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    done = CliRunner().invoke(app, ["bench", *arguments])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(message)


def test_a_failing_process_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    done = CliRunner().invoke(app, ["bench", "--jobs", "tiny"])
    assert (done.exit_code, done.stderr) == (
        1,
        "error: job machine: its process failed: it said nothing, and ended with 1\n",
    )
