"""One process of the benchmark: `python -m optical_dfa.bench.child TASK SCALE` prints what it found as JSON.

A task is the name of a job, `machine` or `peak`. Each has a process of its own because OpenBLAS, Numba and the memory
allocator take their settings when they start, and because memory comes back in no other way.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from optical_dfa.bench import machine, measure, peak
from optical_dfa.bench.bars import pairs_of
from optical_dfa.bench.contenders import SEED, check_rows, contenders
from optical_dfa.bench.jobs import JOBS, Job
from optical_dfa.emulator import make_product
from optical_dfa.emulator.numba_support import why_no_product
from optical_dfa.emulator.threads import n_threads

FULL_ROWS_CHECKED = 30


def pairs(job: Job, toy: bool) -> dict[str, Any]:
    """Time the pairs of a job.

    Returns:
        `pairs`: a list of measurements, each [[cpu, wall] of the contender, [cpu, wall] of the reference], seconds a
        call, G1 brought up to all pixels of the job; `cpu`: median CPU seconds by name; `lacking`, `g1_pixels`,
        `checked_rows`: see `Contenders`.
    """
    wanted = pairs_of(job.name)
    made = contenders(job, {name for pair in wanted for name in pair})
    can = [pair for pair in wanted if not set(pair) & set(made.lacking)]
    for call in made.calls.values():
        call()
    timings = measure.timed_pairs(made.calls, can, *((0.0, measure.FEWEST) if toy else ()))
    whole = {name: job.n_pixels / made.g1_pixels if name == "g1" else 1.0 for name in made.calls}
    found: dict[str, Any] = {"/".join(pair): [] for pair in can}
    seconds: dict[str, list[float]] = {}
    for pair, measurements in timings.items():
        for measurement in measurements:
            times = [
                [timing.cpu * whole[name], timing.wall * whole[name]]
                for name, timing in zip(pair, measurement, strict=True)
            ]
            found["/".join(pair)].append(times)
            for name, (cpu, _) in zip(pair, times, strict=True):
                seconds.setdefault(name, []).append(cpu)
    if "g1" not in seconds:  # all that would have stood beside it is lacking
        timings_alone = [measure.timed(made.calls["g1"], 0.0) for _ in range(measure.FEWEST)]
        seconds["g1"] = [timing.cpu * whole["g1"] for timing in timings_alone]
    return {
        "pairs": found,
        "cpu": {name: float(np.median(values)) for name, values in seconds.items()},
        "lacking": made.lacking,
        "g1_pixels": made.g1_pixels,
        "checked_rows": made.checked_rows,
    }


def memory(job: Job) -> dict[str, Any]:
    """Bytes that a product needed at its peak beyond input and output, all code loaded before."""
    if reason := why_no_product():
        return {"lacking": reason}
    if machine.reset_peak_bytes() is None:
        return {"lacking": "the peak of resident memory cannot be read here (it needs Linux)"}
    make_product(1000, 1000, SEED, backend="numba")(np.ones((job.batch, 1000), np.int8))
    product = make_product(job.n_in, 2 * job.n_pixels, SEED, backend="numba")
    vectors = np.random.default_rng(SEED).integers(-1, 2, (job.batch, job.n_in), np.int8)
    before = machine.reset_peak_bytes()
    fields = product(vectors)
    after = machine.peak_bytes()
    assert before is not None
    assert after is not None
    checked = check_rows(fields, vectors, SEED, 2)
    return {"bytes": max(0, after - before - fields.nbytes), "checked_rows": checked}


def first_call(job: Job) -> dict[str, Any]:
    """CPU and wall time of the first product, Numba's import included; Numba's cache is where the parent put it."""
    generator = np.random.default_rng(SEED)
    vectors = generator.integers(-1, 2, (job.batch, job.n_in), np.int8)
    cpu, wall = time.process_time(), time.perf_counter()
    if reason := why_no_product():
        return {"lacking": reason}
    fields = make_product(job.n_in, 2 * job.n_pixels, SEED, backend="numba")(vectors)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu": cpu, "wall": wall, "checked_rows": check_rows(fields, vectors, SEED, 2)}


def import_all() -> dict[str, Any]:
    """CPU and wall time to import what optical_dfa offers, torch being there."""
    import torch  # noqa: F401

    cpu, wall = time.process_time(), time.perf_counter()
    import optical_dfa
    import optical_dfa.training

    for name in optical_dfa.__all__:
        getattr(optical_dfa, name)
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def full(job: Job) -> dict[str, Any]:
    """Wall and CPU time of one product on all cores, random rows compared with the reference."""
    if reason := why_no_product():
        return {"lacking": reason}
    vectors = np.random.default_rng(SEED).integers(-1, 2, (job.batch, job.n_in), np.int8)
    make_product(1000, 1000, SEED, backend="numba")(vectors[:2, :1000].repeat(-(-1000 // job.n_in), axis=1)[:, :1000])
    product = make_product(job.n_in, 2 * job.n_pixels, SEED, backend="numba")
    cpu, wall = time.process_time(), time.perf_counter()
    fields = product(vectors)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    checked = check_rows(fields, vectors, SEED, FULL_ROWS_CHECKED)
    return {"cpu": cpu, "wall": wall, "checked_rows": checked, "threads": n_threads()}


def main(task: str, scale: float) -> dict[str, Any]:
    """What the task found, as JSON values."""
    toy = scale != 1
    if task == "machine":
        return machine.numerics()
    if task == "peak":
        return peak.peaks(toy)
    job = JOBS[task].scaled(scale)
    if job.kind == "pairs":
        return pairs(job, toy)
    return {"memory": lambda: memory(job), "start": lambda: first_call(job), "full": lambda: full(job)}.get(
        job.kind, import_all
    )()


if __name__ == "__main__":
    result = main(sys.argv[1], float(sys.argv[2]))
    Path(sys.argv[3]).write_text(json.dumps(result))  # not stdout: a contender may print what it likes
