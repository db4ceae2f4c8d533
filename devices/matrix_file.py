"""Measured matrices in files: safetensors with the tensors `matrix` and `noise`, and how they came about as JSON.

Whatever reads safetensors reads the file. `__metadata__` holds `format`, `version`, `sha256` (of the bytes of `matrix`)
and `record`, a `MatrixRecord`.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from optical_dfa.devices.faults import listed, validation_faults

FORMAT = "optical_dfa.matrix"
VERSION = "1"

READ_BYTES = 1 << 24
"""Bytes of a file that are read at once, where they need not stay."""

Rows = npt.NDArray[np.float32]


class MatrixFileError(ValueError):
    """A file that holds no measured matrix, or a damaged one."""


@dataclass(frozen=True)
class MatrixRecord:
    """How a matrix came about."""

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    device: str
    """What it was measured on: name of the device, or free text."""
    outputs_per_mode: Literal[1, 2]
    """Rows of one speckle mode: 2 (both quadratures) or 1."""
    date: str = ""
    """When it was measured, ISO 8601; empty: unknown."""
    fingerprint: str = ""
    """Of the device; empty: unknown."""
    settings: dict[str, Any] | None = None
    """Options of the device; None: unknown."""
    probes: int = 0
    """Vectors that span the inputs; 0: not measured by probes."""
    weight: int = 0
    """How many probes light an input: an entry has the noise of an output over √(weight · repeats)."""
    lit: int = 0
    """Most inputs lit, + or -, by one probe."""
    repeats: int = 0
    """How many times each probe was shown."""
    frames: int = 0
    """Frames displayed."""
    device_seconds: float = 0.0
    """Time the modelled machine would need for the frames, seconds."""
    saturated_fraction: float | None = None
    """Fraction of pixel readings at saturation; None: unknown."""


_RECORD = TypeAdapter(MatrixRecord)


class MatrixFile:
    """A matrix file. Making one reads its header, not its tensors.

    Args:
        path: safetensors file written by `write_matrix`.

    Attributes:
        path, n_outputs, n_inputs, sha256, record: sizes of the matrix, hash of its bytes, `MatrixRecord`.

    Raises:
        MatrixFileError: there is no such file, or it is no matrix file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._open() as tensors:
            metadata = tensors.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise MatrixFileError(
                    f"{self.path}: a safetensors file, but not of a measured matrix (format {metadata.get('format')!r},"
                    f" not {FORMAT!r}): measure one with optical-dfa measure-matrix, or save_matrix"
                )
            if metadata.get("version") != VERSION:
                raise MatrixFileError(
                    f"{self.path}: version {metadata.get('version')!r} of the format, this program reads {VERSION!r}: "
                    "use the optical_dfa that wrote it"
                )
            names = set(tensors.keys())
            shapes = {name: tensors.get_slice(name).get_shape() for name in ("matrix", "noise") if name in names}
            types = {name: tensors.get_slice(name).get_dtype() for name in shapes}
        matrix = shapes.get("matrix", [])
        if len(matrix) != 2 or 0 in matrix or shapes.get("noise") != matrix[:1] or {*types.values()} != {"F32"}:
            raise MatrixFileError(
                f"{self.path}: must hold float32 matrix (outputs, inputs) and noise (outputs,); got {shapes} of {types}"
            )
        self.n_outputs, self.n_inputs = matrix
        self.sha256 = metadata.get("sha256", "")
        try:
            self.record = _RECORD.validate_json(metadata.get("record", ""))
        except ValidationError as error:
            faults = listed(list(validation_faults(error, MatrixRecord)))
            raise MatrixFileError(f"{self.path}: its record of the measurement is damaged:{faults}") from None

    def rows(self, start: int, stop: int) -> Rows:
        """Rows `start` … `stop` - 1 of the matrix, unit gain as measured, float32 (rows, n_inputs)."""
        with self._open() as tensors:
            rows: Rows = tensors.get_slice("matrix")[start:stop]
        return rows

    def noise(self) -> npt.NDArray[np.float32]:
        """Standard error of the entries of each row, float32 (n_outputs,); NaN where it is unknown."""
        with self._open() as tensors:
            noise: npt.NDArray[np.float32] = tensors.get_tensor("noise")
        return noise

    def blocks(self) -> Iterable[tuple[int, Rows]]:
        """The matrix a block at a time: (first row, which is even, rows)."""
        height = 2 * max(1, READ_BYTES // (8 * self.n_inputs))
        for first in range(0, self.n_outputs, height):
            yield first, self.rows(first, min(first + height, self.n_outputs))

    def verify(self) -> None:
        """Read the whole matrix and compare its hash.

        Raises:
            MatrixFileError: it is not what was written, or has entries that are not finite.
        """
        digest = hashlib.sha256()
        finite = True
        for _, rows in self.blocks():
            digest.update(np.ascontiguousarray(rows, "<f4").data)
            finite &= bool(np.isfinite(rows).all())
        if digest.hexdigest() != self.sha256:
            raise MatrixFileError(f"{self.path}: damaged, its matrix is not the one that was written: copy it anew")
        if not finite:
            raise MatrixFileError(f"{self.path}: its matrix holds NaN or infinity: measure it again")

    def _open(self) -> Any:
        from safetensors import SafetensorError, safe_open  # only who needs it loads it

        if not self.path.is_file():
            raise MatrixFileError(f"{self.path}: no such file: measure a matrix with optical-dfa measure-matrix")
        try:
            return safe_open(self.path, framework="numpy")
        except SafetensorError as error:
            raise MatrixFileError(
                f"{self.path}: not a safetensors file, or damaged ({error}): give a file that optical-dfa "
                "measure-matrix wrote"
            ) from None
        except OSError as error:
            raise MatrixFileError(f"{self.path}: cannot be read: {error.strerror or error}") from None


def write_matrix(
    file: IO[bytes], shape: tuple[int, int], blocks: Iterable[tuple[Rows, Rows]], record: MatrixRecord
) -> None:
    """Write a matrix file, a block of rows at a time.

    Args:
        file: binary, seekable, at its beginning.
        shape: outputs and inputs.
        blocks: rows float32 (rows, inputs) from the first to the last, with the standard error of their entries,
            float32 (rows,).
        record: how the matrix came about.
    """
    # safetensors' own writer wants whole tensors in memory; the container is eight bytes, JSON, and the raw numbers
    file.write(_header(shape, record, "0" * 64))
    digest, noise = hashlib.sha256(), []
    for rows, error in blocks:
        data = np.ascontiguousarray(rows, "<f4").data
        digest.update(data)
        file.write(data)
        noise.append(np.ascontiguousarray(error, "<f4"))
    file.write(np.concatenate(noise).data)
    file.seek(0)
    file.write(_header(shape, record, digest.hexdigest()))  # as long as the first one: only the hash differs


def _header(shape: tuple[int, int], record: MatrixRecord, sha256: str) -> bytes:
    size = 4 * math.prod(shape)
    metadata = {"format": FORMAT, "version": VERSION, "sha256": sha256, "record": json.dumps(asdict(record))}
    header = {
        "__metadata__": metadata,
        "matrix": {"dtype": "F32", "shape": list(shape), "data_offsets": [0, size]},
        "noise": {"dtype": "F32", "shape": [shape[0]], "data_offsets": [size, size + 4 * shape[0]]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # numbers begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text
