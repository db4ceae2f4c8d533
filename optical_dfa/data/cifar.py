"""Reads the binary version of CIFAR-10 (Krizhevsky 2009; www.cs.toronto.edu/~kriz/cifar.html).

A file is records of 3,073 bytes: the label, then 32 x 32 pixels of red, of green and of blue.
"""

from pathlib import Path

import numpy as np

from optical_dfa.data.idx import Bytes
from optical_dfa.run_errors import DataError

SHAPE = (3, 32, 32)
N_CLASSES = 10

_RECORD_BYTES = 1 + 3 * 32 * 32


def read_cifar10(folder: Path) -> tuple[Bytes, Bytes, Bytes, Bytes]:
    """Training images and labels, test images and labels.

    Args:
        folder: holds `data_batch_*.bin`, one or more of them, and `test_batch.bin`.

    Returns:
        uint8 images (images, 3, 32, 32) and uint8 labels (images,), of either part.

    Raises:
        DataError: a file is missing or damaged.
    """
    batches = sorted(folder.glob("data_batch_*.bin"))
    if not batches:
        raise DataError(
            f"{folder}: no data_batch_*.bin there: unpack cifar-10-binary.tar.gz of www.cs.toronto.edu/~kriz/cifar.html"
        )
    parts = [_read(path) for path in batches]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return images, labels, *_read(folder / "test_batch.bin")


def _read(path: Path) -> tuple[Bytes, Bytes]:
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    if not len(content) or len(content) % _RECORD_BYTES:
        raise DataError(f"{path}: {len(content)} bytes are not records of {_RECORD_BYTES}: download it again")
    records = content.reshape(-1, _RECORD_BYTES)
    labels = np.ascontiguousarray(records[:, 0])
    if labels.max() >= N_CLASSES:
        raise DataError(f"{path}: label {labels.max()} is none of 0 … {N_CLASSES - 1}: it is not of CIFAR-10")
    return np.ascontiguousarray(records[:, 1:]).reshape(-1, *SHAPE), labels
