"""Reads the IDX files of MNIST and of the sets published in its form (yann.lecun.com/exdb/mnist, "file formats").

Header, big-endian: two zero bytes, the type (8: unsigned byte), the number of dimensions, each dimension in 32 bits.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from optical_dfa.run_errors import DataError

Bytes = npt.NDArray[np.uint8]

_UNSIGNED_BYTE = 8


def read_pair(folder: Path, part: str) -> tuple[Bytes, Bytes]:
    """Images and labels of one part of a set.

    Args:
        folder: holds `{part}-images-idx3-ubyte` and `{part}-labels-idx1-ubyte`, plain or with `.gz`; the plain file is
            read where both are there.
        part: `train` or `t10k`.

    Returns:
        uint8 images (images, rows, columns) and uint8 labels (images,).

    Raises:
        DataError: a file is missing, damaged, or not what its name says; the counts do not agree.
    """
    images = read_idx(_find(folder, f"{part}-images-idx3-ubyte"), dimensions=3)
    labels = read_idx(_find(folder, f"{part}-labels-idx1-ubyte"), dimensions=1)
    if len(images) != len(labels):
        raise DataError(f"{folder}: {part} has {len(images)} images and {len(labels)} labels: files of different sets")
    return images, labels


def read_idx(path: Path, dimensions: int) -> Bytes:
    """The array in an IDX file, gzipped if its name ends in `.gz`.

    Args:
        path: the file.
        dimensions: how many it must have.

    Returns:
        uint8, one axis a dimension.

    Raises:
        DataError: the file is damaged, or is not unsigned bytes of that many dimensions.
    """
    content = _content(path)
    header = 4 + 4 * dimensions
    magic = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    if content[:4] != magic:
        first = content[:4].hex(" ") or "nothing"
        hint = " (it is gzipped: add .gz to its name)" if content[:2] == b"\x1f\x8b" else ""
        raise DataError(f"{path}: must begin with {magic.hex(' ')} as an IDX file does; got {first}{hint}")
    if len(content) < header:
        raise DataError(f"{path}: cut off inside its header, {len(content)} of {header} bytes: get it again")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4))
    expected, given, says = header + math.prod(shape), len(content), f"its header says {' x '.join(map(str, shape))}"
    if given != expected:
        fault = "cut off" if given < expected else "too long"
        raise DataError(f"{path}: {fault}: {says}, which takes {expected} bytes; it has {given}: get it again")
    if 0 in shape:
        raise DataError(f"{path}: empty: {says}: get it again")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"{folder}: has no {name} and no {name}.gz: give the folder with the four IDX files of the set")


def _content(path: Path) -> bytes:
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as file:
            return file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged or cut off: not a whole gzip file ({error}): get it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
