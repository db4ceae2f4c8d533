"""What a feedback point leaves behind for the Tap: a view of h where the graph keeps h anyhow, else one element."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from optical_dfa import FeedbackError, attach, feedback_point, feedback_tap, tokens


def blocks(activation: nn.Module, widths: tuple[int, ...] = (16, 16)) -> nn.Sequential:
    torch.manual_seed(0)
    sides = (8, *widths)
    points = [nn.Sequential(nn.Linear(a, b), activation) for a, b in zip(sides, widths, strict=False)]
    return nn.Sequential(*points, nn.Linear(widths[-1], 5))


def below_the_tap(net: nn.Module, after: Any) -> list[str]:
    """What made the tokens of a forward, or that of which they are views."""
    with attach(net, after=after, device="digital"):
        tapped = net(torch.randn(4, 8))
        assert tapped.grad_fn is not None
        tokens = [node for node, _ in tapped.grad_fn.next_functions[1:]]
        made = [node.next_functions[0][0] if "Alias" in node.name() else node for node in tokens]
        return [node.name().removesuffix("0") for node in made]


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
def test_a_view_stands_for_h_where_the_graph_keeps_it(activation: nn.Module, node: str) -> None:
    assert below_the_tap(blocks(activation), ["0", "1"]) == [node, node]


class Within(nn.Module):
    """tanh within hooks for saved tensors, which are gone when its output comes to the point."""

    def __init__(self, pack: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.pack = nn.Linear(8, 16), pack

    def forward(self, x: Tensor) -> Tensor:
        with saved_tensors_hooks(self.pack, lambda kept: kept):
            h: Tensor = self.linear(x).tanh()
            return h


@pytest.mark.parametrize("around", [False, True], ids=["in the block", "around the net"])
def test_where_hooks_keep_a_copy_h_is_not_held(around: bool) -> None:
    net = nn.Sequential(Within(Tensor.clone), nn.Linear(16, 5))
    with saved_tensors_hooks(Tensor.clone, lambda kept: kept) if around else nullcontext():
        assert below_the_tap(net, "0") == ["BranchBackward"]


def test_hooks_that_keep_h_itself_change_nothing() -> None:
    """An edit is a fault then, as without them; PyTorch says nothing."""
    net = nn.Sequential(Within(lambda kept: kept), nn.Linear(16, 5))
    assert below_the_tap(net, "0") == ["TanhBackward"]
    net[1].register_forward_pre_hook(lambda _, inputs: inputs[0].mul_(2))
    with attach(net, after="0", device="digital"):
        loss = net(torch.randn(4, 8)).square().sum()
        with pytest.raises(FeedbackError, match="'0' was edited in place"):
            loss.backward()


@pytest.mark.parametrize("widths", [(16, 16), (16, 12)], ids=["one scale", "two scales"])
@pytest.mark.parametrize("layout", ["shared", "independent"])
def test_both_give_the_same_bits(monkeypatch: pytest.MonkeyPatch, widths: tuple[int, ...], layout: Any) -> None:
    found = []
    for kept in (True, False):
        if not kept:
            monkeypatch.setattr(tokens, "_keeper", lambda _: None)
        net = blocks(nn.Tanh(), widths)
        with attach(net, after=["0", "1"], device="digital", layout=layout):
            torch.manual_seed(1)
            torch.autograd.backward(nn.functional.cross_entropy(net(torch.randn(32, 8)), torch.arange(32) % 5))
        found.append([parameter.grad for parameter in net.parameters()])
    for one, other in zip(*found, strict=True):
        assert one is not None
        assert one.any()
        assert torch.equal(one, other)


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("view", [False, True])
def test_nothing_is_held_behind_the_backward_pass(view: bool, deferred: bool) -> None:
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
    with attach(net, after="0", device="digital") as feedback:
        with feedback.deferred() if deferred else nullcontext():
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


def test_a_state_that_is_cut_off_later_has_its_feedback() -> None:
    """Truncated backpropagation through time detaches the state in place, between the point and the Tap."""
    found = []
    for in_place in (True, False):

        class Cell(nn.Module):
            def __init__(self, in_place: bool) -> None:
                super().__init__()
                self.a, self.u, self.b, self.in_place = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 5), in_place

            def forward(self, x: Tensor) -> Any:
                h, y = torch.zeros(4, 16), torch.zeros(4, 5)
                for one in x:
                    h = torch.tanh(self.a(one) + self.u(h))
                    y = y + self.b(feedback_point(h, "h"))
                    h = h.detach_() if self.in_place else h.detach()
                return y

        torch.manual_seed(0)
        net = Cell(in_place)
        with attach(net, device="digital"):
            torch.autograd.backward(net(torch.randn(3, 4, 8)).square().sum())
        found.append([parameter.grad for parameter in net.parameters()])
    for one, other in zip(*found, strict=True):
        assert one is not None
        assert one.any()
        assert torch.equal(one, other)


def test_an_edit_is_a_fault_only_where_its_derivative_is_taken() -> None:
    net = blocks(nn.Tanh())
    net[1].register_forward_pre_hook(lambda _, inputs: inputs[0].mul_(2))
    with attach(net, after=["0", "1"], device="digital"):
        loss = net(torch.randn(4, 8)).square().sum()
        head = torch.autograd.grad(loss, list(net[2].parameters()), retain_graph=True)
        assert all(one.any() for one in head)
        with pytest.raises(FeedbackError, match="'0' was edited in place"):
            loss.backward()


def test_an_edit_in_a_deferred_forward_is_named() -> None:
    net = blocks(nn.Tanh())
    net[1].register_forward_pre_hook(lambda _, inputs: inputs[0].mul_(2))
    named = pytest.raises(FeedbackError, match="'0' was edited in place")
    with attach(net, after=["0", "1"], device="digital") as feedback, named, feedback.deferred():
        net(torch.randn(4, 8)).square().sum().backward()


def test_parameters_that_are_points_have_gradients_of_their_own() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p, self.q, self.top = (
                nn.Parameter(torch.ones(4, 16)),
                nn.Parameter(torch.ones(4, 16)),
                nn.Linear(16, 5),
            )

        def forward(self, x: Tensor) -> Any:
            return self.top(feedback_point(self.p) + feedback_point(self.q)) + 0 * x

    net = Sums()
    with attach(net, device="digital"):
        torch.autograd.backward(net(torch.ones(4, 5)).square().sum())
    assert net.p.grad is not None
    assert net.q.grad is not None
    assert torch.equal(net.p.grad, net.q.grad)
    assert net.p.grad.data_ptr() != net.q.grad.data_ptr()


def test_a_second_deferred_pass_over_a_graph_that_is_gone_says_so() -> None:
    net = blocks(nn.Tanh())
    said = pytest.raises(FeedbackError, match="give the first one retain_graph=True")
    with attach(net, after=["0", "1"], device="digital") as feedback, said, feedback.deferred():
        loss = net(torch.randn(4, 8)).sum()  # which keeps nothing that PyTorch could miss
        loss.backward()
        loss.backward()


def test_outputs_of_several_taps_are_not_held() -> None:
    outputs: list[Any] = []

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

        def forward(self, h: Tensor) -> Tensor:
            loss = torch.zeros(())
            for _ in range(3):
                h = feedback_point(torch.tanh(self.cell(h)), "h")
                y = feedback_tap(self.head(h))
                outputs.append(StorageWeakRef(y.untyped_storage()))  # type: ignore[no-untyped-call]
                loss = loss + y.sum()  # which does not keep it
                del y
            assert all(one.expired() for one in outputs)
            return loss

    net = Steps()
    with attach(net, device="digital"):
        net(torch.randn(4, 8)).backward()
    assert len(outputs) == 3
