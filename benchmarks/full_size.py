"""The full product, 10^6 inputs to 2·10^6 pixels at batch 64, once; random rows are checked against the reference.

python benchmarks/full_size.py     # over ten minutes on two cores, 1.3 GB
"""

import time

import numpy as np

from optical_dfa.emulator import NumbaProduct, reference

N_IN, N_OUT, BATCH, CHECKED_ROWS = 10**6, 4 * 10**6, 64, 30


def main() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.integers(-1, 2, (BATCH, N_IN), np.int8)
    NumbaProduct(1000, 1000, 1)(vectors[:2, :1000])  # compiles
    product = NumbaProduct(N_IN, N_OUT, 1)
    wall, cpu = time.perf_counter(), time.process_time()
    fields = product(vectors)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{wall:.0f} s, {BATCH * N_IN * N_OUT / cpu / 1e9:.0f} GMAC/s a core")
    for row in generator.integers(0, N_OUT, CHECKED_ROWS):
        entries = reference.entries(1, int(row), np.arange(N_IN)).astype(np.int64)
        np.testing.assert_array_equal(fields[:, row], vectors.astype(np.int64) @ entries)
    print(f"{CHECKED_ROWS} random rows equal the reference")


if __name__ == "__main__":
    main()
