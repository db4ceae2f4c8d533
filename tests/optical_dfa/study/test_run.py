"""Studies as users run them: commands, workers, a killed worker, PostgreSQL; the table is the same to the bit."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from studies import SMALL, queue_of, study_of, work_off
from typer.testing import CliRunner

from optical_dfa.cli import app
from optical_dfa.study.process import is_dead
from optical_dfa.study.queue import Queue
from optical_dfa.study.storage import open_storage
from optical_dfa.study.tables import tables, write

TABLES = ("cells.csv", "cells.parquet", "summary.csv", "summary.parquet", "epochs.csv", "epochs.parquet")

LONGER = SMALL.replace("epochs: 2", "epochs: 12")


@pytest.fixture
def postgresql() -> Iterator[str]:
    """URL of a PostgreSQL server of its own; it does not run as root, so root starts it as another user."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
    initdb = shutil.which("initdb", path=str(programs) if programs else None)
    if initdb is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    user = None
    if os.getuid() == 0:
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = "postgres" if "postgres" in names else "nobody"
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as name:
        folder, postgres = Path(name), str(Path(initdb).with_name("postgres"))
        if user:
            shutil.chown(folder, user)
        quiet = {"user": user, "cwd": name, "stdout": subprocess.DEVNULL}
        subprocess.run([initdb, "-D", folder / "data", "-A", "trust", "-U", "study", "-N"], check=True, **quiet)  # type: ignore[call-overload]
        server = subprocess.Popen(  # type: ignore[call-overload]
            [postgres, "-D", folder / "data", "-k", name, "-h", "", "-F"], stderr=subprocess.DEVNULL, **quiet
        )
        try:
            deadline = time.monotonic() + 60
            while not (folder / ".s.PGSQL.5432").exists():
                assert server.poll() is None, "the server ended"
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.05)
            yield f"postgresql://study@/postgres?host={name}"
        finally:
            server.send_signal(signal.SIGINT)  # fast shutdown
            server.wait()


def undisturbed(folder: Path, text: str) -> Path:
    """Folder with the tables of a study that this process worked off alone."""
    study = study_of(folder, text)
    queue = queue_of(study, folder)
    work_off(queue)
    write(tables(study.cells, queue.results(), queue.progress().failed, list(study.config.factors)), folder)
    return folder


def command(study: Path, folder: Path, *options: str) -> list[str]:
    script = "from optical_dfa.cli import app; app()"
    return [sys.executable, "-c", script, "study", str(study), "-o", str(folder), *options]


def assert_same_tables(one: Path, other: Path) -> None:
    for name in TABLES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_four_workers_on_postgresql_one_killed(tmp_path: Path, postgresql: str) -> None:
    """Two commands, as on two hosts, with two workers each; one worker dies by SIGKILL in the middle of a cell."""
    expected = undisturbed(tmp_path / "alone", LONGER)
    study = study_of(tmp_path, LONGER)
    queue = Queue(open_storage(postgresql), study.name, study.cells, study.config.attempts)
    options = ("--workers", "2", "--storage", postgresql)
    folders = [tmp_path / "first", tmp_path / "second"]
    commands = [subprocess.Popen(command(study.path, folder, *options), stdout=subprocess.PIPE) for folder in folders]
    killed = None
    while killed is None and any(process.poll() is None for process in commands):
        for trial in queue.study.get_trials(deepcopy=False):
            worker = trial.user_attrs.get("worker")
            if trial.state.name == "RUNNING" and worker and not is_dead(worker):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker["pid"], signal.SIGKILL)
                    killed = trial.user_attrs["cell"]
                break
        time.sleep(0.01)
    printed = [process.communicate()[0].decode() for process in commands]
    assert [process.returncode for process in commands] == [0, 0]
    assert all("10 of 10 runs complete" in text for text in printed)
    complete = [t.user_attrs["cell"] for t in queue.study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    assert sorted(complete) == sorted(queue.cells)  # one result a cell, also of the one that was lost
    assert killed in complete
    queue.close()
    for folder in folders:
        assert_same_tables(expected, folder)


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search, a study that includes it, and a second call, which has nothing to do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    text = SMALL.replace("[0.0, 100.0, 400.0]", "[0.0]").replace("seeds: [0, 1]", "seeds: [0]")
    text += (
        "tuned: found.yaml\ntune: {trials: 2, methods: [BP], space: {training.learning_rate: {low: 0.01, high: 0.1}}}\n"
    )
    Path("small.yaml").write_text(text)
    refused = CliRunner().invoke(app, ["study", "small.yaml"])
    assert (refused.exit_code, refused.stderr[:34]) == (2, "error: found.yaml: cannot be read:")
    tuned = CliRunner().invoke(app, ["tune", "small.yaml", "--workers", "1"])
    assert tuned.exit_code == 0, tuned.output
    assert "written to found.yaml" in tuned.stdout
    first = CliRunner().invoke(app, ["study", "small.yaml", "--workers", "1"])
    assert first.exit_code == 0, first.output
    assert first.stdout.splitlines()[0] == f"A small study: 3 runs, 1 workers, sqlite:///{tmp_path}/runs/small/study.db"
    assert "3 of 3 runs complete; report runs/small/report.html" in first.stdout
    logs = sorted(Path("runs/small/workers").iterdir())
    tables = {name: Path("runs/small", name).read_bytes() for name in TABLES}
    again = CliRunner().invoke(app, ["study", "small.yaml", "--workers", "1"])
    assert again.stdout == first.stdout
    assert sorted(Path("runs/small/workers").iterdir()) == logs  # nobody was needed
    assert {name: Path("runs/small", name).read_bytes() for name in TABLES} == tables
    report = CliRunner().invoke(app, ["study", "small.yaml", "--workers", "0"])
    assert report.exit_code == 0
    bad = CliRunner().invoke(app, ["study", "small.yaml", "--workers", "-1"])
    assert (bad.exit_code, bad.stderr) == (2, "error: --workers -1: must be 0 (write the report alone) or more\n")
