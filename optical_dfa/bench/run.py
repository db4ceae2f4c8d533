"""The whole benchmark: one process a job and setting, one after the other, and the report of what they found."""

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optical_dfa
from optical_dfa.bench import machine, peers
from optical_dfa.bench.jobs import JOBS, SETTINGS, Job
from optical_dfa.bench.report import SCHEMA, Numerics, Peak, Report, Row
from optical_dfa.bench.rows import Conditions, rows_of
from optical_dfa.devices.faults import nearest
from optical_dfa.run_errors import InputError

SMALLEST_SCALE, LARGEST_SCALE = 0.001, 1.0


@dataclass(frozen=True)
class Options:
    """What to measure, as the command takes it."""

    jobs: tuple[str, ...] = ()
    """Names; none: all but `full`."""
    scale: float = 1.0
    """Factor on all sizes."""
    threads: int = 1
    full: bool = False
    """Measure `full` too."""
    out: Path | None = None

    def check(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            InputError: what was given, what is accepted.
        """
        for name in self.jobs:
            if name not in JOBS:
                raise InputError(f"--jobs {name}: unknown job.{nearest(name, JOBS)} Known: {', '.join(JOBS)}")
        if not SMALLEST_SCALE <= self.scale <= LARGEST_SCALE:
            raise InputError(f"--scale {self.scale:g}: must be from {SMALLEST_SCALE:g} to {LARGEST_SCALE:g}")
        cores = machine.describe().cores
        if not 1 <= self.threads <= cores:
            raise InputError(f"--threads {self.threads}: must be from 1 to {cores}, the cores of this process")
        if self.out and self.out.exists() and not self.out.is_dir():
            raise InputError(f"-o {self.out}: is a file: give a folder")

    @property
    def command(self) -> str:
        """The command line that asks for this."""
        words = ["optical-dfa", "bench", *(word for name in self.jobs for word in ("--jobs", name))]
        words += ["--scale", f"{self.scale:g}"] if self.scale != 1 else []
        words += ["--threads", str(self.threads)] if self.threads != 1 else []
        words += ["--full"] if self.full else []
        words += ["-o", str(self.out)] if self.out else []
        return shlex.join(words)


def run(options: Options, tell: Callable[[str], None] = lambda _: None) -> Report:
    """Measure.

    Args:
        options: what.
        tell: called with what is measured next.

    Raises:
        InputError: the options are not accepted; nothing was measured.
        ChildProcessError: a process failed: a wrong result, or not enough memory.
    """
    options.check()
    start, date, load = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds"), machine.load()
    here = machine.describe()
    tell("hardware limits")
    found = {name: _child("machine", options, setting=name) for name in SETTINGS}
    gmacs = _child("peak", options)["gmacs"]
    peak = Peak(gmacs["vpdpbusd 512"], gmacs["fma 512"], gmacs["fma 256"])
    numerics = Numerics(
        numpy=found["unset"]["numpy"],
        numba=found["unset"]["numba"],
        blas=found["unset"]["blas"],
        blas_core={name: values["blas_core"] for name, values in found.items()},
    )
    chosen = options.jobs or tuple(name for name in JOBS if name != "full")
    rows: list[Row] = []
    for job in JOBS.values():
        if job.name not in chosen and not (job.name == "full" and options.full):
            # a bar that nobody asked about stays in sight
            if not options.jobs:
                left_out = {"lacking": "takes over ten minutes: --full"}
                rows += rows_of(job.name, left_out, _conditions(job, "any", options))
            continue
        for setting in job.settings:
            tell(f"{job.name}, {setting}" if setting != "any" else job.name)
            rows += rows_of(job.name, _measured(job, setting, options), _conditions(job, setting, options, peak))
    return Report(
        schema=SCHEMA,
        command=options.command,
        optical_dfa=optical_dfa.__version__,
        date=date,
        seconds=round(time.perf_counter() - start, 1),
        scale=options.scale,
        threads=options.threads,
        load=[load, machine.load()],
        machine=here,
        numerics=numerics,
        peak=peak,
        rows=rows,
    )


def _conditions(job: Job, setting: str, options: Options, peak: Peak | None = None) -> Conditions:
    return Conditions(setting, options.scale, _threads(job, options), peak.vpdpbusd_512 if peak else None)


def _threads(job: Job, options: Options) -> int:
    return machine.describe().cores if job.kind == "full" else options.threads


def _measured(job: Job, setting: str, options: Options) -> dict[str, Any]:
    """What the process of a job found; `lacking` if it needs what is not installed."""
    if job.needs_peer and (reason := peers.lacking()):
        return {"lacking": reason}
    if job.kind == "import" and not _has_torch():
        return {"lacking": "torch is not installed here"}
    if job.kind == "start":
        with tempfile.TemporaryDirectory() as cache:
            return {name: _child(job.name, options, cache=cache) for name in ("first-call", "cached-call")}
    return _child(job.name, options, setting=setting, threads=_threads(job, options))


def _has_torch() -> bool:
    from importlib.util import find_spec

    return find_spec("torch") is not None


def _child(
    task: str,
    options: Options,
    *,
    setting: str = "unset",
    threads: int | None = None,
    cache: str | None = None,
) -> dict[str, Any]:
    """Run one process to its end; what it found.

    Raises:
        ChildProcessError: it failed, or was killed.
    """
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    environment |= dict.fromkeys(machine.THREAD_VARIABLES, str(threads or options.threads))
    if core := SETTINGS.get(setting):
        environment["OPENBLAS_CORETYPE"] = core
    if cache:
        environment["NUMBA_CACHE_DIR"] = cache
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        program = [sys.executable, "-m", "optical_dfa.bench.child"]
        done = subprocess.run(
            [*program, task, str(options.scale), str(answer)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == -signal.SIGKILL:
            raise ChildProcessError(
                f"job {task}: its process was killed, most likely for want of memory: name the other jobs with --jobs"
            )
        if done.returncode:
            said = done.stderr.strip() or done.stdout.strip() or f"it said nothing, and ended with {done.returncode}"
            raise ChildProcessError(f"job {task}: its process failed: {said}")
        result: dict[str, Any] = json.loads(answer.read_text())
    return result
