"""The exact product against one float32 GEMM of the same shape, as ratios of process CPU time.

    python benchmarks/product.py                 # all jobs, one thread, a few minutes
    python benchmarks/product.py --jobs tiny one # some of them
    python benchmarks/product.py --scale 0.1     # small, to see that it runs

A job is (n_in, n_pixels, batch). G1 is NumPy's float32 product of (batch, n_in) and (n_in, n_pixels), the matrix
stored; the exact product has two outputs a pixel, hence twice the multiplications. Ratios are taken pair by pair, G1
beside a product, and the table gives their median. OpenBLAS is measured twice, each time in a process of its own: held
at AVX2 (OPENBLAS_CORETYPE=Haswell), and as it chooses for the CPU (unset).
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

JOBS = {
    "feedback": (10, 256, 128),
    "tiny": (10, 2048, 128),
    "mid": (1000, 10_000, 256),
    "large": (4096, 16_384, 256),
    "batch-64": (16_384, 8192, 64),
    "one": (8192, 8192, 1),
    "sparse": (8192, 8192, 1),  # as `one`, 5 % of the inputs lit
}
STORED_BYTES = 1 << 28
"""NumPy's stored product is measured up to here."""
SETTINGS = {"Haswell": "Haswell", "unset": None}


def cpu_seconds(call: Callable[[], object], seconds: float) -> float:
    """CPU time of one call, from as many as fill `seconds`."""
    calls, start = 0, time.process_time()
    while (spent := time.process_time() - start) < seconds or not calls:
        call()
        calls += 1
    return spent / calls


def measure(job: str, scale: float) -> dict[str, float | None]:
    """GMAC/s of G1, and ratios to it."""
    import numpy as np

    from optical_dfa.emulator import NumbaProduct, NumpyProduct

    n_in, n_pixels, batch = (max(1, round(size * scale)) for size in JOBS[job])
    generator = np.random.default_rng(0)
    vectors = generator.integers(0, 2, (batch, n_in), np.int8) * 2 - 1
    if job == "sparse":
        vectors[:, generator.random(n_in) >= 0.05] = 0
    real, matrix = vectors.astype(np.float32), generator.standard_normal((n_in, n_pixels), np.float32)

    calls: dict[str, Callable[[], object]] = {}
    procedural = NumbaProduct(n_in, 2 * n_pixels, 0)
    calls["numba"] = lambda: procedural(vectors)
    if 2 * n_in * n_pixels <= STORED_BYTES:
        stored = NumpyProduct(n_in, 2 * n_pixels, 0)
        calls["numpy"] = lambda: stored(vectors)
        if not np.array_equal(stored(vectors), procedural(vectors)):
            raise SystemExit(f"{job}: the two products differ")
    for call in calls.values():
        call()  # compiles, or makes the stored matrix
    seconds, rounds = (0.02, 15) if scale == 1 else (0.0, 3)
    ratios: dict[str, list[float]] = {name: [] for name in calls}
    gemm = []
    for _ in range(rounds):
        for name, call in calls.items():
            gemm.append(cpu_seconds(lambda: real @ matrix, seconds))
            ratios[name].append(cpu_seconds(call, seconds) / gemm[-1])
    found: dict[str, float | None] = {name: statistics.median(values) for name, values in ratios.items()}
    return {"g1": n_in * n_pixels * batch / statistics.median(gemm) / 1e9, "numpy": None} | found


def child(jobs: list[str], scale: float, core: str | None) -> dict[str, dict[str, float | None]]:
    """Measure in a process of its own: OpenBLAS reads its settings when it is loaded."""
    environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_CORETYPE"}
    environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPTICAL_DFA_THREADS": "1"}
    if core:
        environment["OPENBLAS_CORETYPE"] = core
    command = [sys.executable, __file__, "--child", "--scale", str(scale), "--jobs", *jobs]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    results: dict[str, dict[str, float | None]] = json.loads(done.stdout)
    return results


def cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all sizes")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps({job: measure(job, options.scale) for job in options.jobs}))
        return

    print(f"{cpu_model()}; one thread (OPENBLAS_NUM_THREADS=1, OPTICAL_DFA_THREADS=1)\n")
    columns = ("OPENBLAS_CORETYPE", "job", "n_in, n_pixels, batch", "G1, GMAC/s", "numba procedural / G1")
    print(f"| {' | '.join(columns)} | numpy stored / G1 |\n|---|---|---|---:|---:|---:|")
    for setting, core in SETTINGS.items():
        for job, result in child(options.jobs, options.scale, core).items():
            g1, numba, numpy = (
                "–" if (value := result[name]) is None else f"{value:.3g}" for name in ("g1", "numba", "numpy")
            )
            print(f"| {setting} | {job} | {JOBS[job]} | {g1} | {numba} | {numpy} |", flush=True)


if __name__ == "__main__":
    main()
