"""Launches of the kernels in `cuda_kernels.cu`: arguments of the right C types, grids of the right size.

Everything is enqueued on CuPy's current stream and nothing waits, except where it says so. Importing this does not
import CuPy; NVRTC compiles at the first launch, and CuPy keeps the result on disk.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.matrix import TABLE, TILE_COLUMNS, UNIT

SOURCE = Path(__file__).with_name("cuda_kernels.cu")
OPTIONS = ("--std=c++14", "--fmad=false")
"""No multiplication and addition in one rounding unless the source says so: the camera's images depend on it."""

BLOCK_ROWS = 128
"""Rows of T that one block of `generate` makes (BLOCK_ROWS in the source)."""
GENERATE_THREADS = 512
"""With 32 KB of shared memory, four such blocks fill a multiprocessor of compute capability 8.0 or 9.0."""
THREADS = 256
COUNT_BLOCKS = 1024
MAX_GRID_Y = (1 << 16) - 1


class Kernels:
    """The kernels, for the current device at each launch.

    Args:
        cupy: the module.
    """

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        module = cupy.RawModule(code=SOURCE.read_text(encoding="utf-8"), options=OPTIONS)
        self._generate = module.get_function("generate")
        self._pack = module.get_function("pack")
        self._count_foreign = module.get_function("count_foreign")
        self._finish_integers = module.get_function("finish_integers")
        self._finish_fields = module.get_function("finish_fields")
        self._expose = {np.uint8: module.get_function("expose_8"), np.uint16: module.get_function("expose_16")}
        self._demodulate = {
            np.uint8: module.get_function("demodulate_8"),
            np.uint16: module.get_function("demodulate_16"),
        }
        self._combine = module.get_function("combine")

    def table(self) -> Any:
        """The quantile table on the current device, int8 (256,)."""
        return self._cupy.asarray(TABLE)

    def generate(
        self, slab: Any, table: Any, seed: int, first_row: int, n_rows: int, first_column: int, n_columns: int
    ) -> None:
        """Write rows and columns of T.

        Args:
            slab: int8, n_rows · n_columns entries or more; filled row by row without gaps.
            table: from `table`.
            seed: of the matrix.
            first_row: a multiple of `BLOCK_ROWS`.
            n_rows: any number.
            first_column: a multiple of `TILE_COLUMNS`.
            n_columns: a multiple of 16.
        """
        grid = (-(-n_rows // BLOCK_ROWS), -(-n_columns // TILE_COLUMNS))
        place = (np.uint32(first_row), np.uint32(n_rows), np.uint32(first_column), np.uint32(n_columns))
        self._generate(grid, (GENERATE_THREADS,), (slab, table, np.uint64(seed), *place))

    def pack(self, vectors: Any, n_rows: int, width: int) -> Any:
        """Vectors of -1, 0, 1, int8 or uint8 and C-contiguous, filled up with zeros to int8 (n_rows, width).

        Width is a multiple of 16.
        """
        packed = self._cupy.empty((n_rows, width), np.int8)
        sizes = (np.uint32(len(vectors)), np.uint32(vectors.shape[1]), np.uint32(n_rows), np.uint32(width))
        blocks = -(-(n_rows * width // 16) // THREADS)
        self._pack((blocks,), (THREADS,), (packed, vectors.view(np.int8), *sizes))
        return packed

    def count_foreign(self, vectors: Any) -> int:
        """Number of entries outside {-1, 0, 1} of an int8 array. Waits for the current stream, for one integer."""
        vectors = self._cupy.ascontiguousarray(vectors)
        if not vectors.size:
            return 0
        count = self._cupy.zeros(1, np.uint64)
        blocks = min(COUNT_BLOCKS, -(-vectors.size // THREADS))
        self._count_foreign((blocks,), (THREADS,), (count, vectors, np.uint64(vectors.size)))
        return int(count.get()[0])

    def finish(self, sums: Any, out: Any, first_output: int) -> None:
        """Copy the sums of a row slab to their outputs, scaled to unit gain if those are float32.

        Args:
            sums: int32 (vectors, sums), without gaps; the last may be padding.
            out: int32 or float32 (vectors, outputs), C-contiguous.
            first_output: column of `out` that the first sum belongs to.
        """
        n_vectors, n_outputs = out.shape
        n_columns = min(sums.shape[1], n_outputs - first_output)
        grid = _grid(n_columns, n_vectors)
        sizes = (np.uint32(n_columns), np.uint32(sums.shape[1]), np.uint64(n_outputs))
        if out.dtype == np.float32:
            self._finish_fields(grid, (THREADS,), (out[:, first_output:], sums, *sizes, UNIT))
        else:
            self._finish_integers(grid, (THREADS,), (out[:, first_output:], sums, *sizes))

    def expose(self, field: Any, frames: Any, camera: npt.NDArray[np.float32], first_pixel: int, images: Any) -> None:
        """One image of each frame, for some neighbouring pixels: `numba_camera.expose` on a GPU.

        Args:
            field: int32 (patterns, 2 · pixels); rows may be apart.
            frames: uint32 (frames, 5): row of `field`, low and high half of the noise key, bits of the two quadratures
                of the reference arm (float32, root electrons).
            camera: float32 (6,): root electrons per unit of the field; 1 with shot noise or 0; variance of the read
                noise; full well (all electrons); gain; largest number of the converter.
            first_pixel: number, in the image, of the first pixel.
            images: uint8 or uint16 (frames, pixels of an image), C-contiguous.
        """
        n_frames, n_pixels = len(frames), field.shape[1] // 2
        sizes = (np.uint32(n_frames), np.uint32(n_pixels), np.uint32(first_pixel))
        strides = (np.uint64(field.strides[0] // field.itemsize), np.uint64(images.shape[1]))
        kernel = self._expose[images.dtype.type]
        kernel(_grid(n_pixels, n_frames), (THREADS,), (images, field, frames, *sizes, *strides, *camera))

    def demodulate(self, images: Any, scale: float, limit: int) -> tuple[Any, int]:
        """Four-step phase stepping: (I₀ - I₂) · scale and (I₁ - I₃) · scale of each pixel.

        Waits for the current stream, for one integer.

        Args:
            images: uint8 or uint16 (4 · patterns, pixels), C-contiguous.
            scale: root electrons per digital number.
            limit: from which digital number on a pixel is saturated.

        Returns:
            float32 (patterns, 2 · pixels), and the number of saturated readings.
        """
        n_patterns, n_pixels = len(images) // 4, images.shape[1]
        amplitude = self._cupy.empty((n_patterns, 2 * n_pixels), np.float32)
        saturated = self._cupy.zeros(1, np.uint64)
        sizes = (np.uint32(n_patterns), np.uint32(n_pixels), np.uint32(limit), np.float32(scale))
        kernel = self._demodulate[images.dtype.type]
        kernel(_grid(n_pixels, n_patterns), (THREADS,), (amplitude, saturated, images, *sizes))
        return amplitude, int(saturated.get()[0])

    def combine(self, amplitude: Any, rows: npt.NDArray[np.int32], unit: np.float32, fields: Any) -> None:
        """Fields of vectors shown as two patterns: unit · (plus - minus).

        Args:
            amplitude: float32 (lit patterns, at least n_outputs), C-contiguous.
            rows: (vectors, 2) rows of `amplitude`, or -1 for a dark pattern.
            unit: field per root electron.
            fields: float32 (vectors, n_outputs), C-contiguous, to be filled.
        """
        n_vectors, n_outputs = fields.shape
        sizes = (np.uint32(n_vectors), np.uint32(n_outputs), np.uint64(amplitude.shape[1]), unit)
        arguments = (fields, amplitude, self._cupy.asarray(rows), *sizes)
        self._combine(_grid(n_outputs, n_vectors), (THREADS,), arguments)


def _grid(n_columns: int, n_rows: int) -> tuple[int, int]:
    """Blocks for a thread per column and a row of blocks per row, as far as a grid goes."""
    return -(-n_columns // THREADS), min(n_rows, MAX_GRID_Y)


@functools.cache
def kernels() -> Kernels:
    """The kernels of this process; needs CuPy."""
    import cupy

    return Kernels(cupy)
