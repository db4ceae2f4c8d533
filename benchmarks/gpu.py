"""The exact product on a GPU against cuBLAS' complex64 product of the same shape; a Markdown table.

    python benchmarks/gpu.py               # some minutes; full size needs 9 GB of GPU memory
    python benchmarks/gpu.py --scale 0.01  # small, to see that it runs

A job is (n_in, n_pixels, batch). `complex64` is one product of (batch, n_in) and (n_in, n_pixels), the matrix stored.
The exact complex field has two outputs a pixel: one int8 product with twice the columns, inputs and outputs on the GPU.
Ratios are taken pair by pair in one run; the table gives their median. Random rows of every result are compared with
the reference.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from optical_dfa.emulator import CupyProduct, reference
from optical_dfa.emulator.cupy_kernels import kernels

JOBS = {
    "tiny": (10, 2048, 128),
    "mid": (1000, 10_000, 256),
    "large": (4096, 65_536, 256),
    "wide": (50_257, 4096, 512),
    "square": (65_536, 65_536, 64),
}
FULL = (1_000_000, 2_000_000, 256)
CHECKED_ROWS = 20
ROUNDS = 15
SECONDS = 0.05
"""Least time of one measurement."""
BARS = {"stored": "≤ .15, aim .06", "full": "≤ 10 s, aim 5 s"}


def seconds(cupy: Any, call: Callable[[], Any], least: float) -> float:
    """Wall time of one call, from as many as fill `least`; the GPU is idle before and after."""
    stream = cupy.cuda.get_current_stream()
    stream.synchronize()
    calls, start, spent = 0, time.perf_counter(), 0.0
    while spent < least or not calls:
        call()
        calls += 1
        if calls & (calls - 1) == 0:  # look at the clock after 1, 2, 4 … calls only: looking waits for the GPU
            stream.synchronize()
            spent = time.perf_counter() - start
    stream.synchronize()
    return (time.perf_counter() - start) / calls


def check(vectors: np.ndarray[Any, Any], fields: Any, seed: int) -> None:
    """Stop unless random rows of T give these integers."""
    n_in, n_out = vectors.shape[1], fields.shape[1]
    for row in np.random.default_rng(1).integers(0, n_out, CHECKED_ROWS):
        entries = reference.entries(seed, int(row), np.arange(n_in)).astype(np.int64)
        if not np.array_equal(fields[:, int(row)].get(), vectors.astype(np.int64) @ entries):
            raise SystemExit(f"row {row} of {n_in:,} x {n_out:,} differs from the reference")


def ternary(batch: int, n_in: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(-1, 2, (batch, n_in), np.int8)


def measure(cupy: Any, job: tuple[int, int, int]) -> tuple[float, dict[str, float]] | None:
    """Seconds of the complex64 product, and ratios to it; None if its matrix is too large for this GPU."""
    n_in, n_pixels, batch = job
    if 8 * n_in * n_pixels + 2 * n_in * n_pixels > 0.8 * cupy.cuda.Device().mem_info[0]:
        return None
    host = ternary(batch, n_in)
    vectors, real = cupy.asarray(host), cupy.asarray(host.astype(np.complex64))
    matrix = cupy.empty((n_in, n_pixels), np.complex64)
    matrix.fill(0.5)  # the time does not depend on the values; constant ones favour complex64, if anything (less power)
    products = {
        "stored": CupyProduct(n_in, 2 * n_pixels, 0, 2 * (n_in + 16) * (n_pixels + 16)),
        "made anew": CupyProduct(n_in, 2 * n_pixels, 0, 0),
    }
    for product in products.values():
        check(host, product(vectors), 0)  # compiles, or makes the stored matrix
    real @ matrix
    gemm: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in products}
    for _ in range(ROUNDS):
        for name, product in products.items():
            gemm.append(seconds(cupy, lambda: real @ matrix, SECONDS))
            ratios[name].append(seconds(cupy, lambda product=product: product(vectors), SECONDS) / gemm[-1])  # type: ignore[misc]
    return statistics.median(gemm), {name: statistics.median(values) for name, values in ratios.items()}


def full_size(cupy: Any, job: tuple[int, int, int]) -> float:
    n_in, n_pixels, batch = job
    host = ternary(batch, n_in)
    vectors, product = cupy.asarray(host), CupyProduct(n_in, 2 * n_pixels, 1, 0)
    kept = [None]
    CupyProduct(1024, 1024, 1, 0)(vectors[:, :1024] if n_in >= 1024 else cupy.zeros((1, 1024), np.int8))  # compiles

    def call() -> None:
        kept[0] = product(vectors)

    spent = seconds(cupy, call, 0)
    check(host, kept[0], 1)
    return spent


def generation_rate(cupy: Any, rows: int) -> float:
    """Entries of T made in a second."""
    slab, table = cupy.empty(rows * 65_536, np.int8), kernels().table()
    kernels().generate(slab, table, 0, 0, rows, 0, 65_536)
    return rows * 65_536 / seconds(cupy, lambda: kernels().generate(slab, table, 0, 0, rows, 0, 65_536), SECONDS)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=[*JOBS, "full"], default=[*JOBS, "full"])
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all sizes")
    options = parser.parse_args(arguments)
    try:
        CupyProduct(1, 1, 0)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    import cupy

    def scaled(job: tuple[int, int, int]) -> tuple[int, int, int]:
        n_in, n_pixels, batch = (max(1, round(size * options.scale)) for size in job)
        return n_in, n_pixels, batch

    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())["name"].decode()
    print(f"{name}, CuPy {cupy.__version__}, CUDA runtime {cupy.cuda.runtime.runtimeGetVersion()}\n")
    print("| job | n_in, n_pixels, batch | complex64, ms | int8 stored / complex64 | int8 made anew / complex64 |")
    print("|---|---|---:|---:|---:|")
    for job in options.jobs:
        if job == "full":
            continue
        found = measure(cupy, scaled(JOBS[job]))
        if found is None:
            print(f"| {job} | {scaled(JOBS[job])} | too large for this GPU | – | – |", flush=True)
        else:
            gemm, ratios = found
            cells = f"{1e3 * gemm:.3g} | {ratios['stored']:.3g} | {ratios['made anew']:.3g}"
            print(f"| {job} | {scaled(JOBS[job])} | {cells} |", flush=True)
    print(f"\nBar of int8 stored / complex64: {BARS['stored']}.")
    print(f"T made anew: {generation_rate(cupy, max(1, round(16_384 * options.scale))):.3g} entries a second.")
    if "full" in options.jobs:
        spent = full_size(cupy, scaled(FULL))
        print(f"Full size {scaled(FULL)}, T made anew: {spent:.3g} s; bar {BARS['full']}.")
    print("Random rows of every result equal the reference.")


if __name__ == "__main__":
    main()
