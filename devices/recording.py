"""Recordings: what a device was asked and what it answered, in one file that grows by whole requests.

The file is a sequence of NumPy arrays (format NPY, no pickles), which `np.load` reads one after another. A record is a
uint8 array of JSON, which names the arrays behind it and their CRC-32, and then those. The first record is the header.
What a killed process left half written at the end is cut off when the file is next opened. Memory: one request, and
about a hundred bytes for each request of the file.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

FORMAT = "optical_dfa.recording"
VERSION = 1

Arrays = Mapping[str, npt.NDArray[Any]]
Record = tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]


class RecordingError(ValueError):
    """A file that holds no recording, or a damaged one."""


class Recording:
    """A recording to read. Making one reads what the requests are, not their arrays.

    Args:
        path: file written by `RecordingWriter`.

    Attributes:
        path, header: the file, and what was recorded.
        requests: metadata of each request, in order, without those cut off.
        size: bytes of the whole records.

    Raises:
        RecordingError: there is no such file, or it is no recording.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file: IO[bytes] = self.path.open("rb")
        except OSError as error:
            raise RecordingError(
                f"{path}: cannot be read ({error.strerror}): record one with the device record"
            ) from None
        try:
            offsets, found, self.size = _scan(self._file)
        except BaseException:
            self._file.close()
            raise
        header = found[0] if found else {}
        if (header.get("format"), header.get("version")) != (FORMAT, VERSION):
            self._file.close()
            given = f"{header.get('format')!r}, version {header.get('version')!r}"
            raise RecordingError(f"{path}: must be a recording ({FORMAT!r}, version {VERSION}); got {given}")
        self.header, self.requests, self._offsets = header, found[1:], offsets[1:]

    def arrays(self, number: int) -> dict[str, npt.NDArray[Any]]:
        """Arrays of request `number`, from 0.

        Raises:
            RecordingError: they are damaged.
        """
        self._file.seek(self._offsets[number])
        meta, arrays = _read(self._file)
        for name, crc in meta["arrays"].items():
            if zlib.crc32(np.ascontiguousarray(arrays[name]).data) != crc:
                raise RecordingError(
                    f"{self.path}: request {number} is damaged (checksum of {name}): take the recording from a backup, "
                    "or record anew"
                )
        return arrays

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class RecordingWriter:
    """Appends requests to a recording; each is in the file, whole, when `append` returns.

    Args:
        path: the file; one that exists is gone on with.
        header: what is recorded, JSON values; must be that of a file that exists.

    Raises:
        RecordingError: there is something else at `path`.
    """

    def __init__(self, path: str | Path, header: Mapping[str, Any]) -> None:
        path = Path(path)
        header = json.loads(json.dumps({"format": FORMAT, "version": VERSION, **header}))
        whole = 0
        if path.exists() and path.stat().st_size:
            existing = Recording(path)
            existing.close()
            differing = [key for key in {**header, **existing.header} if header.get(key) != existing.header.get(key)]
            if differing := [key for key in differing if key not in ("arrays", "date")]:
                raise RecordingError(
                    f"{path}: holds a recording of something else (other {', '.join(differing)}): give another path"
                )
            whole = existing.size
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("r+b" if whole else "wb")
        self._file.truncate(whole)
        self._file.seek(whole)
        if not whole:
            self.append(header, {})

    def append(self, meta: Mapping[str, Any], arrays: Arrays) -> None:
        """Write one request: JSON values, and arrays by name."""
        plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        checks = {name: zlib.crc32(array.data) for name, array in plain.items()}
        text = json.dumps({**meta, "arrays": checks}).encode()
        for array in (np.frombuffer(text, np.uint8), *plain.values()):
            np.lib.format.write_array(self._file, array, version=(1, 0), allow_pickle=False)
        self._file.flush()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _scan(file: IO[bytes]) -> tuple[list[int], list[dict[str, Any]], int]:
    """Where whole records begin, their metadata, and where the last one ends."""
    end = file.seek(0, 2)
    file.seek(0)
    offsets, found, whole = [], [], 0
    while whole < end:
        try:
            meta = _meta(file)
            for _ in meta["arrays"]:
                shape, dtype = _array_header(file)
                file.seek(int(np.prod(shape)) * dtype.itemsize, 1)
        except (ValueError, KeyError, TypeError):  # cut off, or no recording at all: there is no first record then
            break
        if file.tell() > end:
            break
        offsets.append(whole)
        found.append(meta)
        whole = file.tell()
    return offsets, found, whole


def _read(file: IO[bytes]) -> Record:
    meta = _meta(file)
    return meta, {name: np.lib.format.read_array(file, allow_pickle=False) for name in meta["arrays"]}


def _meta(file: IO[bytes]) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads(np.lib.format.read_array(file, allow_pickle=False).tobytes())
    return meta


def _array_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype
