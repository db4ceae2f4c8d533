"""The CUDA kernels, compiled for the host, against the definition; compiled for GPUs, that they compile."""

import re
from types import SimpleNamespace
from typing import Any

import host_kernels
import numpy as np
import nvrtc
import pytest

from optical_dfa.emulator import matrix, normals, reference
from optical_dfa.emulator.cupy_kernels import BLOCK_ROWS, OPTIONS, SOURCE

KERNELS = {
    *("generate", "pack", "count_foreign", "finish_integers", "finish_fields"),
    *("expose_8", "expose_16", "demodulate_8", "demodulate_16", "combine"),
}
GUARD = 0x5A


def launch(name: str, grid: tuple[int, ...], threads: int, *arguments: Any) -> None:
    """NumPy arrays are passed by their address."""
    values = [
        SimpleNamespace(dtype=a.dtype, data=SimpleNamespace(ptr=a.ctypes.data)) if isinstance(a, np.ndarray) else a
        for a in arguments
    ]
    host_kernels.launch(name, grid, threads, host_kernels.checked(name, tuple(values)))


def aligned(size: int) -> Any:
    """int8, aligned as CuPy's memory is, with a guard behind it."""
    room = np.full(size + 1024, GUARD, np.int8)
    start = -room.ctypes.data % 512
    return room[start : start + size + 64]


@pytest.mark.parametrize("architecture", ["compute_61", "compute_80", "compute_90"])
def test_nvrtc_compiles_every_kernel(architecture: str) -> None:
    options = (f"--gpu-architecture={architecture}", *OPTIONS)
    ptx, log = nvrtc.compile_to_ptx(SOURCE.read_text(encoding="utf-8"), options)
    assert log == ""
    assert set(re.findall(r"\.entry (\w+)\(", ptx)) == KERNELS == set(host_kernels.signatures())
    assert f".target sm_{architecture.removeprefix('compute_')}" in ptx


def test_a_fault_in_a_kernel_is_seen() -> None:
    with pytest.raises(AssertionError, match='identifier "undeclared" is undefined'):
        nvrtc.compile_to_ptx('extern "C" __global__ void k(int *x) { *x = undeclared; }', OPTIONS)


def test_constants_are_those_of_the_definition() -> None:
    found = dict(re.findall(r"#define (\w+) (\d+)u?\b", SOURCE.read_text(encoding="utf-8")))
    assert int(found["TILE_ROWS"]) == matrix.TILE_ROWS
    assert int(found["TILE_COLUMNS"]) == matrix.TILE_COLUMNS
    assert int(found["TILE_WORDS"]) == matrix.WORDS_PER_TILE_ROW
    assert int(found["BLOCK_ROWS"]) == BLOCK_ROWS


def test_constants_of_the_normal_numbers_are_those_of_numpy() -> None:
    """Images show them only to a part in 4095: the literals are compared, as float32, in the order of the formulas."""
    source = SOURCE.read_text(encoding="utf-8")
    body = source[source.index("DEVICE float standard_normal") :].split("\n}\n")[0]
    found = [np.float32(literal) for literal in re.findall(r"-?\d+\.?\d*(?:e[+-]\d+)?(?=f\b)", body)]
    cell = [2.0**-23, 2.0**-24, 1.0]
    centre = [normals.TAIL, normals.CENTRE_ORIGIN, *normals.CENTRE_POLYNOMIAL]
    tail = [normals.TAIL_ORIGIN, *normals.TAIL_POLYNOMIAL]
    assert found == [np.float32(value) for value in cell + centre + tail]
    two_thirds = int(re.findall(r"bits - (0x\w+?)u\)", source)[0], 16)
    assert np.uint32(two_thirds).view(np.float32) == np.float32(2 / 3)


@pytest.mark.parametrize("seed", [0, 1, (1 << 32) - 1, 1 << 32, (1 << 64) - 1])
@pytest.mark.parametrize(
    ("first_row", "n_rows", "first_column", "n_columns"),
    [
        (0, 1, 0, 16),
        (0, 129, 0, 1024),
        (128, 400, 1024, 1040),
        (512, 16, 3072, 2064),
        ((1 << 31) - 128, 128, (1 << 24) - 1024, 1024),  # the last tile of the definition
    ],
)
@pytest.mark.parametrize("threads", [64, 512])
def test_generate(seed: int, first_row: int, n_rows: int, first_column: int, n_columns: int, threads: int) -> None:
    slab = aligned(n_rows * n_columns)
    grid = (-(-n_rows // BLOCK_ROWS), -(-n_columns // matrix.TILE_COLUMNS))
    place = [np.uint32(value) for value in (first_row, n_rows, first_column, n_columns)]
    launch("generate", grid, threads, slab, matrix.TABLE, np.uint64(seed), *place)
    rows, columns = first_row + np.arange(n_rows)[:, None], first_column + np.arange(n_columns)
    np.testing.assert_array_equal(slab[:-64].reshape(n_rows, n_columns), reference.entries(seed, rows, columns))
    assert (slab[-64:] == GUARD).all()


@pytest.mark.parametrize("blocks", [1, 7])
@pytest.mark.parametrize(("batch", "n_inputs"), [(1, 1), (3, 15), (5, 16), (33, 17), (32, 1000)])
def test_pack(batch: int, n_inputs: int, blocks: int) -> None:
    vectors = np.random.default_rng(n_inputs).integers(-1, 2, (batch, n_inputs), np.int8)
    n_rows, width = -(-batch // 32) * 32, -(-n_inputs // 16) * 16
    packed = aligned(n_rows * width)
    launch("pack", (blocks,), 64, packed, vectors, *(np.uint32(n) for n in (batch, n_inputs, n_rows, width)))
    expected = np.zeros((n_rows, width), np.int8)
    expected[:batch, :n_inputs] = vectors
    np.testing.assert_array_equal(packed[:-64].reshape(n_rows, width), expected)
    assert (packed[-64:] == GUARD).all()


@pytest.mark.parametrize("blocks", [1, 3])
def test_count_foreign(blocks: int) -> None:
    every = np.arange(-128, 128).astype(np.int8)
    count = np.array([5], np.uint64)
    launch("count_foreign", (blocks,), 32, count, every, np.uint64(256))
    assert count[0] == 5 + 253
    launch("count_foreign", (blocks,), 32, count, np.array([-1, 0, 1], np.int8), np.uint64(3))
    assert count[0] == 258


def test_finish() -> None:
    """Every int32 that a field can be, near enough: the float32 is that of NumPy, padding is left out."""
    sums = np.random.default_rng(0).integers(-(1 << 31), 1 << 31, (3, 304)).astype(np.int32)
    sums[0, :8] = [0, 1, -1, 1 << 24, (1 << 24) + 1, (1 << 24) + 3, 127 << 24, -(127 << 24)]
    sizes = (np.uint32(300), np.uint32(304), np.uint64(400))
    integers, fields = np.full((3, 400), 7, np.int32), np.full((3, 400), 7, np.float32)
    launch("finish_integers", (2, 3), 256, integers, sums, *sizes)
    launch("finish_fields", (2, 3), 256, fields, sums, *sizes, matrix.UNIT)
    np.testing.assert_array_equal(integers[:, :300], sums[:, :300])
    np.testing.assert_array_equal(fields[:, :300], sums[:, :300].astype(np.float32) * matrix.UNIT)
    assert (integers[:, 300:] == 7).all()
    assert (fields[:, 300:] == 7).all()
