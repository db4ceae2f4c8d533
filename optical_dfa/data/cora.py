"""Reads the citation graph Cora in the files ind.cora.* of Planetoid (Yang et al. 2016).

They are pickles of Python 2. They are read by an unpickler that knows arrays, lists and sparse matrices by name and
refuses all else, so that a file can give wrong numbers, but run nothing.
"""

import collections
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from optical_dfa.run_errors import DataError

_PARTS = ("x", "y", "tx", "ty", "allx", "ally", "graph")


class Cora(NamedTuple):
    """The graph, and the public split of its nodes; its 500 validation nodes are not used."""

    features: npt.NDArray[np.float32]
    """(nodes, features) word counts of each paper, divided by their sum."""
    labels: npt.NDArray[np.int64]
    """(nodes,)"""
    edges: npt.NDArray[np.int64]
    """(2, edges) each citation in both directions, once, without those of a paper by itself."""
    train: npt.NDArray[np.int64]
    """(140,) nodes whose labels are known, 20 of each class."""
    test: npt.NDArray[np.int64]
    """(1000,)"""


def read_cora(folder: Path) -> Cora:
    """The graph in a folder that holds ind.cora.x, y, tx, ty, allx, ally, graph and test.index.

    Raises:
        DataError: a file is missing, damaged, or names anything but arrays.
    """
    parts = {name: _unpickled(folder / f"ind.cora.{name}") for name in _PARTS}
    path = folder / "ind.cora.test.index"
    try:
        test = np.array(path.read_text("ascii").split(), np.int64)
        return _assembled(parts, test)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder}: the files ind.cora.* do not fit together ({error}): download them again") from None


def _assembled(parts: Mapping[str, Any], test: npt.NDArray[np.int64]) -> Cora:
    features = np.concatenate([parts["allx"].dense(), parts["tx"].dense()])
    one_hot = np.concatenate([parts["ally"], parts["ty"]])
    # the rows of tx come in the order of test.index, which is not that of the nodes
    features[test], one_hot[test] = parts["tx"].dense(), parts["ty"]
    pairs = [(node, other) for node, others in parts["graph"].items() for other in others if node != other]
    both = np.unique(np.array(pairs + [pair[::-1] for pair in pairs], np.int64), axis=0)
    if len(features) != len(one_hot) or both.min() < 0 or both.max() >= len(features):
        raise ValueError(f"{len(features)} nodes, {len(one_hot)} labels, edges among nodes 0 … {both.max()}")
    counts = features.sum(axis=1, keepdims=True)
    return Cora(
        features=(features / np.maximum(counts, 1)).astype(np.float32),
        labels=one_hot.argmax(axis=1).astype(np.int64),
        edges=np.ascontiguousarray(both.T),
        train=np.arange(len(parts["y"])),
        test=np.sort(test),
    )


class _Sparse:
    """What a SciPy matrix in compressed sparse rows leaves in a pickle."""

    data: npt.NDArray[np.float32]
    indices: npt.NDArray[np.int32]
    indptr: npt.NDArray[np.int32]
    _shape: tuple[int, int]

    def dense(self) -> npt.NDArray[np.float32]:
        """The matrix, zeros and all."""
        matrix = np.zeros(self._shape, np.float32)
        rows = np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))
        np.add.at(matrix, (rows, self.indices), self.data)
        return matrix


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("scipy.sparse.csr", "csr_matrix"): _Sparse,
    ("collections", "defaultdict"): collections.defaultdict,
    ("__builtin__", "list"): list,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"names {module}.{name}, which is no array")
        return _ADMITTED[module, name]


def _unpickled(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _Unpickler(file, encoding="latin1").load()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}: the eight files ind.cora.* are in the folder data of "
            "github.com/kimiyoung/planetoid"
        ) from None
    except Exception as error:  # of damaged pickles: almost any kind
        raise DataError(f"{path}: {error}: download it again") from None
