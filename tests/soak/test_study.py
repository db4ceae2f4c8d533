"""Long: a study killed again and again ends as the undisturbed one does; its report in a browser."""

import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from studies import SMALL, queue_of, study_of, work_off

from optical_dfa.study.report.write import write_report

TABLES = ("cells.csv", "cells.parquet", "summary.csv", "summary.parquet", "epochs.csv", "epochs.parquet")

STUDY = SMALL.replace("epochs: 2", "epochs: 60")


def start(folder: Path) -> subprocess.Popen[bytes]:
    script = "from optical_dfa.cli import app; app()"
    command = [sys.executable, "-c", script, "study", "small.yaml", "--workers", "2", "-o", str(folder)]
    return subprocess.Popen(command, cwd=folder.parent, start_new_session=True, stdout=subprocess.DEVNULL)


@pytest.mark.soak
def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Command and workers at once, by SIGKILL, at random moments; then the same command again."""
    study = study_of(tmp_path, STUDY)
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    queue = queue_of(study, alone)
    work_off(queue)
    write_report(study, queue, alone, "alone")
    generator, kills = np.random.default_rng(3), 0
    while True:
        process = start(killed)
        try:
            process.wait(float(generator.uniform(3, 10)) if kills < 12 else None)
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert process.returncode == 0
    for name in TABLES:
        assert (alone / name).read_bytes() == (killed / name).read_bytes(), name
    states = [trial.state.name for trial in queue_of(study, killed).study.get_trials(deepcopy=False)]
    assert states.count("COMPLETE") == 10
    assert kills >= 3
    lost = states.count("FAIL")
    print(f"\nkilled {kills} times with SIGKILL, {lost} runs lost and redone: tables identical to the bit")


PROBE = """
<script>
const seen = {errors: [], loaded: performance.getEntriesByType("resource").map((e) => e.name.slice(0, 30))};
window.addEventListener("error", (event) => seen.errors.push(event.message));
window.addEventListener("load", () => {
  seen.images = [...document.images].map((image) => [image.complete, image.naturalWidth, image.clientWidth]);
  seen.wide = document.documentElement.scrollWidth;
  const table = document.getElementById("table-conditions");
  const accuracy = [...table.querySelectorAll("th")].findIndex((head) => head.textContent.startsWith("test"));
  const order = () => [...table.tBodies[0].rows].map((row) => row.cells[accuracy].dataset.value);
  seen.before = order();
  const button = table.querySelectorAll("th button")[accuracy];
  button.click(); seen.rising = order();
  button.click(); seen.falling = order();
  const pre = document.createElement("pre");
  pre.id = "probe"; pre.textContent = JSON.stringify(seen); document.body.append(pre);
});
</script>
"""


@pytest.mark.soak
def test_the_report_in_chromium(tmp_path: Path) -> None:
    """Renders without a console message, shows every figure, loads nothing, sorts by a click; 1280 pixels wide."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "apt-get install chromium"
    study = study_of(tmp_path, SMALL)
    queue = queue_of(study, tmp_path)
    work_off(queue)
    text = write_report(study, queue, tmp_path, "here").read_text("utf-8")
    page = tmp_path / "probed.html"
    page.write_text(text.replace("</head>", f"{PROBE}</head>"), "utf-8")
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    options += " --disable-component-update --disable-sync --enable-logging=stderr --window-size=1280,900"
    began = time.perf_counter()
    done = subprocess.run(
        [chromium, *options.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    found = json.loads(html.unescape(re.findall(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)[0]))
    assert found["errors"] == []
    assert [name for name in found["loaded"] if not name.startswith("data:")] == []
    assert len(found["images"]) == 4
    assert all(complete and natural > 400 and shown > 400 for complete, natural, shown in found["images"])
    assert found["wide"] <= 1280
    values = [float(value) for value in found["before"]]
    assert [float(value) for value in found["rising"]] == sorted(values)
    assert [float(value) for value in found["falling"]] == sorted(values, reverse=True)
    version = subprocess.run([chromium, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"\n{version}: 4 figures shown, no console message, table sorts, {time.perf_counter() - began:.1f} s")
