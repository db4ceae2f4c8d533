"""The exact product on a GPU: cuBLAS' int8 product with int32 sums, over T stored or made anew slab by slab.

Both operands are int8 and every sum is an integer below 2^31 (`matrix.MAX_INPUTS`), so the integers are those of every
other backend, bit for bit, in whatever order cuBLAS adds them. CuPy arrays stay on the GPU.

Importing this does not import CuPy; `why_unavailable` and `CupyProduct` do.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.checks import require
from optical_dfa.emulator.cublas import VECTORS, int8_product, padded
from optical_dfa.emulator.cupy_kernels import kernels
from optical_dfa.emulator.cupy_slabs import Slab, ahead, cut
from optical_dfa.emulator.matrix import TILE_ROWS, check_geometry
from optical_dfa.emulator.numpy_product import MatrixPlan, NumpyProduct

BUDGET_FRACTION = 0.5
"""Of the free memory of the GPU, for a stored T, unless a budget is given. The rest is for inputs, outputs, a model."""

SUMS = 1 << 22
"""Sums of a row slab for the whole batch, 16 MB: they stay in the L2 cache while slabs of columns are added to them,
and are 256 output tiles of 128 x 128, enough to occupy the multiprocessors of any GPU."""

MIN_SLAB_BYTES = 1 << 26
"""Least size of a slab of T, where T is made anew: making and multiplying it should last longer than the host needs to
enqueue the next, some 40 µs."""

BATCH = 4096
"""Most vectors multiplied at once."""

PACKED_BYTES = 1 << 30
"""Most bytes of packed inputs held at once."""

MIN_COMPUTE_CAPABILITY = 61
"""GPUs from 6.1 on multiply int8."""


@functools.cache
def why_unavailable() -> str | None:
    """Why `CupyProduct` cannot run here; None if it can. Compiles nothing and takes no memory of the GPU."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            return f"CuPy cannot be imported: {error}"
        return 'CuPy is not installed (pip install "optical_dfa[cupy-cuda12]", or cupy-cuda13 for a CUDA 13 driver)'
    except ImportError as error:
        return f"CuPy cannot be imported: {error}"
    try:
        if cupy.cuda.runtime.getDeviceCount() < 1:
            return "no CUDA device is visible"
        capability = cupy.cuda.Device().compute_capability
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no CUDA device can be used: {error}"
    if int(capability) < MIN_COMPUTE_CAPABILITY:
        return f"the GPU has compute capability {capability[:-1]}.{capability[-1]}, and int8 products need 6.1"
    try:
        _ = cupy.cuda.cublas
    except ImportError as error:
        return f"cuBLAS cannot be loaded: {error}"
    return None


class CupyProduct:
    """Exact products T·x of one transmission matrix on one GPU. Safe to call from several threads at once.

    Work is enqueued on CuPy's current stream, and on a second stream that is joined to it again; for CuPy arrays
    nothing waits for the GPU.

    Args:
        n_inputs: columns of T.
        n_outputs: rows of T.
        seed: seed of the matrix, 0 … 2^64-1.
        memory_budget_bytes: T is stored on the GPU (int8) if it fits, otherwise made anew for each product. None: half
            of the GPU's memory that is free now.

    Raises:
        ValueError: for a geometry, seed or budget that is not accepted, or where CuPy or a GPU is missing.
    """

    def __init__(self, n_inputs: int, n_outputs: int, seed: int, memory_budget_bytes: int | None = None) -> None:
        if reason := why_unavailable():
            raise ValueError(f"backend 'cupy' cannot be used: {reason}; take backend 'auto' or 'numpy'")
        check_geometry(n_inputs, n_outputs, seed)
        import cupy

        self._cupy = cupy
        self.n_inputs, self.n_outputs, self.seed = n_inputs, n_outputs, seed
        self.device_id: int = cupy.cuda.runtime.getDevice()
        device = cupy.cuda.Device(self.device_id)
        if memory_budget_bytes is None:
            budget, origin = int(BUDGET_FRACTION * device.mem_info[0]), "half of the GPU's free memory"
        else:
            number = isinstance(memory_budget_bytes, int | float) and not isinstance(memory_budget_bytes, bool)
            expected = "a number ≥ 0, bytes, or None for half of the GPU's free memory"
            require(number and memory_budget_bytes >= 0, "memory_budget_bytes", memory_budget_bytes, expected)
            budget, origin = memory_budget_bytes, "the budget"
        self._width = padded(n_inputs)
        size = padded(n_outputs) * self._width
        fits = size <= budget
        self.plan = MatrixPlan(
            backend="cupy",
            storage="stored" if fits else "procedural",
            stored_bytes=size if fits else 0,
            why=f"{size:,} bytes of int8 {'fit' if fits else 'do not fit'} {origin}, {budget:,} bytes",
        )
        # two slabs, the one that is made and the one that is multiplied, share the L2 cache
        self._slab_bytes = max(MIN_SLAB_BYTES, device.attributes["L2CacheSize"] // 2)
        self._lock = threading.Lock()
        self._stored: Any = None
        self._ready: Any = None
        self._maker: Any = None
        self._makers_table: Any = None

    def __call__(self, vectors: Any) -> Any:
        """Exact T·x for each row x.

        Args:
            vectors: int8 or uint8 (batch, n_inputs) with entries -1, 0, 1, NumPy or CuPy. The caller has checked them.

        Returns:
            int32 (batch, n_outputs); a CuPy array if the vectors are one, otherwise NumPy.

        Raises:
            ValueError: for a CuPy array on another GPU.
        """
        return self._enqueue(vectors, np.int32, self._fill)

    def fields(self, vectors: Any) -> Any:
        """T·x of unit gain, float32 (batch, n_outputs): the integers times `UNIT`, without a second array of them.

        Arguments and errors as for a call.
        """
        return self._enqueue(vectors, np.float32, self._fill)

    def stream(self, vectors: Any, consume: Callable[[int, int, Any], None]) -> None:
        """Exact T·x, a block of rows at a time, for what need not hold all of it.

        Args:
            vectors: as for a call.
            consume: called with (first vector, first row, fields), fields a CuPy int32 array (vectors, rows), its rows
                apart in memory, that is overwritten afterwards. What it enqueues on the current stream comes before
                that. Blocks begin at even rows.
        """
        with self._cupy.cuda.Device(self.device_id):
            on_gpu = self._on_gpu(vectors)
            for part in self._batches(len(on_gpu)):
                for row, fields in self._blocks(on_gpu[part]):
                    consume(part.start, row, fields[:, : self.n_outputs - row])

    def real(self, vectors: Any) -> Any:
        """T·x for real float32 (batch, n_inputs) vectors, by a plain float32 GEMM: float32 (batch, n_outputs).

        NumPy or CuPy, as for a call.
        """
        return self._enqueue(vectors, np.float32, self._fill_real)

    def matrix(self, rows: slice) -> npt.NDArray[np.int8]:
        """Rows of T, NumPy int8 (number of rows, n_inputs), made on the host. Ask for few if T is large."""
        return NumpyProduct(self.n_inputs, self.n_outputs, self.seed, 0).matrix(rows)

    def _enqueue(self, vectors: Any, dtype: Any, fill: Callable[[Any, Any], None]) -> Any:
        with self._cupy.cuda.Device(self.device_id):
            on_gpu = self._on_gpu(vectors)
            out = self._cupy.empty((len(vectors), self.n_outputs), dtype)
            for part in self._batches(len(vectors)):
                fill(on_gpu[part], out[part])
            return out if isinstance(vectors, self._cupy.ndarray) else out.get()

    def _on_gpu(self, vectors: Any) -> Any:
        """The vectors as a C-contiguous CuPy array."""
        cupy = self._cupy
        if not isinstance(vectors, cupy.ndarray):
            return cupy.asarray(np.ascontiguousarray(vectors))
        require(
            vectors.device.id == self.device_id,
            "vectors",
            f"an array on GPU {vectors.device.id}",
            f"a NumPy array or a CuPy array on GPU {self.device_id}, where this product computes",
        )
        return cupy.ascontiguousarray(vectors)

    def _batches(self, n_vectors: int) -> Iterator[slice]:
        size = min(BATCH, max(1, PACKED_BYTES // self._width // VECTORS) * VECTORS)
        return (slice(first, min(first + size, n_vectors)) for first in range(0, n_vectors, size))

    def _blocks(self, vectors: Any) -> Iterator[tuple[int, Any]]:
        """First row, and int32 (vectors, rows and perhaps padding), of the sums of each row slab in turn."""
        cupy, n = self._cupy, padded(len(vectors), VECTORS)
        cublas, handle = cupy.cuda.cublas, cupy.cuda.Device().cublas_handle
        packed = kernels().pack(vectors, n, self._width)
        height = padded(max(1, SUMS // n), TILE_ROWS)
        sums = cupy.empty(min(height, padded(self.n_outputs)) * n, np.int32)
        for slab, part in self._slabs(height):
            int8_product(
                cublas,
                handle,
                sums=sums.data.ptr,
                slab=part.data.ptr,
                vectors=packed.data.ptr + slab.first_column,
                m=slab.n_rows,
                n=n,
                k=slab.n_columns,
                slab_stride=part.strides[0],
                vectors_stride=self._width,
                add=slab.first_column > 0,
            )
            if slab.first_column + slab.n_columns == self._width:
                yield slab.first_row, sums[: n * slab.n_rows].reshape(n, slab.n_rows)[: len(vectors)]

    def _fill(self, vectors: Any, out: Any) -> None:
        for row, sums in self._blocks(vectors):
            kernels().finish(sums, out, row)

    def _fill_real(self, vectors: Any, out: Any) -> None:
        out.fill(0)
        # four bytes an entry once it is float32: lower slabs than for int8
        for slab, part in self._slabs(max(1, min(SUMS // BATCH, self._slab_bytes // self._width))):
            rows = slice(slab.first_row, slab.first_row + slab.n_rows)
            columns = slice(slab.first_column, slab.first_column + slab.n_columns)
            x, fields = vectors[:, columns], out[:, rows]
            fields += x @ part[: fields.shape[1], : x.shape[1]].astype(np.float32).T

    def _slabs(self, height: int) -> Iterator[tuple[Slab, Any]]:
        """T in slabs of at most `height` rows, each as int8 (n_rows, n_columns), ready on the current stream.

        Row by row of slabs; a stored T has one slab in a row.
        """
        total, height = padded(self.n_outputs), padded(height)
        if self.plan.storage == "stored":
            stored = self._stored_matrix()
            for row in range(0, total, height):
                slab = Slab(row, min(height, total - row), 0, self._width)
                yield slab, stored[row : row + slab.n_rows]
            return
        slabs = cut(total, self._width, height, self._slab_bytes)
        maker = self._second_stream()
        table = self._makers_table
        for slab, buffer in ahead(self._cupy, maker, slabs, lambda buffer, slab: self._make(buffer, table, slab)):
            yield slab, buffer[: slab.size].reshape(slab.n_rows, slab.n_columns)

    def _make(self, buffer: Any, table: Any, slab: Slab) -> None:
        kernels().generate(buffer, table, self.seed, slab.first_row, slab.n_rows, slab.first_column, slab.n_columns)

    def _second_stream(self) -> Any:
        with self._lock:
            if self._maker is None:
                # non-blocking: the legacy default stream would otherwise wait for it, and it for that one
                maker = self._cupy.cuda.Stream(non_blocking=True)
                with maker:  # its own order then puts the table before every slab, whoever asks for that
                    self._makers_table = kernels().table()
                self._maker = maker
            return self._maker

    def _stored_matrix(self) -> Any:
        stream = self._cupy.cuda.get_current_stream()
        with self._lock:
            if self._stored is None:
                whole = Slab(0, padded(self.n_outputs), 0, self._width)
                stored = self._cupy.empty((whole.n_rows, whole.n_columns), np.int8)
                self._make(stored, kernels().table(), whole)
                self._ready = stream.record(self._cupy.cuda.Event(disable_timing=True))
                self._stored = stored
        stream.wait_event(self._ready)  # it may be another stream's
        return self._stored
