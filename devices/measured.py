"""The device of a measured matrix: what a real or emulated device does, without it."""

from pathlib import Path
from typing import Any

import numpy as np

from optical_dfa.devices.base import DeviceInfo, Fields, ProjectionDevice, Usage, Vectors
from optical_dfa.devices.errors import DeviceUnavailable, InvalidConfig
from optical_dfa.devices.faults import Fault, listed
from optical_dfa.devices.matrix_file import MatrixFile, MatrixFileError
from optical_dfa.emulator import MatrixPlan
from optical_dfa.emulator.measured import exact_products, on_exact_grid


class MeasuredDevice(ProjectionDevice):
    """The product with a measured matrix, computed: `optical-dfa measure-matrix` writes the file.

    Output o is row o of the file times the vector. The product is exact: entries are rounded to a grid, 2^-27 of the
    largest of the row or finer (2^-41 for 1,000 inputs), on which sums in float64 are exact in any order; then the sum
    is rounded once, to float32. So fields do not depend on batch split, BLAS or threads. float32 vectors are multiplied
    in float64.

    Making the device reads the header of the file; `open` reads the matrix and compares its hash.

    Args:
        path: file of the matrix, absolute or relative to the current directory.
        n_inputs: must be the inputs of the file; None: those.
        n_outputs: the first so many outputs of the file, at most those it has; None: all.
    """

    def __init__(self, *, path: str | Path, n_inputs: int | None = None, n_outputs: int | None = None) -> None:
        super().__init__()
        if not isinstance(path, str | Path):
            raise _refused(Fault(("path",), f"must be the path of a matrix file, a text; got {path!r}"))
        try:
            self._file = file = MatrixFile(path)
        except MatrixFileError as error:
            raise _refused(Fault(("path",), str(error))) from None
        faults = []
        if n_inputs is not None and not (_whole(n_inputs) and n_inputs == file.n_inputs):
            faults.append(Fault(("n_inputs",), f"must be {file.n_inputs:,}, the inputs of {path}; {_given(n_inputs)}"))
        if n_outputs is not None and not (_whole(n_outputs) and 1 <= n_outputs <= file.n_outputs):
            accepted = f"1 … {file.n_outputs:,}, the outputs of {path}"
            faults.append(Fault(("n_outputs",), f"must be {accepted}; {_given(n_outputs)}"))
        if faults:
            raise _refused(*faults)
        outputs = file.n_outputs if n_outputs is None else n_outputs
        self.measured_fingerprint = file.record.fingerprint
        self._rows: Fields | None = None
        self.matrix_identity = {"kind": "measured", "sha256": file.sha256}
        self.settings = {"path": str(path), "measured_on": file.record.device}
        size = 4 * outputs * file.n_inputs
        self.info = DeviceInfo(
            name="measured",
            n_inputs=file.n_inputs,
            n_outputs=outputs,
            linear=True,
            exact=True,
            accepts_real=True,
            backend="numpy",
            frames_per_vector=0,
            n_pixels=0,
            outputs_per_mode=file.record.outputs_per_mode,
            output_map="rows",
            matrix=MatrixPlan("numpy", "stored", size, "a measured matrix has no procedure that makes it"),
        )

    def effective_matrix(self, rows: slice = slice(None)) -> Fields:
        """Rows of the measured matrix, unit gain, float32 (rows, n_inputs). Reads the file if the device is closed."""
        if self._rows is not None:
            return self._rows[rows].copy()
        chosen = range(self.info.n_outputs)[rows]
        if not chosen:
            return np.empty((0, self.info.n_inputs), np.float32)
        low, high = sorted((chosen[0], chosen[-1]))
        return on_exact_grid(self._file.rows(low, high + 1))[:: abs(chosen.step)][:: 1 if chosen.step > 0 else -1]

    def spec(self) -> dict[str, Any]:
        """As of any device; what the file says of itself is no option."""
        return {name: value for name, value in super().spec().items() if name != "measured_on"}

    def _open(self) -> None:
        try:
            self._file.verify()
            self._rows = on_exact_grid(self._file.rows(0, self.info.n_outputs))
        except MatrixFileError as error:
            raise DeviceUnavailable(str(error)) from None

    def _close(self) -> None:
        self._rows = None

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        assert self._rows is not None  # it is open
        return exact_products(self._rows, vectors), Usage()


def _refused(*faults: Fault) -> InvalidConfig:
    return InvalidConfig(f"device 'measured' cannot be made:{listed(faults)}", faults)


def _whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


def _given(number: object) -> str:
    return f"got {number:,}" if _whole(number) else f"got {number!r}"
