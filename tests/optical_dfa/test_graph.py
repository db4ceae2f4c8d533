"""Nodes of a graph: the files of Cora, the normalised adjacency, and feedback of graph convolutions by hand."""

import pickle
import struct
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from optical_dfa.config import RunConfig
from optical_dfa.data import NodeTask, load_task
from optical_dfa.run_errors import DataError
from optical_dfa.study.cell import run_cell
from optical_dfa.training.graph import GraphConvolution, GraphNet, normalised_adjacency
from optical_dfa.training.run import Run

# a path 0 - 1 - 2 - 3 and a pair 4 - 5; nodes 3 and 4 are for testing, node 2 has no label that is used
EDGES = ((0, 1), (1, 2), (2, 3), (4, 5))
WORDS = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0], [1, 0, 1]], np.float32)
LABELS = np.array([0, 1, 1, 0, 1, 0])
TEST_INDEX = (5, 3, 4)  # as in the published files, not in order


class csr_matrix:  # noqa: N801  # pickled under the name that SciPy's had
    """The attributes that the published pickles hold."""

    def __init__(self, dense: np.ndarray[Any, Any]) -> None:
        rows, self.indices = (axis.astype(np.int32) for axis in np.nonzero(dense))
        self.indptr = np.searchsorted(rows, np.arange(len(dense) + 1)).astype(np.int32)
        self.data, self._shape = dense[np.nonzero(dense)], dense.shape


csr_matrix.__module__ = "scipy.sparse.csr"


PythonPickler: Any = pickle._Pickler  # writes names that cannot be imported


class _Pickler(PythonPickler):  # type: ignore[misc]
    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = {"numpy._core.multiarray": "numpy.core.multiarray", "builtins": "__builtin__"}
        self.write(f"c{module.get(obj.__module__, obj.__module__)}\n{name or obj.__name__}\n".encode())
        self.memoize(obj)

    def save_bytes(self, obj: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(obj)) + obj)  # the text of Python 2

    dispatch = {  # noqa: RUF012  # as its base class has it
        **PythonPickler.dispatch,
        type: save_global, FunctionType: save_global, BuiltinFunctionType: save_global, bytes: save_bytes,
    }  # fmt: skip


def write_cora(folder: Path) -> None:
    """The small graph in the form of the published files: protocol 2, names of Python 2 and of old versions."""
    graph: dict[int, list[int]] = defaultdict(list)
    for node, other in EDGES:
        graph[node].append(other)
    graph[1] += [0, 0, 1]  # both directions, twice, and itself: all in the published file
    one_hot = np.eye(2, dtype=np.int32)[LABELS]
    test = list(TEST_INDEX)
    parts = {
        "x": csr_matrix(WORDS[:2]), "y": one_hot[:2], "allx": csr_matrix(WORDS[:3]), "ally": one_hot[:3],
        "tx": csr_matrix(WORDS[test]), "ty": one_hot[test], "graph": graph,
    }  # fmt: skip
    for name, value in parts.items():
        with (folder / f"ind.cora.{name}").open("wb") as file:
            _Pickler(file, 2).dump(value)
    (folder / "ind.cora.test.index").write_text("\n".join(map(str, test)) + "\n")


@pytest.fixture
def task(tmp_path: Path) -> NodeTask:
    write_cora(tmp_path)
    task = load_task("cora", tmp_path)
    assert isinstance(task, NodeTask)
    return task


def config(**changes: Any) -> RunConfig:
    values = {
        "task": {"name": "cora", "folder": "data"},
        "model": {"kind": "gcn", "hidden": [4]},
        "training": {"epochs": 3, "batch_size": 2, "learning_rate": 0.05, "threads": 1},
        "feedback": {"ternarize": None},
        "device": "digital",
    }
    return RunConfig.model_validate({**values, **changes})


def test_what_the_files_hold(task: NodeTask) -> None:
    np.testing.assert_allclose(task.features, WORDS / np.maximum(WORDS.sum(1, keepdims=True), 1))
    assert task.edges.T.tolist() == sorted([*map(list, EDGES), *([b, a] for a, b in EDGES)])
    assert (task.train_images.tolist(), task.train_labels.tolist()) == ([0, 1], [0, 1])
    assert (task.test_images.tolist(), task.test_labels.tolist()) == ([3, 4, 5], [0, 1, 0])
    assert (task.n_features, task.n_classes) == (3, 2)


class _Harmful:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (Path("ran"),)


def test_a_file_can_run_nothing(task: NodeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ind.cora.y").write_bytes(pickle.dumps(_Harmful(), 2))
    with pytest.raises(
        DataError, match=r"ind\.cora\.y: names pathlib\.Path\.?\w*, which is no array|which is no array"
    ):
        load_task("cora", tmp_path)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("graph", None, r"ind\.cora\.graph cannot be read: No such file or directory: the eight files"),
        ("test.index", None, r"test\.index cannot be read"),
        ("allx", b"\x80\x02", r"ind\.cora\.allx: .*download it again"),
        ("test.index", b"5\n3\n9\n", r"do not fit together"),
        ("test.index", b"5\n3\nx\n", r"do not fit together"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    write_cora(tmp_path)
    path = tmp_path / f"ind.cora.{name}"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_task("cora", tmp_path)


def test_adjacency_is_normalised() -> None:
    adjacency = normalised_adjacency(torch.tensor([(a, b) for a, b in EDGES] + [(b, a) for a, b in EDGES]).T, 6)
    dense = np.eye(6)
    for a, b in EDGES:
        dense[a, b] = dense[b, a] = 1
    degree = dense.sum(1)
    np.testing.assert_allclose(adjacency.to_dense(), dense / np.sqrt(np.outer(degree, degree)), rtol=1e-6)
    # its largest eigenvalue is 1, of the eigenvector √degree, once for each connected part
    eigenvalues = np.linalg.eigvalsh(adjacency.to_dense().numpy())
    np.testing.assert_allclose(eigenvalues[-2:], 1, rtol=1e-6)
    np.testing.assert_allclose(adjacency.to_dense().numpy() @ np.sqrt(degree), np.sqrt(degree), rtol=1e-6)


def test_the_net_has_the_parameters_of_a_plain_one(task: NodeTask) -> None:
    with Run(config(), task) as run:
        assert isinstance(run.net, GraphNet)
        assert isinstance(run.net[0], GraphConvolution)
        assert sum(parameter.numel() for parameter in run.net.parameters()) == (3 * 4 + 4) + (4 * 2 + 2)
        assert list(run.net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize("kind", ["gcn", "mlp"])
def test_gradients_by_hand(task: NodeTask, kind: str) -> None:
    with Run(config(model={"kind": kind, "hidden": [4]}), task) as run:
        assert run.feedback is not None
        output, loss = run._forward(task.train_images, task.train_labels)
        loss.backward()  # type: ignore[no-untyped-call]
        first, last = run.net[0], run.net[2]
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        a = normalised_adjacency(task.edges, 6).to_dense() if kind == "gcn" else torch.eye(6)
        hidden = torch.tanh(a @ (task.features @ first.weight.T + first.bias))
        logits = a @ (hidden @ last.weight.T + last.bias)
        torch.testing.assert_close(output, logits[task.train_images])
        error = torch.zeros(6, 2)
        error[task.train_images] = (torch.softmax(logits, 1)[task.train_images] - torch.eye(2)[task.train_labels]) / 2
        matrix = torch.from_numpy(run.feedback.device.effective_matrix())
        delta = (error @ matrix.T / 4**0.5) * (1 - hidden**2)  # feedback at the activation, then its derivative
        torch.testing.assert_close(first.weight.grad, (a.T @ delta).T @ task.features)
        torch.testing.assert_close(first.bias.grad, (a.T @ delta).sum(0))
        torch.testing.assert_close(last.weight.grad, (a.T @ error).T @ hidden)


def test_dark_nodes_are_not_displayed(task: NodeTask) -> None:
    cell = run_cell(config(feedback={}, device={"name": "emulator"}), task)
    # 3 epochs of one step: two labelled nodes, of two classes one + and one -: 2 patterns of 4 frames each
    assert cell["frames"] == 3 * 2 * 8
    assert cell["snr_db"] > 20


def test_shallow_trains_the_last_layer_alone(task: NodeTask) -> None:
    with Run(config(training={"method": "shallow", "learning_rate": 0.1, "batch_size": 2}), task) as run:
        before = {name: value.clone() for name, value in run.net.state_dict().items()}
        run.train_step(torch.arange(2))
        changed = {name for name, value in run.net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"2.weight", "2.bias"}


def test_what_does_not_go_together() -> None:
    with pytest.raises(ValidationError, match=r"task 'mnist' has no graph: remove the key, or set task\.name: cora"):
        config(task={"name": "mnist"})
    with pytest.raises(ValidationError, match="task 'cora' is read from a folder with its eight files"):
        config(task={"name": "cora"})
    with pytest.raises(DataError, match=r"task 'cora' needs the folder of its eight files ind\.cora"):
        load_task("cora")
