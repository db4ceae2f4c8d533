"""Sequences, images and pooled errors, against plain formulas of the feedback at each point."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from optical_dfa import FeedbackShapeError, attach
from optical_dfa.devices import open_device

Array = npt.NDArray[np.float64]
B, T, CLASSES = 3, 4, 5


class Net(nn.Module):
    """Two blocks and a head; `pool` stands between the second block and the head."""

    def __init__(self, first: nn.Module, second: nn.Module, head: nn.Module, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.block1 = nn.Sequential(first, nn.Tanh())
        self.block2 = nn.Sequential(second, nn.Tanh())
        self.head, self.pool = head, pool

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.pool(self.block2(self.block1(x))))
        return out


def keep(h: Tensor) -> Tensor:
    return h


def sequence_net(pool: Callable[[Tensor], Tensor]) -> Net:
    torch.manual_seed(0)
    return Net(nn.Linear(7, 8), nn.Linear(8, 6), nn.Linear(6, CLASSES), pool)


def image_net(head: nn.Module, pool: Callable[[Tensor], Tensor]) -> Net:
    torch.manual_seed(0)
    return Net(nn.Conv2d(2, 8, 3), nn.Conv2d(8, 6, 2, stride=2), head, pool)


def ternary(error: Array) -> Array:
    """Scale times ternary vector of one error vector (relative threshold 0.5)."""
    shown = np.where(np.abs(error) > 0.5 * np.abs(error).max(), np.sign(error), 0.0)
    result: Array = shown * np.linalg.norm(error) / np.linalg.norm(shown)
    return result


def check(
    net: Net,
    x: Tensor,
    feedback_at: Callable[[Array, Array, tuple[int, ...]], Array],
    layout: Literal["shared", "independent"] = "shared",
) -> None:
    """Compare the gradients of a step with those of blocks that get `feedback_at(error, rows of T, shape)`.

    The error is chosen: loss = Σ weights · output.
    """
    weights = torch.randn(net(x).shape, generator=torch.Generator().manual_seed(2))
    with attach(net, after=["block1", "block2"], device="digital", layout=layout) as feedback:
        (net(x) * weights).sum().backward()
        matrix = feedback.device.effective_matrix()
        n_vectors = feedback.device.usage.vectors
    assert matrix is not None
    found = {name: p.grad for name, p in net.named_parameters()}
    assert matrix.shape == (8 if layout == "shared" else 14, CLASSES)
    assert n_vectors == weights.numel() // CLASSES

    net.zero_grad()
    h1 = net.block1(x)
    h2 = net.block2(h1.detach())
    (net.head(net.pool(h2.detach())) * weights).sum().backward()
    for h, rows in ((h1, matrix[:8]), (h2, matrix[8:] if layout == "independent" else matrix[:6])):
        share = feedback_at(weights.double().numpy(), rows.astype(np.float64), tuple(h.shape))
        h.backward(torch.from_numpy(share).float())
    for name, p in net.named_parameters():
        gradient = found[name]
        assert gradient is not None
        assert p.grad is not None
        assert (gradient - p.grad).norm() < 5e-6 * p.grad.norm(), name


def vector_feedback(error: Array, rows: Array) -> Array:
    """1/√d · T · (scale · t)."""
    result: Array = rows @ ternary(error) / np.sqrt(len(rows))
    return result


@pytest.mark.parametrize("layout", ["shared", "independent"])
def test_a_sequence_with_an_error_at_each_position(layout: Literal["shared", "independent"]) -> None:
    def by_position(error: Array, rows: Array, shape: tuple[int, ...]) -> Array:
        share = np.empty(shape)
        for b in range(B):
            for t in range(T):
                share[b, t] = vector_feedback(error[b, t], rows)
        return share

    check(sequence_net(keep), torch.randn(B, T, 7), by_position, layout)


@pytest.mark.parametrize("layout", ["shared", "independent"])
def test_a_sequence_with_one_error(layout: Literal["shared", "independent"]) -> None:
    """The feedback of a sample is shared by its T positions: 1/√T each."""

    def pooled(error: Array, rows: Array, shape: tuple[int, ...]) -> Array:
        share = np.empty(shape)
        for b in range(B):
            for t in range(T):
                share[b, t] = vector_feedback(error[b], rows) / np.sqrt(T)
        return share

    check(sequence_net(lambda h: h.mean(1)), torch.randn(B, T, 7), pooled, layout)


@pytest.mark.parametrize("layout", ["shared", "independent"])
def test_an_image_with_one_error(layout: Literal["shared", "independent"]) -> None:
    """Channels are the features; each of the H·W pixels of a point gets 1/√(H·W)."""

    def by_sample(error: Array, rows: Array, shape: tuple[int, ...]) -> Array:
        share = np.empty(shape)
        for b in range(B):
            for i in range(shape[2]):
                for j in range(shape[3]):
                    share[b, :, i, j] = vector_feedback(error[b], rows) / np.sqrt(shape[2] * shape[3])
        return share

    net = image_net(nn.Linear(6 * 3 * 2, CLASSES), lambda h: h.flatten(1))
    check(net, torch.randn(B, 2, 8, 6), by_sample, layout)


def test_an_image_with_an_error_at_each_pixel() -> None:
    """Segmentation: features are dimension 1 of the error too."""

    def by_pixel(error: Array, rows: Array, shape: tuple[int, ...]) -> Array:
        share = np.empty(shape)
        for b in range(B):
            for i in range(shape[2]):
                for j in range(shape[3]):
                    share[b, :, i, j] = vector_feedback(error[b, :, i, j], rows)
        return share

    torch.manual_seed(0)
    net = Net(nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, CLASSES, 1), keep)
    check(net, torch.randn(B, 2, 5, 4), by_pixel)


def test_one_unbatched_vector() -> None:
    check(sequence_net(keep), torch.randn(7), lambda error, rows, _shape: vector_feedback(error, rows))


def test_an_empty_batch_gives_zero_gradients() -> None:
    net = sequence_net(keep)
    with attach(net, after=["block1", "block2"], device="emulator") as feedback:
        net(torch.randn(0, T, 7)).sum().backward()
        assert feedback.device.usage.vectors == 0
    assert all(p.grad is not None and not p.grad.any() for p in net.parameters())


@pytest.mark.parametrize(
    ("pool", "x", "texts"),
    [
        (lambda h: h.reshape(B * T, 6), (B, T, 7), ["'block1'", "(3, 4, 8)", "(12, 5)", "(3, 4) and (12,)"]),
        (lambda h: h.reshape(2, 6, 6), (12, 7), ["'block1'", "(12, 8)", "(2, 6, 5)", "(12,) and (2, 6)"]),
        (lambda h: h.transpose(0, 1), (B, T, 7), ["'block1'", "(3, 4, 8)", "(4, 3, 5)", "(3, 4) and (4, 3)"]),
    ],
)
def test_shapes_that_do_not_fit_are_named(
    pool: Callable[[Tensor], Tensor], x: tuple[int, ...], texts: list[str]
) -> None:
    net = sequence_net(pool)
    with attach(net, after=["block1", "block2"], device="digital") as feedback:
        for attempt in (lambda: net(torch.randn(x)), lambda: feedback.plan(torch.randn(x))):
            with pytest.raises(FeedbackShapeError) as caught:
                attempt()
            assert [text for text in texts if text not in str(caught.value)] == []
            assert "error_at=" in str(caught.value)


@pytest.mark.parametrize("axes", [(1, 2), (0, 1, 2)])
def test_an_error_without_features_is_refused(axes: tuple[int, ...]) -> None:
    """A batch of scalars would be taken for one vector, and one sample's error sent to all the others."""
    net = sequence_net(keep)

    class Sum(nn.Module):
        def forward(self, out: Tensor) -> Tensor:
            return out.sum(axes)

    whole = nn.Sequential(net, Sum())
    with (
        attach(whole, after=["0.block1", "0.block2"], device="digital"),
        pytest.raises(FeedbackShapeError, match=r"'0\.block1' has shape \(3, 4, 8\), the error \((3,)?\).*error_at="),
    ):
        whole(torch.randn(B, T, 7))


def test_a_narrow_device_of_ones_own_is_refused() -> None:
    """By name, sizes and what to do, before anything is displayed."""
    net = sequence_net(keep)
    for n_inputs, n_outputs in ((CLASSES, 7), (CLASSES + 1, 8)):
        with (
            open_device("digital", n_inputs=n_inputs, n_outputs=n_outputs) as device,
            attach(net, after=["block1", "block2"], device=device),
        ):
            with pytest.raises(
                FeedbackShapeError, match=rf"need 8 .* has {n_inputs} inputs and {n_outputs} outputs: open"
            ):
                net(torch.randn(B, T, 7)).sum().backward()
            assert device.usage.vectors == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("trace", ["jit", "symbols"])
def test_sizes_that_are_no_numbers(trace: str) -> None:
    """Tensors under `torch.jit.trace`, symbols under an AOT function of dynamic shapes."""
    from functorch.compile import aot_module, nop  # type: ignore[import-untyped]

    net, x = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(4, 6)
    with attach(net, after="1", device="digital"):
        if trace == "jit":
            traced: Any = torch.jit.trace(net, x, check_trace=False)  # type: ignore[no-untyped-call]
        else:
            traced = aot_module(net, fw_compiler=nop, dynamic=True)
        traced(x).square().sum().backward()
        found = [one.grad for one in net.parameters()]
        net.zero_grad()
        net(x).square().sum().backward()
    for one, parameter in zip(found, net.parameters(), strict=True):
        assert one is not None
        assert parameter.grad is not None
        assert one.any()
        torch.testing.assert_close(one, parameter.grad)
