"""Battery of randomness tests on the raw words of the transmission matrix and of the camera noise.

    python benchmarks/matrix_battery.py run -o docs/decisions/0001-battery.json     # all streams, hours
    python benchmarks/matrix_battery.py run --stream inputs --seed 5                # one of them
    python benchmarks/matrix_battery.py summary docs/decisions/0001-battery.json    # the record as a table
    python benchmarks/matrix_battery.py emit inputs 5 | dieharder -a -g 200         # by hand

Needs Debian's `dieharder`. Each stream is endless and orders the same words differently, so that neighbours of one
kind stand next to each other: along inputs, along outputs, across adjacent tiles, across adjacent seeds, across the
pixels of a frame, and at one pixel across frames. Pass: no p-value below 1e-6. A result that dieharder calls WEAK or
FAILED is repeated on three fresh seeds, and every p-value is kept in the record.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.hashing import derive_key, hash_words
from optical_dfa.emulator.matrix import TILE_ROWS, WORDS_PER_TILE_ROW, tile_key

Words = npt.NDArray[np.uint32]
BLOCKS = np.arange(4096, dtype=np.uint64)[:, None]  # 4096 tiles of 256 words: 4 MB a chunk
LOCAL = np.arange(256, dtype=np.uint32)
ENOUGH = 1 << 20
P_FAIL = 1e-6

# dieharder's own numbers and n-tuples of `-a`; of the 33 lags of rgb_lagged_sum, the six that end on a power of two
# (the other 27 take four fifths of the time of `-a` and repeat the same statistic).
TESTS = [(d, 0) for d in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17, 100, 101)]
TESTS += [(102, 0)] + [(200, n) for n in range(1, 13)] + [(201, n) for n in range(2, 6)]
TESTS += [(202, n) for n in range(2, 6)] + [(203, n) for n in (0, 1, 3, 7, 15, 31)]
TESTS += [(204, 0), (205, 0), (206, 0), (207, 0), (208, 0), (209, 0)]


def along_inputs(seed: int) -> Iterator[Words]:
    for o in range(ENOUGH):
        yield hash_words(np.uint32(256 * (o % TILE_ROWS)) + LOCAL, tile_key(seed, o // TILE_ROWS, BLOCKS))


def along_outputs(seed: int) -> Iterator[Words]:
    for k4 in range(ENOUGH):
        counters = np.uint32(k4 % WORDS_PER_TILE_ROW) + np.uint32(256) * LOCAL
        yield hash_words(counters, tile_key(seed, BLOCKS, k4 // WORDS_PER_TILE_ROW))


def across_tiles(seed: int) -> Iterator[Words]:
    """One position, tiles (r, 0), (r, 1) … (r, 1023), (r + 1, 0) …"""
    columns = np.arange(1024, dtype=np.uint64)[None, :]
    for first in range(0, ENOUGH * 64, 64):
        rows = np.arange(first, first + 64, dtype=np.uint64)[:, None]
        yield hash_words(np.zeros(1, np.uint32), tile_key(seed, rows, columns))


def across_seeds(seed: int) -> Iterator[Words]:
    """The first word of the matrices of seeds s, s + 1, s + 2 …"""
    start = seed << 40
    for first in range(start, start + (ENOUGH << 16), 1 << 16):
        seeds = np.arange(first, first + (1 << 16), dtype=np.uint64)
        yield hash_words(np.zeros(1, np.uint32), derive_key(seeds, 0, 0))


def across_pixels(seed: int) -> Iterator[Words]:
    pixels = np.arange(1 << 20, dtype=np.uint32)
    for frame in range(ENOUGH):
        yield hash_words(pixels, derive_key(seed, 0, frame))


def across_frames(seed: int) -> Iterator[Words]:
    for first in range(0, ENOUGH << 16, 1 << 16):
        frames = np.arange(first, first + (1 << 16), dtype=np.uint64)
        yield hash_words(np.zeros(1, np.uint32), derive_key(seed, 0, frames))


STREAMS: dict[str, Callable[[int], Iterator[Words]]] = {
    "inputs": along_inputs,
    "outputs": along_outputs,
    "tiles": across_tiles,
    "seeds": across_seeds,
    "pixels": across_pixels,
    "frames": across_frames,
}


def emit(stream: str, seed: int) -> None:
    """Write the endless stream to standard output."""
    try:
        for chunk in STREAMS[stream](seed):
            sys.stdout.buffer.write(np.ascontiguousarray(chunk).data)
    except BrokenPipeError:
        sys.stdout = None  # type: ignore[assignment]  # the reader has seen enough: no message at exit


def dieharder(stream: str, seed: int, test: int, ntuple: int) -> list[dict[str, object]]:
    """Run one test of dieharder on a stream; its rows as test name, ntuple, p-value, assessment."""
    source = subprocess.Popen([sys.executable, __file__, "emit", stream, str(seed)], stdout=subprocess.PIPE)
    command = ["dieharder", "-g", "200", "-d", str(test), *(["-n", str(ntuple)] if ntuple else [])]
    text = subprocess.run(command, stdin=source.stdout, capture_output=True, text=True, check=True).stdout
    source.kill()
    source.wait()
    rows = re.findall(r"^\s*(\w+)\|\s*(\d+)\|\s*\d+\|\s*\d+\|([\d.]+)\|\s*(\w+)\s*$", text, re.M)
    if not rows:
        raise RuntimeError(f"no result in the output of {' '.join(command)}:\n{text}")
    return [
        {"stream": stream, "seed": seed, "test": name, "ntuple": int(n), "p": float(p), "assessment": verdict}
        for name, n, p, verdict in rows
    ]


def run(streams: list[str], seed: int, output: Path | None) -> int:
    """Run the battery on `streams`; returns the number of p-values that fail."""
    results: list[dict[str, object]] = []
    start = time.time()
    for stream in streams:
        for test, ntuple in TESTS:
            rows = dieharder(stream, seed, test, ntuple)
            if any(row["assessment"] != "PASSED" for row in rows):
                for fresh in (seed + 1000, seed + 2000, seed + 3000):
                    rows += dieharder(stream, fresh, test, ntuple)
            for row in rows:
                print(f"{time.time() - start:7.0f} s  {row}", flush=True)
            results += rows
            if output:
                output.write_text(json.dumps(results, indent=0) + "\n")
    # dieharder prints p rounded to 8 digits; a p next to 1 is as suspect as one next to 0
    failed = [row for row in results if not P_FAIL <= float(str(row["p"])) <= 1 - P_FAIL]
    print(f"{len(results)} p-values, {len(failed)} beyond {P_FAIL:g}: {failed}")
    return len(failed)


def summary(record: Path) -> None:
    """Print a Markdown table of a record: p-values, smallest and largest, and what was called WEAK or FAILED."""
    rows = json.loads(record.read_text())
    print("| stream | p-values | smallest | largest | first run not PASSED | of them PASSED on fresh seeds |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for stream in STREAMS:
        mine = [row for row in rows if row["stream"] == stream]
        first_seed = min(row["seed"] for row in mine)
        suspects = [row for row in mine if row["seed"] == first_seed and row["assessment"] != "PASSED"]
        cleared = 0
        for suspect in suspects:
            name = (suspect["test"], suspect["ntuple"])
            repeats = [row for row in mine if (row["test"], row["ntuple"]) == name and row["seed"] != first_seed]
            cleared += all(row["assessment"] == "PASSED" for row in repeats)
        p = [row["p"] for row in mine]
        print(f"| {stream} | {len(p)} | {min(p):.6f} | {max(p):.6f} | {len(suspects)} | {cleared} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    emitting = commands.add_parser("emit")
    emitting.add_argument("stream", choices=STREAMS)
    emitting.add_argument("seed", type=int)
    running = commands.add_parser("run")
    running.add_argument("--stream", choices=STREAMS, action="append")
    running.add_argument("--seed", type=int, default=1)
    running.add_argument("-o", "--output", type=Path)
    commands.add_parser("summary").add_argument("record", type=Path)
    args = parser.parse_args()
    if args.command == "emit":
        emit(args.stream, args.seed)
    elif args.command == "summary":
        summary(args.record)
    else:
        sys.exit(run(args.stream or list(STREAMS), args.seed, args.output) > 0)


if __name__ == "__main__":
    main()
