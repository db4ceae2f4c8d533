"""Image-classification tasks, and what is said when their files are not as they should be."""

import gzip
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import sklearn.datasets
import torch

from optical_dfa.data import load_task
from optical_dfa.run_errors import DataError

Bytes = npt.NDArray[np.uint8]


def idx_bytes(array: Bytes) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def small_set() -> dict[str, Bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 4, 5), np.uint8)
    labels = np.arange(30, dtype=np.uint8) % 3
    return {
        "train-images-idx3-ubyte": pixels[:20],
        "train-labels-idx1-ubyte": labels[:20],
        "t10k-images-idx3-ubyte": pixels[20:],
        "t10k-labels-idx1-ubyte": labels[20:],
    }


def write_set(folder: Path, arrays: dict[str, Bytes], *, gzipped: bool) -> None:
    for name, array in arrays.items():
        if gzipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array), mtime=0))
        else:
            (folder / name).write_bytes(idx_bytes(array))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_set(tmp_path, small_set(), gzipped=False)
    return tmp_path


def test_digits() -> None:
    task = load_task("digits")
    assert task.train_images.shape == (1437, 64)
    assert task.test_images.shape == (360, 64)
    assert task.train_images.dtype == torch.float32
    assert task.train_labels.dtype == torch.int64
    assert task.n_classes == 10
    # the split is part of every published number: it must never change
    assert task.sha256 == "28d636f2f47ec885bab6c1d883c883cd3f85cb5f6d0f1457558c6b672cc71adf"
    fraction = torch.bincount(task.test_labels) / torch.bincount(torch.cat([task.train_labels, task.test_labels]))
    assert torch.all((fraction - 0.2).abs() < 1 / 170)  # stratified: each class of at least 174 is off by less than one
    assert abs(float(task.train_images.mean())) < 1e-5
    assert abs(float(task.train_images.std(correction=0)) - 1) < 1e-5


@pytest.mark.parametrize("gzipped", [False, True])
def test_idx_values(tmp_path: Path, gzipped: bool) -> None:
    arrays = small_set()
    write_set(tmp_path, arrays, gzipped=gzipped)
    task = load_task("mnist", tmp_path)
    train = arrays["train-images-idx3-ubyte"] / 255
    assert task.pixel_mean == pytest.approx(train.mean(), rel=1e-12)
    assert task.pixel_std == pytest.approx(train.std(), rel=1e-12)
    expected = (arrays["t10k-images-idx3-ubyte"].reshape(10, 20) / 255 - train.mean()) / train.std()
    np.testing.assert_allclose(task.test_images.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert task.test_labels.tolist() == arrays["t10k-labels-idx1-ubyte"].tolist()
    assert (task.n_features, task.n_classes) == (20, 3)


def test_plain_file_is_read_where_both_are(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"not even gzip")
    assert len(load_task("mnist", folder).train_images) == 20


def test_hash_tells_sets_apart(folder: Path) -> None:
    before = load_task("mnist", folder).sha256
    content = bytearray((folder / "t10k-images-idx3-ubyte").read_bytes())
    content[-1] ^= 1
    (folder / "t10k-images-idx3-ubyte").write_bytes(content)
    assert load_task("mnist", folder).sha256 != before


def replaced(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return apply


def removed(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def gzipped(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "train-images-idx3-ubyte"
        path.with_name(f"{path.name}.gz").write_bytes(change(gzip.compress(path.read_bytes(), mtime=0)))
        path.unlink()

    return apply


def flip_middle(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            removed("t10k-labels-idx1-ubyte"),
            r"has no t10k-labels-idx1-ubyte and no .*\.gz: give",
        ),
        (
            replaced("train-images-idx3-ubyte", lambda c: c[:-7]),
            r"ubyte: cut off: its header says 20 x 4 x 5, which",
        ),
        (replaced("train-images-idx3-ubyte", lambda c: c + b"x"), r"too long: .* takes 416 bytes; it has 417"),
        (replaced("train-images-idx3-ubyte", lambda c: c[:9]), r"cut off inside its header, 9 of 16 bytes"),
        (replaced("train-images-idx3-ubyte", lambda c: b""), r"must begin with 00 00 08 03 .* got nothing"),
        (
            replaced("train-images-idx3-ubyte", gzip.compress),
            r"got 1f 8b 08 00 \(it is gzipped: add \.gz to",
        ),
        (
            replaced("train-labels-idx1-ubyte", lambda c: c[:3] + b"\3" + c[4:]),
            r"must begin with 00 00 08 01 .* 00 00 08 03",
        ),
        (gzipped(lambda c: c[:-20]), r"train-images-idx3-ubyte\.gz: damaged or cut off"),
        (gzipped(flip_middle), r"train-images-idx3-ubyte\.gz: damaged or cut off"),
        (gzipped(lambda c: b"PK" + c), r"train-images-idx3-ubyte\.gz: damaged or cut off: not a whole gzip file"),
        (
            replaced("train-labels-idx1-ubyte", lambda _: idx_bytes(np.zeros(19, np.uint8))),
            r"train has 20 images and 19 labels",
        ),
        (
            replaced("t10k-labels-idx1-ubyte", lambda _: idx_bytes(np.full(10, 7, np.uint8))),
            r"test label 7 does not occur in training \(labels 0 … 2\)",
        ),
        (
            replaced("t10k-images-idx3-ubyte", lambda _: idx_bytes(np.zeros((10, 5, 5), np.uint8))),
            r"training images are 4 x 5, test images 5 x 5",
        ),
        (
            replaced("t10k-images-idx3-ubyte", lambda _: idx_bytes(np.zeros((0, 4, 5), np.uint8))),
            r"t10k-images-idx3-ubyte: empty: its header says 0 x 4 x 5",
        ),
        (
            replaced("train-images-idx3-ubyte", lambda _: idx_bytes(np.full((20, 4, 5), 9, np.uint8))),
            r"every training pixel is 9: there is nothing to learn",
        ),
    ],
)
def test_damaged_sets(folder: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(folder)
    with pytest.raises(DataError, match=message):
        load_task("mnist", folder)


def write_cifar10(folder: Path) -> tuple[Bytes, Bytes]:
    """Three files of records, as published; returns all pixels (5, 3, 32, 32) and labels."""
    rng = np.random.default_rng(1)
    pixels, labels = rng.integers(0, 256, (5, 3, 32, 32), np.uint8), np.array([3, 9, 0, 3, 9], np.uint8)
    records = np.concatenate([labels[:, None], pixels.reshape(5, -1)], axis=1)
    for name, part in (("data_batch_1", records[:2]), ("data_batch_2", records[2:3]), ("test_batch", records[3:])):
        (folder / f"{name}.bin").write_bytes(part.tobytes())
    return pixels, labels


def test_cifar10_values(tmp_path: Path) -> None:
    pixels, labels = write_cifar10(tmp_path)
    task = load_task("cifar10", tmp_path)
    assert (task.n_features, task.n_classes) == (3072, 10)
    assert torch.cat([task.train_labels, task.test_labels]).tolist() == labels.tolist()
    train = pixels[:3] / 255
    expected = (pixels / 255 - train.mean()) / train.std()
    found = torch.cat([task.train_images, task.test_images]).view(5, 3, 32, 32)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("test_batch.bin", lambda c: c[:-1], r"test_batch\.bin: 6145 bytes are not records of 3073"),
        ("data_batch_2.bin", lambda c: b"", r"data_batch_2\.bin: 0 bytes are not records"),
        ("data_batch_1.bin", lambda c: b"\x0a" + c[1:], r"label 10 is none of 0 … 9: it is not of CIFAR-10"),
    ],
)
def test_damaged_cifar10(tmp_path: Path, name: str, change: Callable[[bytes], bytes], message: str) -> None:
    write_cifar10(tmp_path)
    replaced(name, change)(tmp_path)
    with pytest.raises(DataError, match=message):
        load_task("cifar10", tmp_path)


def test_missing_cifar10(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data_batch_\*\.bin there: unpack cifar-10-binary"):
        load_task("cifar10", tmp_path)
    write_cifar10(tmp_path)
    removed("test_batch.bin")(tmp_path)
    with pytest.raises(DataError, match=r"test_batch\.bin cannot be read: No such file"):
        load_task("cifar10", tmp_path)
    with pytest.raises(DataError, match="needs the folder of its binary version"):
        load_task("cifar10")


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder \(current directory: "):
        load_task("mnist", tmp_path / "nowhere")


def test_unknown_names() -> None:
    with pytest.raises(DataError, match=r"unknown task 'minst': known are digits, mnist, fashion-mnist"):
        load_task("minst")
    with pytest.raises(DataError, match=r"'digits' comes with scikit-learn and takes no folder; got 'x'"):
        load_task("digits", "x")


def test_scikit_learn_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"needs scikit-learn .*: pip install 'optical_dfa\[data\]', or use task mnist"):
        load_task("digits")


class OpenML:
    """Stands in for scikit-learn's `fetch_openml`, and counts its calls."""

    def __init__(self, pixel: float = 7.0) -> None:
        self.calls: list[tuple[str, int]] = []
        self.data = np.full((70_000, 4), pixel)
        self.data[::2] = 11.0

    def __call__(self, name: str, *, version: int, as_frame: bool, parser: str) -> Any:
        assert not as_frame
        assert parser == "liac-arff"  # the only one that does not need pandas
        self.calls.append((name, version))
        return SimpleNamespace(data=self.data, target=np.array([str(i % 10) for i in range(70_000)]))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    return tmp_path / "optical_dfa" / "mnist_784.npz"


def test_download_happens_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openml = OpenML()
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", openml)
    first, second = load_task("mnist"), load_task("mnist")
    assert openml.calls == [("mnist_784", 1)]
    assert first.sha256 == second.sha256
    assert (len(first.train_images), len(first.test_images), first.n_classes) == (60_000, 10_000, 10)
    assert first.pixel_mean == pytest.approx(9 / 255)
    assert first.pixel_std == pytest.approx(2 / 255)
    assert first.test_labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


def test_damaged_download_cache(cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_bytes(b"PK\3\4 and no more")
    with pytest.raises(DataError, match=r"mnist_784\.npz: damaged \(.*\): delete it, and it is downloaded again"):
        load_task("mnist")


def test_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", unreachable)
    with pytest.raises(DataError, match=r"mnist_784 cannot be had .*not known\): check the network, or give a folder"):
        load_task("mnist")
    assert not cache.exists()


@pytest.mark.parametrize("pixel", [-1.0, 256.0, 0.5])
def test_downloaded_values_are_checked(pixel: float, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", OpenML(pixel))
    with pytest.raises(DataError, match=r"the images are not 70000 of whole numbers 0 … 255; got \(70000, 4\)"):
        load_task("mnist")
    assert not cache.exists()
