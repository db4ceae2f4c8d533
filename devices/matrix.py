"""The device of a matrix of the user's own."""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.base import DeviceInfo, Fields, ProjectionDevice, Usage, Vectors
from optical_dfa.devices.errors import InvalidConfig
from optical_dfa.devices.faults import Fault, listed
from optical_dfa.emulator import MatrixPlan

LARGEST_INTEGER = 1 << 24
"""Up to here float32 holds every integer."""


class MatrixDevice(ProjectionDevice):
    """The product with a matrix of your own, computed: other laws than the Gaussian, sparse or aligned feedback.

    Output o is row o of the matrix times the vector, summed in float64 and rounded once. The entries are used as they
    are: for unit gain give them variance 1, or choose `scale` of `attach` accordingly. Also takes float32 vectors.

    Args:
        matrix: NumPy array (outputs, inputs), float32, or integers of at most 2^24; finite. It is copied.
        n_inputs: must be the columns of the matrix; None: those.
        n_outputs: the first so many rows, at most those there are; None: all.
    """

    def __init__(self, *, matrix: npt.NDArray[Any], n_inputs: int | None = None, n_outputs: int | None = None) -> None:
        super().__init__()
        rows = _checked(matrix)
        if n_inputs is not None and n_inputs != rows.shape[1]:
            raise _refused("n_inputs", f"must be {rows.shape[1]:,}, the columns of the matrix; got {n_inputs!r}")
        if n_outputs is not None and not (isinstance(n_outputs, int) and 1 <= n_outputs <= len(rows)):
            raise _refused("n_outputs", f"must be 1 … {len(rows):,}, the rows of the matrix; got {n_outputs!r}")
        self._rows = rows[:n_outputs]
        digest = hashlib.sha256(str(self._rows.shape).encode() + self._rows.tobytes()).hexdigest()
        self.matrix_identity = {"kind": "values", "sha256": digest}
        self.settings = {"matrix": f"sha256 {digest}"}
        self.info = DeviceInfo(
            name="matrix",
            n_inputs=rows.shape[1],
            n_outputs=len(self._rows),
            linear=True,
            exact=True,
            accepts_real=True,
            backend="numpy",
            frames_per_vector=0,
            n_pixels=0,
            outputs_per_mode=1,
            output_map="rows",
            matrix=MatrixPlan("numpy", "stored", self._rows.nbytes, "a matrix of the user's has no procedure"),
        )

    def effective_matrix(self, rows: slice = slice(None)) -> Fields:
        """Rows of the matrix as they were given, float32 (rows, n_inputs)."""
        return self._rows[rows].copy()

    def spec(self) -> dict[str, Any]:
        """As of any device, with the entries themselves."""
        return {**super().spec(), "matrix": self._rows}

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        return (vectors.astype(np.float64) @ self._rows.T.astype(np.float64)).astype(np.float32), Usage()


def _checked(matrix: npt.NDArray[Any]) -> Fields:
    accepted = "a NumPy array (outputs, inputs) of float32 or integers"
    if not isinstance(matrix, np.ndarray):
        raise _refused("matrix", f"must be {accepted}; got a {type(matrix).__name__}")
    given = f"got {matrix.dtype} {matrix.shape}"
    if matrix.ndim != 2 or not matrix.size:
        raise _refused("matrix", f"must be {accepted}, neither empty nor of other dimensions; {given}")
    if matrix.dtype != np.float32 and matrix.dtype.kind not in "iu":
        raise _refused("matrix", f"must be {accepted}; {given}: convert it with .astype(np.float32)")
    if matrix.dtype.kind in "iu" and (int(matrix.max()) > LARGEST_INTEGER or int(matrix.min()) < -LARGEST_INTEGER):
        raise _refused("matrix", f"must hold integers of at most 2^24, which float32 holds exactly; {given} from "
                                 f"{matrix.min()} to {matrix.max()}: scale it")  # fmt: skip
    if not np.isfinite(matrix).all():
        raise _refused("matrix", f"must be finite; {given} with NaN or infinity")
    return np.array(matrix, np.float32, order="C")


def _refused(option: str, message: str) -> InvalidConfig:
    fault = Fault((option,), message)
    return InvalidConfig(f"device 'matrix' cannot be made:{listed([fault])}", [fault])
