"""The scripts in `examples/` run on small sets of the published form, and show their audit."""

import pickle
import re
import runpy
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def run(script: str, *arguments: object) -> None:
    """Run a script as `python examples/…` would."""
    old = sys.argv
    sys.argv = [script, *map(str, arguments)]
    try:
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    finally:
        sys.argv = old


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    """Ten images, one of each class, and as many for the test."""
    rng = np.random.default_rng(0)
    for name in ("data_batch_1", "test_batch"):
        records = np.hstack([np.arange(10)[:, None], rng.integers(0, 256, (10, 3072))]).astype(np.uint8)
        (tmp_path / f"{name}.bin").write_bytes(records.tobytes())
    return tmp_path


@pytest.fixture
def cora(tmp_path: Path) -> Path:
    """A graph of two cliques in the form of Planetoid, one class each: 6 nodes for training, 4 for the test."""
    n_train, n_test, n_all = 6, 4, 506  # the reader takes 500 nodes for validation
    labels = np.arange(n_all + n_test) % 2
    features = scipy.sparse.csr_matrix(np.eye(2)[labels] + 0.1)
    onehot = np.eye(2, dtype=np.int32)[labels]
    graph = defaultdict(list, {i: [j for j in range(i % 2, 20, 2) if j != i] for i in range(n_all + n_test)})
    parts = {
        "x": features[:n_train],
        "y": onehot[:n_train],
        "allx": features[:n_all],
        "ally": onehot[:n_all],
        "tx": features[n_all:],
        "ty": onehot[n_all:],
        "graph": graph,
    }
    raw = tmp_path / "Cora" / "raw"
    raw.mkdir(parents=True)
    for name, value in parts.items():
        (raw / f"ind.cora.{name}").write_bytes(pickle.dumps(value, protocol=2))
    (raw / "ind.cora.test.index").write_text("".join(f"{n_all + i}\n" for i in range(n_test)))
    return tmp_path


def test_convnet(cifar10: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("cifar10/convnet.py", "--folder", cifar10, "--epochs", 1, "-o", tmp_path / "out")
    printed = capsys.readouterr().out
    assert len(re.findall(r"epoch 1: \d+\.0 % of the test images", printed)) == 3  # of ten images: whole tens
    last = re.findall(r"^([^:\d]*): \d+\.\d % of the test images$", printed, re.MULTILINE)
    assert last == ["backpropagation", "optical DFA, emulated", "shallow control"]
    assert "Alignment at step 1\n" in printed
    assert "feedback at '2'\n  1.weight, bias  32 x 3 x 3 x 3, 32  feedback\n" in printed
    assert "exact, from the output\n  14.weight, bias  10 x 512, 10  exact\n" in printed
    assert (tmp_path / "out" / "convnet.png").read_bytes()[:4] == b"\x89PNG"


def test_resnet(cifar10: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("cifar10/resnet.py", "--folder", cifar10, "--epochs", 1)
    printed = capsys.readouterr().out
    for audit in (
        r"^feedback at '1'.*\n  \.first\.0\.weight .* backpropagated, through \.first\.1\.weight,$",
        r"^feedback at '1\.inner'.*\n  \.0\.weight .* through \.1\.weight\n  \.1\.weight, bias .*  feedback$",
    ):
        assert re.search(audit, printed, re.MULTILINE)
    assert len(re.findall(r"^.*: \d+\.0 % of the test images$", printed, re.MULTILINE)) == 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch_geometric")
def test_gcn(cora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two cliques of one class each are told apart by their features: every way that learns reaches 100 %."""
    run("cora/gcn.py", "--folder", cora, "--epochs", 40, "--seeds", 1)
    printed = capsys.readouterr().out
    assert re.search(
        r"^feedback at 'activation'.*\n  \.bias .*\n  \.lin\.weight +16 x 2 +feedback$", printed, re.MULTILINE
    )
    for name in ("backpropagation", "exact DFA", "optical DFA", "optical DFA, default threshold of 0.5"):
        assert f"{name}: 100.0 ± 0.0 % of the test nodes" in printed


def test_transformer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A text of ten words that repeats: after 30 steps backpropagation guesses better than all ten alike."""
    text = " ".join("abcdefghij"[i % 10] for i in range(2000))
    (tmp_path / "train.txt").write_text(text)
    (tmp_path / "valid.txt").write_text(text[:1000])
    run("wikitext/transformer.py", tmp_path / "train.txt", tmp_path / "valid.txt", "--steps", 30)
    printed = capsys.readouterr().out
    perplexity = {name: float(value) for name, value in re.findall(r"^(.+): perplexity ([\d.]+) of", printed, re.M)}
    assert list(perplexity) == ["backpropagation", "exact DFA", "optical DFA", "shallow control"]
    assert perplexity["backpropagation"] < 10
    assert "feedback at 'encoder.layers.0'  (.x stands for encoder.layers.0.x)\n" in printed
    assert re.search(
        r"^  \.linear1\.weight, bias +512 x 128, 512 +backpropagated, through \.linear2\.weight", printed, re.MULTILINE
    )
