"""Classification tasks: the digits that come with scikit-learn, MNIST-like sets, CIFAR-10, Cora."""

import hashlib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from optical_dfa.data.cifar import read_cifar10
from optical_dfa.data.cora import read_cora
from optical_dfa.data.idx import Bytes, read_pair
from optical_dfa.files import write_whole
from optical_dfa.run_errors import DataError

_OPENML = {"mnist": "mnist_784", "fashion-mnist": "Fashion-MNIST"}
"""Names of the sets at openml.org, both version 1; their first 60,000 rows are the published training images."""

_FILES = {"cifar10": "its binary version", "cora": "its eight files ind.cora.*"}
"""Sets that are not downloaded, and what their folder holds."""

_N_TRAIN = 60_000


@dataclass(frozen=True, eq=False)
class ImageTask:
    """Images to be classified.

    Pixels are scaled to 0 … 1 and then standardised: minus the mean, divided by the standard deviation, both scalars
    over all pixels of the training images.
    """

    name: str
    train_images: Tensor
    """float32 (images, features)."""
    train_labels: Tensor
    """int64 (images,), 0 … n_classes - 1."""
    test_images: Tensor
    """As `train_images`."""
    test_labels: Tensor
    """As `train_labels`."""
    n_classes: int
    pixel_mean: float
    """Mean of the training pixels, on the scale 0 … 1."""
    pixel_std: float
    """Their standard deviation."""
    sha256: str
    """Of the bytes of images and labels, before scaling."""

    @property
    def n_features(self) -> int:
        """Pixels of an image."""
        return self.train_images.shape[1]


@dataclass(frozen=True, eq=False)
class NodeTask(ImageTask):
    """Nodes of a graph to be classified. `train_images` and `test_images` are their numbers, int64 (nodes,)."""

    features: Tensor
    """float32 (nodes, features), of all nodes, rows that sum to 1; not standardised."""
    edges: Tensor
    """int64 (2, edges), each in both directions, once, none from a node to itself."""

    @property
    def n_features(self) -> int:
        """Features of a node."""
        return self.features.shape[1]


def load_task(name: str, folder: str | Path | None = None) -> ImageTask:
    """A task by name.

    Args:
        name: `digits` (1,797 images of 8 x 8, four fifths for training, comes with scikit-learn), `mnist`,
            `fashion-mnist`, `cifar10` (3,072 features: the red, the green and the blue pixels, row by row), or `cora`
            (papers of a citation graph, 1,433 word counts each, 140 for training, 1,000 for test: a `NodeTask`).
        folder: folder with the four IDX files of `mnist`, `fashion-mnist` or any set of that form, with the binary
            version of `cifar10`, or with the eight files ind.cora.*; None: scikit-learn downloads the set once, but
            neither `cifar10` nor `cora`.

    Raises:
        DataError: unknown name, file missing or damaged, no network, no scikit-learn; the message says what to do.
    """
    if name == "digits":
        if folder is not None:
            raise DataError(f"task 'digits' comes with scikit-learn and takes no folder; got {str(folder)!r}")
        return _digits()
    if name not in (*_OPENML, *_FILES):
        raise DataError(f"unknown task {name!r}: known are digits, {', '.join((*_OPENML, *_FILES))}")
    if folder is None:
        if name in _FILES:
            raise DataError(f"task {name!r} needs the folder of {_FILES[name]}: --set task.folder=PATH")
        images, labels = _downloaded(_OPENML[name])
        return _task(name, images[:_N_TRAIN], labels[:_N_TRAIN], images[_N_TRAIN:], labels[_N_TRAIN:], white=255)
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder (current directory: {Path.cwd()})")
    if name == "cora":
        return _cora(folder)
    if name == "cifar10":
        return _task(name, *read_cifar10(folder), white=255)
    return _task(name, *read_pair(folder, "train"), *read_pair(folder, "t10k"), white=255)


def _task(name: str, train_x: Bytes, train_y: Bytes, test_x: Bytes, test_y: Bytes, white: int) -> ImageTask:
    if train_x.shape[1:] != test_x.shape[1:]:
        train_size, test_size = (" x ".join(map(str, x.shape[1:])) for x in (train_x, test_x))
        raise DataError(f"{name}: training images are {train_size}, test images {test_size}: files of different sets")
    n_classes = int(train_y.max()) + 1
    if int(test_y.max()) >= n_classes:
        raise DataError(f"{name}: test label {test_y.max()} does not occur in training (labels 0 … {n_classes - 1})")
    digest = hashlib.sha256()
    for array in (train_x, train_y, test_x, test_y):
        digest.update(array.tobytes())
    mean, std = float(train_x.mean()) / white, float(train_x.std()) / white
    if not std:
        raise DataError(f"{name}: every training pixel is {train_x.flat[0]}: there is nothing to learn")

    def standardised(images: Bytes) -> Tensor:
        return torch.from_numpy(images.reshape(len(images), -1).astype(np.float32)).div_(white).sub_(mean).div_(std)

    return ImageTask(
        name=name,
        train_images=standardised(train_x),
        train_labels=torch.from_numpy(train_y.astype(np.int64)),
        test_images=standardised(test_x),
        test_labels=torch.from_numpy(test_y.astype(np.int64)),
        n_classes=n_classes,
        pixel_mean=mean,
        pixel_std=std,
        sha256=digest.hexdigest(),
    )


def _cora(folder: Path) -> NodeTask:
    graph = read_cora(folder)
    digest = hashlib.sha256()
    for array in graph:
        digest.update(np.ascontiguousarray(array).tobytes())
    labels = torch.from_numpy(graph.labels)
    train, test = torch.from_numpy(graph.train), torch.from_numpy(graph.test)
    return NodeTask(
        name="cora",
        train_images=train,
        train_labels=labels[train],
        test_images=test,
        test_labels=labels[test],
        n_classes=int(labels.max()) + 1,
        pixel_mean=0.0,
        pixel_std=1.0,
        sha256=digest.hexdigest(),
        features=torch.from_numpy(graph.features),
        edges=torch.from_numpy(graph.edges),
    )


def _digits() -> ImageTask:
    datasets, model_selection = _sklearn("datasets"), _sklearn("model_selection")
    bunch = datasets.load_digits()
    images, labels = bunch.data.astype(np.uint8), bunch.target.astype(np.uint8)
    train_x, test_x, train_y, test_y = model_selection.train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=0
    )
    return _task("digits", train_x, train_y, test_x, test_y, white=16)


def _downloaded(openml_name: str) -> tuple[Bytes, Bytes]:
    """uint8 images (70000, 784) and labels (70000,); kept as .npz, because parsing what comes takes a minute."""
    datasets = _sklearn("datasets")
    cache = Path(datasets.get_data_home()) / "optical_dfa" / f"{openml_name}.npz"
    if not cache.is_file():
        try:
            bunch = datasets.fetch_openml(openml_name, version=1, as_frame=False, parser="liac-arff")
        except Exception as error:  # scikit-learn lets many kinds through: network, disk, format
            raise DataError(
                f"{openml_name} cannot be had from openml.org ({type(error).__name__}: {error}): check the network, "
                "or give a folder with the IDX files, for instance --set task.folder=PATH"
            ) from error
        images, labels = _checked(openml_name, bunch.data, "images"), _checked(openml_name, bunch.target, "labels")
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_whole(cache, lambda file: np.savez(file, images=images, labels=labels))
    try:
        with cache.open("rb") as file, np.load(file) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except Exception as error:
        raise DataError(f"{cache}: damaged ({error}): delete it, and it is downloaded again") from None
    return images, labels


def _checked(openml_name: str, values: npt.NDArray[Any], what: str) -> Bytes:
    """Numbers or their text as uint8, if they are whole numbers from 0 to 255 and as many as they must be."""
    numbers = values.astype(np.float64)
    integers = numbers.astype(np.uint8)
    if not np.array_equal(integers, numbers) or len(integers) != 70_000:
        raise DataError(
            f"{openml_name} from openml.org: the {what} are not 70000 of whole numbers 0 … 255; got {values.shape}"
        )
    return integers


def _sklearn(module: str) -> Any:
    try:
        return import_module(f"sklearn.{module}")
    except ImportError as error:
        raise DataError(
            f"this task needs scikit-learn ({error}): pip install 'optical_dfa[data]', or use task mnist with a folder"
        ) from None
