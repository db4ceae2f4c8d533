"""The exact digital device: the product an optical device is compared with."""

import numpy as np

from optical_dfa.devices.base import DeviceInfo, Fields, ProjectionDevice, Usage, Vectors
from optical_dfa.devices.identity import emulated_matrix_identity
from optical_dfa.emulator import CupyProduct, make_product
from optical_dfa.emulator.matrix import UNIT
from optical_dfa.emulator.product import Backend


class DigitalDevice(ProjectionDevice):
    """The exact product, computed: what an optical device is compared with.

    Output o is row o of T times the vector, an exact integer scaled to unit gain by one float32
    multiplication. float32 vectors are multiplied by the same T in a plain float32 GEMM. With the backend `cupy`, CuPy
    arrays stay on the GPU.

    Args:
        n_inputs: length of the vectors.
        n_outputs: rows of T.
        seed: seed of the matrix, 0 … 2^64-1.
        memory_budget_bytes: T is stored (int8) if it fits and storing helps, otherwise made anew for each call. None:
            1 GiB of main memory, or half of the free memory of a GPU.
        backend: what computes, to the same integers: `numpy`, `numba`, `cupy`, or `auto`, the faster one of the first
            two that can run here.
    """

    def __init__(
        self,
        *,
        n_inputs: int,
        n_outputs: int,
        seed: int = 0,
        memory_budget_bytes: int | None = None,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self._product = make_product(n_inputs, n_outputs, seed, memory_budget_bytes, backend)
        self.matrix_identity = emulated_matrix_identity(seed)
        self.settings = {"seed": seed, "memory_budget_bytes": memory_budget_bytes, "backend": backend}
        self.info = DeviceInfo(
            name="digital",
            n_inputs=n_inputs,
            n_outputs=n_outputs,
            linear=True,
            exact=True,
            accepts_real=True,
            backend=self._product.plan.backend,
            frames_per_vector=0,
            n_pixels=0,
            outputs_per_mode=2,
            output_map="rows",
            matrix=self._product.plan,
            accepts_cupy=isinstance(self._product, CupyProduct),
        )
        if isinstance(self._product, CupyProduct):
            self.gpu = self._product.device_id

    def effective_matrix(self, rows: slice = slice(None)) -> Fields:
        """Rows of T, unit gain, float32 (rows, n_inputs)."""
        return self._product.matrix(rows) * UNIT

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        if vectors.dtype == np.float32:
            return self._product.real(vectors) * UNIT, Usage()  # type: ignore[arg-type]
        return self._product.fields(vectors), Usage()  # type: ignore[arg-type]
