"""What silently goes wrong elsewhere raises here, with the name of the module."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from by_hand import assert_close, gradients
from rows import batch, formula, make_net
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from optical_dfa import AttachError, Feedback, FeedbackError, FeedbackShapeError, attach, feedback_of, feedback_point

REAL: dict[str, Any] = {"device": "digital", "ternarize": None}


class Net(nn.Module):
    """The blocks of `make_net`, and a forward of one's own."""

    def __init__(self, run: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.c = make_net().children()
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def matrix_of(feedback_: Feedback) -> Any:
    return feedback_.device.effective_matrix()


# ---- a Tap that never ran


def with_loss(n: Any, x: Tensor) -> dict[str, Tensor]:
    logits = n.c(n.b(n.a(x)))
    return {"loss": cross_entropy(logits, batch()[1]), "logits": logits, "hidden": n.a[0](x)}


@pytest.mark.parametrize("key", ["loss", "hidden"])
def test_a_loss_that_goes_round_the_error_is_noticed_at_the_next_forward(key: str) -> None:
    """Computed within the model from what was not tapped yet, or from something else."""
    net, x = Net(with_loss), batch()[0]
    text = r"of Net did not come through the output of the net, so the points \['a', 'b'\] got no gradient"
    with attach(net, after=["a", "b"], output="logits", **REAL):
        net(x)[key].sum().backward()
        with pytest.raises(FeedbackError, match=text):
            net(x)
        net(x)["logits"].sum().backward()  # it is said once; what is right afterwards goes on
        net(x)


def test_the_module_of_the_error_is_named() -> None:
    net, x = Net(lambda n, x: (n.c(n.b(n.a(x))), n.a[0](x))), batch()[0]
    with attach(net, after=["a"], error_at="c", **REAL):
        net(x)[1].sum().backward()
        with pytest.raises(
            FeedbackError, match=r"did not come through the output of 'c' \(error_at\), so the points \['a'\]"
        ):
            net(x)


def test_gradients_that_someone_asks_for_alone_are_no_misuse() -> None:
    """They end at what the net returned, and come to nothing below."""
    net, x = Net(with_loss), batch()[0]
    with attach(net, after=["a", "b"], output="logits", **REAL):
        for key in ("logits", "hidden"):
            out = net(x)[key]
            torch.autograd.grad(out.square().sum(), out)
        net(x)


@pytest.mark.parametrize("error_at", [None, "c"])
def test_a_net_that_returns_nothing(error_at: str | None) -> None:
    """Its loss is computed within; the error then needs a place, and is not taken for an exception."""

    def run(n: Any, x: Tensor) -> None:
        n.loss = cross_entropy(n.c(n.b(n.a(x))), batch()[1])

    net = Net(run)
    with attach(net, after=["a", "b"], error_at=error_at, **REAL):
        if error_at is None:
            with pytest.raises(FeedbackError, match="the output of the net gave a NoneType; feedback needs a tensor"):
                net(batch()[0])
            return
        net(batch()[0])
        torch.autograd.backward(net.loss)  # type: ignore[arg-type]
        assert all(one.grad is not None and one.grad.any() for one in net.parameters())


def test_a_net_that_returns_nothing_is_checked_like_any_other() -> None:
    def run(n: Any, x: Tensor) -> None:
        h = n.b(n.a(x))
        n.loss = cross_entropy(n.c(h), batch()[1])
        n.a(x)

    net = Net(run)
    with attach(net, after=["a", "b"], error_at="c", **REAL):
        with pytest.raises(FeedbackError, match=r"points \['a'\] ran after the module named by error_at \('c'\)"):
            net(batch()[0])
        with pytest.raises(FeedbackError, match=r"\['a'\] ran after"):  # no call is left open
            net(batch()[0])


@pytest.mark.parametrize("more", [lambda out: out.softmax(-1), lambda out: out], ids=["computed", "twice"])
def test_an_output_beside_what_the_net_returns_must_be_part_of_it(more: Callable[[Tensor], Tensor]) -> None:
    net = Net(lambda n, x: n.c(n.b(n.a(x))))
    with (
        attach(net, after=["a", "b"], output=lambda out: [out, more(out)], **REAL),
        pytest.raises(FeedbackError, match="output= gave a tensor that is not part of"),
    ):
        net(batch()[0])


def test_what_is_no_misuse_is_left_alone() -> None:
    """Forwards without a backward; a loss of two parts, one round the error; a backward of each part of its own."""
    net, x = Net(with_loss), batch()[0]
    with attach(net, after=["a", "b"], output="logits", **REAL):
        for _ in range(3):
            net(x)
        out = net(x)
        (out["loss"] + out["logits"].sum()).backward()
        out = net(x)
        out["hidden"].sum().backward(retain_graph=True)
        out["logits"].sum().backward()
        first, second = net(x), net(x)
        (first["logits"].sum() + second["logits"].sum()).backward()
        net(x)


# ---- a Tap that ran although a point got nothing


def test_a_point_that_gives_no_gradient_although_it_holds_parameters() -> None:
    net, x = Net(lambda n, x: n.c(n.b(n.a(x)))), batch()[0]
    net.a.register_forward_hook(lambda _module, _args, h: h.detach())
    with attach(net, after=["a", "b"], **REAL):
        with pytest.raises(
            FeedbackError, match=r"'a' holds parameters that learn, but gave a tensor without a gradient"
        ):
            net(x)
        net.a.requires_grad_(False)
        net(x).sum().backward()


def test_a_point_under_no_grad() -> None:
    def run(n: Any, x: Tensor) -> Any:
        with torch.no_grad():
            h = n.a(x)
        return n.c(n.b(h))

    net = Net(run)
    text = "'a' ran without gradients inside a forward with gradients"
    with attach(net, after=["a", "b"], **REAL), pytest.raises(FeedbackError, match=text):
        net(batch()[0])


def test_a_mark_under_no_grad() -> None:
    def run(n: Any, x: Tensor) -> Any:
        with torch.no_grad():
            h = feedback_point(n.a(x), "first block")
        return n.c(n.b(h))

    net = Net(run)
    with attach(net, **REAL), pytest.raises(FeedbackError, match="'first block' ran without gradients"):
        net(batch()[0])


# ---- points without features


def test_a_point_that_is_a_single_number_is_named() -> None:
    net = Net(lambda n, x: n.c(n.b(n.a(x)) * feedback_point(n.a(x).mean(), "mean")))
    with attach(net, **REAL), pytest.raises(FeedbackShapeError, match="'mean' gave a single number"):
        net(batch()[0])


# ---- edits in place


@pytest.mark.parametrize(
    "edit",
    [lambda h: h.mul_(2), lambda h: h.relu_(), lambda h: h.__setitem__(0, 0.0)],
    ids=["mul_", "relu_", "setitem"],
)
def test_an_edit_in_place_behind_a_point_is_named(edit: Callable[[Tensor], Any]) -> None:
    """The derivative of tanh is computed from what is edited."""

    def run(n: Any, x: Tensor) -> Any:
        h = n.a(x)
        edit(h)
        return n.c(n.b(h))

    net, x = Net(run), batch()[0]
    with attach(net, after=["a", "b"], **REAL):
        loss = net(x).sum()
        with pytest.raises(FeedbackError, match=r"output of feedback point 'a' was edited in place after the point"):
            loss.backward()


def test_an_edit_in_place_that_harms_nothing() -> None:
    """Of the input of tanh, behind a point at the linear layer: the edit belongs to the next block."""
    torch.manual_seed(0)
    net, plain = (nn.Sequential(nn.Linear(8, 16), nn.ReLU(inplace), nn.Linear(16, 5)) for inplace in (True, False))
    plain.load_state_dict(net.state_dict())
    for one in (net, plain):
        with attach(one, after="0", **REAL):
            torch.autograd.backward(cross_entropy(one(batch()[0]), batch()[1]))
    assert_close(gradients(net), gradients(plain), relative=0)


# ---- re-entrant checkpointing, marked


def checkpointing(reentrant: bool) -> Net:
    from torch.utils.checkpoint import checkpoint

    def blocks(n: Any, x: Tensor) -> Any:
        return feedback_point(n.b(feedback_point(n.a(x), "first")), "second")

    return Net(lambda n, x: n.c(checkpoint(lambda x: blocks(n, x), x, use_reentrant=reentrant)))


def test_marks_are_recomputed() -> None:
    net, (x, y) = checkpointing(reentrant=False), batch()
    with attach(net, **REAL) as feedback_:
        for _ in range(2):
            net.zero_grad()
            torch.autograd.backward(cross_entropy(net(x), y))
        found = gradients(net)
        matrix = matrix_of(feedback_)
    assert_close(found, formula(net, matrix, 1))
    plain = checkpointing(reentrant=False)  # marks without feedback are inert in the recomputation too
    torch.autograd.backward(cross_entropy(plain(x), y))
    bp = make_net()
    torch.autograd.backward(cross_entropy(bp(x), y))
    assert_close(gradients(plain), gradients(bp), relative=0)


def test_marks_under_reentrant_checkpointing_raise() -> None:
    net, x = checkpointing(reentrant=True), batch()[0].requires_grad_()
    with attach(net, **REAL), pytest.raises(FeedbackError, match=r"'first' ran without gradients.*use_reentrant=False"):
        net(x)


# ---- attached twice


@pytest.mark.parametrize("second", [None, ["b"], ["a"]])
def test_a_net_has_one_feedback(second: Any) -> None:
    net = Net(lambda n, x: n.c(feedback_point(n.b(n.a(x)))))
    with attach(net, **REAL), pytest.raises(AttachError, match="Net has feedback already: close"):
        attach(net, after=second, **REAL)
    with attach(net, after="a", **REAL) as feedback_:
        with pytest.raises(AttachError, match="has feedback already: close"):
            attach(net, after=second, **REAL)
        assert feedback_of(net) is feedback_


def test_a_wrapped_net_is_named() -> None:
    compiled: Any = torch.compile(make_net(), backend="eager")
    for net in (nn.DataParallel(make_net()), compiled):
        with pytest.raises(AttachError, match=re.escape(f"{type(net).__name__} wraps the net")):
            attach(net, after="a", **REAL)


def test_a_point_without_a_floating_tensor_is_named() -> None:
    class Count(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"count": x.argmax(1)}

    net = Net(lambda n, x: n.c(n.b(n.a(x))) + 0 * n.count(x)["count"][:, None])
    net.count = Count()
    text = "'count' gave a dict with 'count' without a floating tensor"
    with attach(net, after=["a", "count"], **REAL), pytest.raises(FeedbackError, match=text):
        net(batch()[0])
