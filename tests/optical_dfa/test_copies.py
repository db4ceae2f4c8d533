"""Copies and pickles of attached nets: one device, opened anew where there is none, and never another one."""

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from by_hand import assert_close, gradients
from rows import CLASSES, batch, formula, loss, make_net
from torch import nn
from torch.optim.swa_utils import AveragedModel

from optical_dfa import AttachError, FeedbackError, Ternarize, attach, feedback_of, feedback_point, feedback_tap
from optical_dfa.devices import DeviceClosed, FingerprintMismatch, ProjectionDevice, make_device, open_device
from optical_dfa.measure import save_matrix

NOISY: dict[str, Any] = {"name": "emulator", "seed": 4, "camera": {"read_noise_e": 20.0}}


def step(net: nn.Module, seed: int = 1) -> dict[str, Any]:
    net.zero_grad()
    torch.autograd.backward(loss(net, seed))
    return gradients(net)


@pytest.mark.parametrize("steps", [0, 1])
def test_a_copy_shares_the_device(steps: int) -> None:
    """Made before or after the device is; whoever comes first opens it."""
    net = make_net()
    with attach(net, after=["a", "b"], device="digital", ternarize=None) as feedback_:
        for _ in range(steps):
            step(net)
        other = copy.deepcopy(net)
        twin = feedback_of(other)
        assert twin is not feedback_
        assert twin.points == feedback_.points
        found = step(other, 2)
        assert twin.device is feedback_.device
        matrix: Any = feedback_.device.effective_matrix()
        assert_close(found, formula(other, matrix, 2))
        assert twin.audit().rows == feedback_.audit().rows if steps else twin.audit().rows
        twin.mode = "bp"
        assert feedback_.mode == "dfa"
        twin.close()
        assert_close(step(net, 2), found, relative=0)
        assert_close(step(other), step(make_net()), relative=0)


def test_a_copy_outlives_the_original_but_not_its_device() -> None:
    net = make_net()
    feedback_ = attach(net, after=["a", "b"], device="digital")
    step(net)
    other = copy.deepcopy(net)
    feedback_.close()
    with pytest.raises(DeviceClosed):
        step(other)
    feedback_of(other).close()
    assert_close(step(other), step(make_net()), relative=0)


def test_a_copy_of_a_net_that_was_attached_is_plain() -> None:
    net = make_net()
    attach(net, after=["a", "b"], device="digital").close()
    with pytest.raises(FeedbackError, match="has no feedback"):
        feedback_of(copy.deepcopy(net))


def test_an_average_of_the_weights() -> None:
    """What copies nets in practice."""
    net = make_net()
    with attach(net, after=["a", "b"], device="digital"):
        average = AveragedModel(net)
        step(net)
        average.update_parameters(net)
        assert torch.equal(average(batch()[0]), net(batch()[0]))
        with pytest.raises(AttachError, match="'a' has feedback already"):
            attach(average.module, after=["a"], device="digital")


def test_a_net_and_its_feedback_are_copied_together() -> None:
    net = make_net()
    with attach(net, after=["a", "b"], device="digital") as feedback_:
        other, twin = copy.deepcopy((net, feedback_))
        assert feedback_of(other) is twin
        other, twin = pickle.loads(pickle.dumps((net, feedback_)))
        assert feedback_of(other) is twin
        twin, other = pickle.loads(pickle.dumps((feedback_, net)))
        assert feedback_of(other) is twin


class Marked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net: Any = make_net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = feedback_point(self.net.a(x), "one")
        out: torch.Tensor = self.net.c(feedback_point(self.net.b(h), "two"))
        return feedback_tap(out)


@pytest.mark.parametrize("way", ["copy", "pickle"])
def test_a_net_that_marks_its_points(way: str) -> None:
    net = Marked()
    with attach(net, device="digital", ternarize=None) as feedback_:
        step(net)
        other = copy.deepcopy(net) if way == "copy" else pickle.loads(pickle.dumps(net))
        matrix: Any = feedback_.device.effective_matrix()
    if way == "pickle":  # a copy's device is closed with the original's
        step(other, 2)
        assert_close(gradients(other.net), formula(other.net, matrix, 2))
    assert feedback_of(other).points == ("one", "two")


@pytest.mark.parametrize(
    "ternarize", [Ternarize(), Ternarize(kind="stochastic", seed=3)], ids=["relative", "stochastic"]
)
@pytest.mark.parametrize("given", ["named", "open"])
def test_a_pickle_continues_to_the_bit(given: str, ternarize: Ternarize) -> None:
    """Camera noise and stochastic draws included; the device is opened when it is needed, and is another object."""
    net = make_net()
    device: Any = NOISY if given == "named" else open_device(**NOISY, n_inputs=CLASSES, n_outputs=16)
    feedback_ = attach(net, after=["a", "b"], device=device, ternarize=ternarize)
    step(net)
    file = io.BytesIO()
    torch.save(net, file)
    expected = [step(net, seed) for seed in (2, 3)]
    file.seek(0)
    other = torch.load(file, weights_only=False)
    twin = feedback_of(other)
    with pytest.raises(FeedbackError, match="sized to the net"):
        _ = twin.device
    for seed, wanted in zip((2, 3), expected, strict=True):
        assert_close(step(other, seed), wanted, relative=0)
    assert twin.device is not feedback_.device
    assert twin.device.fingerprint == feedback_.device.fingerprint
    twin.close()
    assert not twin.device._is_open, "the loaded feedback opened it, and closes it"
    feedback_.device.close()


def test_a_pickle_holds_no_device() -> None:
    net = make_net()
    with attach(net, after=["a", "b"], device={"name": "digital", "memory_budget_bytes": 1 << 20}) as feedback_:
        plain = len(pickle.dumps(make_net()))
        step(net)
        whole = pickle.dumps(net)
        assert b"DigitalDevice" not in whole
        assert len(whole) < plain + 10_000
        assert pickle.dumps(feedback_)


def test_a_pickle_refuses_another_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A measured matrix whose file is another one by then."""
    generator = np.random.default_rng(0)

    def write(name: str) -> None:
        (tmp_path / name).unlink(missing_ok=True)
        values = generator.standard_normal((16, CLASSES)).astype(np.float32)
        save_matrix(tmp_path / name, values, outputs_per_mode=1)

    write("matrix.safetensors")
    net = make_net()
    path = str(tmp_path / "matrix.safetensors")
    with attach(net, after=["a", "b"], device={"name": "measured", "path": path}):
        step(net)
        saved = pickle.dumps(net)
        expected = step(net)
    same = pickle.loads(saved)
    assert_close(step(same), expected, relative=0)
    write("matrix.safetensors")
    other = pickle.loads(saved)
    for _ in range(2):
        with pytest.raises(FingerprintMismatch):
            step(other)


@pytest.mark.parametrize("kind", ["digital", "emulator", "matrix", "lab-bench", "anchored"])
def test_the_spec_of_a_device_makes_it_again(kind: str) -> None:
    options: dict[str, Any] = {
        "digital": {"name": "digital", "seed": 3},
        "emulator": {"name": "emulator", "seed": 3, "camera": {"read_noise_e": 20.0}, "fidelity": "statistical"},
        "lab-bench": {"name": "emulator", "preset": "lab-bench", "stream": 5},
        "anchored": {"name": "emulator", "readout": {"kind": "anchored", "n_anchors": 2}},
        "matrix": {"name": "matrix", "matrix": np.arange(60, dtype=np.float32).reshape(12, 5)},
    }[kind]  # type: ignore[assignment]
    device = make_device(**{"n_inputs": 5, "n_outputs": 12, **options})
    again = make_device(**pickle.loads(pickle.dumps(device.spec())))
    assert type(again) is type(device)
    assert again.fingerprint == device.fingerprint
    vectors = np.array([[1, 0, -1, 0, 1]], np.int8)
    with device, again:
        assert (device.project(vectors) == again.project(vectors)).all()
    assert isinstance(again, ProjectionDevice)
