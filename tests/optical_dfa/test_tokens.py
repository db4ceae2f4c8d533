"""What a feedback point leaves behind for the Tap: h itself where the graph keeps h in any case, else a token."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from optical_dfa import attach, tokens


def blocks(activation: nn.Module, widths: tuple[int, ...] = (16, 16)) -> nn.Sequential:
    torch.manual_seed(0)
    sides = (8, *widths)
    points = [nn.Sequential(nn.Linear(a, b), activation) for a, b in zip(sides, widths, strict=False)]
    return nn.Sequential(*points, nn.Linear(widths[-1], 5))


def below_the_tap(net: nn.Module, after: Any) -> list[str]:
    """Names of the nodes that the tokens of a forward lead to first."""
    with attach(net, after=after, device="digital"):
        tapped = net(torch.randn(4, 8))
        assert tapped.grad_fn is not None
        return [node.name().removesuffix("0") for node, _ in tapped.grad_fn.next_functions[1:]]


@pytest.mark.parametrize(
    ("activation", "node"),
    [
        (nn.Tanh(), "TanhBackward"),
        (nn.ReLU(), "ReluBackward"),
        (nn.Sigmoid(), "SigmoidBackward"),
        (nn.GELU(), "BranchBackward"),  # keeps its argument
        (nn.Dropout(0.5), "BranchBackward"),  # keeps its mask
        (nn.Identity(), "BranchBackward"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, nn.Module) else "",
)
def test_h_stands_for_itself_where_the_graph_keeps_it(activation: nn.Module, node: str) -> None:
    assert below_the_tap(blocks(activation), ["0", "1"]) == [node, node]


def test_where_hooks_keep_saved_tensors_h_is_not_held() -> None:
    with saved_tensors_hooks(lambda kept: kept.clone(), lambda kept: kept):
        assert below_the_tap(blocks(nn.Tanh()), ["0", "1"]) == ["BranchBackward", "BranchBackward"]


@pytest.mark.parametrize("widths", [(16, 16), (16, 12)], ids=["one scale", "two scales"])
@pytest.mark.parametrize("layout", ["shared", "independent"])
def test_both_give_the_same_bits(monkeypatch: pytest.MonkeyPatch, widths: tuple[int, ...], layout: Any) -> None:
    found = []
    for kept in (True, False):
        if not kept:
            monkeypatch.setattr(tokens, "result_node", lambda _: None)
        net = blocks(nn.Tanh(), widths)
        with attach(net, after=["0", "1"], device="digital", layout=layout):
            torch.manual_seed(1)
            torch.autograd.backward(nn.functional.cross_entropy(net(torch.randn(32, 8)), torch.arange(32) % 5))
        found.append([parameter.grad for parameter in net.parameters()])
    for one, other in zip(*found, strict=True):
        assert one is not None
        assert one.any()
        assert torch.equal(one, other)


@pytest.mark.parametrize("view", [False, True])
def test_nothing_is_held_behind_the_backward_pass(view: bool) -> None:
    """By a loss that is kept, for a log: the graph has let go of what it had saved, and so must the Tap."""
    outputs: list[Any] = []

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 16)

        def forward(self, x: Tensor) -> Tensor:
            h: Tensor = self.linear(x).tanh()
            outputs.append(StorageWeakRef(h.untyped_storage()))  # type: ignore[no-untyped-call]
            return h.view(2, -1).view(4, 16) if view else h

    net = nn.Sequential(Block(), nn.Linear(16, 5))
    with attach(net, after="0", device="digital"):
        loss = net(torch.randn(4, 8)).square().sum()
        assert not outputs[0].expired()
        loss.backward()
        assert outputs[0].expired()
        assert loss.grad_fn is not None


def test_a_second_pass_over_a_retained_graph_adds_the_same() -> None:
    net = blocks(nn.Tanh())
    with attach(net, after=["0", "1"], device="digital"):
        loss = net(torch.randn(4, 8)).square().sum()
        loss.backward(retain_graph=True)
        once = [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]
        loss.backward()
    for first, parameter in zip(once, net.parameters(), strict=True):
        assert parameter.grad is not None
        assert torch.equal(2 * first, parameter.grad)


def test_an_edit_of_what_is_recomputed_is_no_fault() -> None:
    """Checkpointing computes h anew for its derivative, so that it may be edited behind the point."""
    found = []
    for edit in (lambda h: h.mul_(2), lambda h: h * 2):
        torch.manual_seed(0)
        first, last = nn.Sequential(nn.Linear(8, 16), nn.Tanh()), nn.Linear(16, 5)

        class Net(nn.Module):
            def __init__(self, first: nn.Module, last: nn.Module, edit: Any) -> None:
                super().__init__()
                self.first, self.last, self.edit = first, last, edit

            def forward(self, x: Tensor) -> Any:
                return self.last(self.edit(checkpoint(self.first, x, use_reentrant=False)))

        net = Net(first, last, edit)
        with attach(net, after="first", device="digital"):
            net(torch.ones(4, 8)).square().sum().backward()
        found.append([parameter.grad for parameter in net.parameters()])
    for one, other in zip(*found, strict=True):
        assert one is not None
        assert torch.equal(one, other)
