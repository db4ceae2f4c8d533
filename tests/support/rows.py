"""Rows of the compatibility list that need one process: each is one way of training, held against its formula.

A row gets an implementation of DFA, ours or another, and fails if the gradients are not those of Direct Feedback
Alignment with the matrix that the implementation names.
"""

import copy
import pickle
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from by_hand import assert_close, by_hand, driven, feedback, gradients, softmax_error
from tinydfa_like import TinyDFA
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from optical_dfa import FeedbackError, attach, feedback_of

INPUTS, CLASSES, BATCH = 8, 5, 6
POINTS = ["a", "b"]
Gradients = dict[str, Tensor | None]


@dataclass
class Attached:
    """A net that gets feedback."""

    net: nn.Module
    """To be called."""
    layers: nn.Module
    """Holds the parameters under the names of `make_net`."""
    matrix: Callable[[], npt.NDArray[Any]]
    save: Callable[[], Any]
    load: Callable[[Any], None]
    of_copy: Callable[[nn.Module], "Attached"]
    """The same of a copy of `net`."""


class Ours:
    """`optical_dfa.attach`."""

    def attach(self, net: nn.Module) -> Attached:
        attach(net, after=POINTS, device="digital", ternarize=None)
        return self._of(net)

    def _of(self, net: nn.Module) -> Attached:
        feedback_ = feedback_of(net)
        return Attached(
            net, net, lambda: _known(feedback_.device.effective_matrix()), feedback_.state_dict,
            feedback_.load_state_dict, self._of,
        )  # fmt: skip

    def release(self, attached: Attached) -> None:
        feedback_of(attached.layers).close()


class Tiny:
    """The implementation that fails."""

    def attach(self, net: nn.Module) -> Attached:
        return self._of(TinyDFA(net, POINTS))

    def _of(self, tiny: nn.Module) -> Attached:
        assert isinstance(tiny, TinyDFA)
        return Attached(
            tiny, tiny.net, lambda: _known(tiny.matrix).numpy(), tiny.state_dict,
            lambda state: tiny.load_state_dict(state) and None, self._of,
        )  # fmt: skip

    def release(self, attached: Attached) -> None:
        """Nothing is held."""


Implementation = Ours | Tiny


def _known(value: Any) -> Any:
    assert value is not None
    return value


def make_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        OrderedDict(
            a=nn.Sequential(nn.Linear(INPUTS, 16), nn.Tanh()),
            b=nn.Sequential(nn.Linear(16, 12), nn.Tanh()),
            c=nn.Linear(12, CLASSES),
        )
    )


def batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, INPUTS, generator=generator), torch.randint(0, CLASSES, (BATCH,), generator=generator)


def loss(call: Callable[[Tensor], Tensor], seed: int = 1) -> Tensor:
    x, y = batch(seed)
    return cross_entropy(call(x), y)


def formula(net: nn.Module, matrix: npt.NDArray[Any], *seeds: int) -> Gradients:
    """Sum of the DFA gradients of the mean cross-entropies of batches, float64."""

    def total(n: Any) -> Tensor:
        result = torch.zeros(())
        for seed in seeds:
            x, y = batch(seed)
            h1 = n.a(x.double())
            h2 = n.b(h1.detach())
            out = n.c(h2.detach())
            e = softmax_error(out, y)
            result = result + driven([(h1, feedback(e, matrix)), (h2, feedback(e, matrix[:12]))], out, e)
        return result

    return by_hand(net, total)


def check(attached: Attached, *seeds: int, relative: float = 5e-6) -> None:
    """What is in `.grad` against the formula."""
    assert_close(gradients(attached.layers), formula(attached.layers, attached.matrix(), *seeds), relative)


# ---- the rows


def plain(make: Implementation) -> None:
    attached = make.attach(make_net())
    for _ in range(2):
        attached.layers.zero_grad()
        torch.autograd.backward(loss(attached.net))
    check(attached, 1)
    make.release(attached)


def compiled(make: Implementation, backend: str = "aot_eager") -> None:
    """One graph: fullgraph=True refuses anything that breaks it."""
    attached = make.attach(make_net())
    net = torch.compile(attached.net, backend=backend, fullgraph=True)
    for _ in range(2):
        attached.layers.zero_grad()
        torch.autograd.backward(loss(net))
    check(attached, 1)
    make.release(attached)


def autocast_bfloat16(make: Implementation) -> None:
    """8 bits of mantissa in hidden tensors: 3 % over two layers."""
    attached = make.attach(make_net())
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(attached.net)
    torch.autograd.backward(value)
    check(attached, 1, relative=3e-2)
    make.release(attached)


def autocast_float16_with_a_scaler(make: Implementation) -> None:
    """11 bits of mantissa: 0.5 %. The scaler divides what its factor has multiplied; an overflow skips the step."""
    attached = make.attach(make_net())
    weights = copy.deepcopy(attached.layers.state_dict()) if isinstance(make, Ours) else {}
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = torch.optim.SGD(attached.layers.parameters(), 0.1)
    with torch.autocast("cpu", torch.float16):
        value = loss(attached.net)
    torch.autograd.backward(scaler.scale(value))
    scaler.unscale_(optimizer)
    check(attached, 1, relative=5e-3)
    scaler.step(optimizer)
    scaler.update()
    assert all(not torch.equal(value, weights[name]) for name, value in attached.layers.state_dict().items())
    make.release(attached)


def accumulation(make: Implementation) -> None:
    """Gradients of micro-batches add up."""
    attached = make.attach(make_net())
    for seed in (1, 2, 3):
        torch.autograd.backward(loss(attached.net, seed))
    check(attached, 1, 2, 3)
    make.release(attached)


def two_forwards_one_backward(make: Implementation) -> None:
    """The net called twice before the loss."""
    attached = make.attach(make_net())
    torch.autograd.backward(loss(attached.net, 1) + loss(attached.net, 2))
    check(attached, 1, 2)
    make.release(attached)


def backward_in_the_other_order(make: Implementation) -> None:
    attached = make.attach(make_net())
    first, second = loss(attached.net, 1), loss(attached.net, 2)
    torch.autograd.backward(second)
    check(attached, 2)
    torch.autograd.backward(first)
    check(attached, 1, 2)
    make.release(attached)


def retain_graph(make: Implementation) -> None:
    attached = make.attach(make_net())
    value = loss(attached.net)
    torch.autograd.backward(value, retain_graph=True)
    torch.autograd.backward(value)
    check(attached, 1, 1)
    make.release(attached)


def block_twice(make: Implementation) -> None:
    """The first block, square, runs twice: it gets feedback twice."""
    torch.manual_seed(0)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = make_net().children()
            self.a = nn.Sequential(nn.Linear(INPUTS, INPUTS), nn.Tanh())
            self.b = nn.Sequential(nn.Linear(INPUTS, 12), nn.Tanh())

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.c(self.b(self.a(self.a(x))))
            return out

    attached = make.attach(Twice())
    torch.autograd.backward(loss(attached.net))
    matrix = attached.matrix()
    x, y = batch()

    def total(n: Any) -> Tensor:
        h1 = n.a(x.double())
        h2 = n.a(h1.detach())
        h3 = n.b(h2.detach())
        out = n.c(h3.detach())
        e = softmax_error(out, y)
        points = [(h1, feedback(e, matrix[:INPUTS])), (h2, feedback(e, matrix[:INPUTS]))]
        return driven([*points, (h3, feedback(e, matrix[:12]))], out, e)

    assert_close(gradients(attached.layers), by_hand(attached.layers, total))
    make.release(attached)


def functional(make: Implementation) -> None:
    """torch.func.grad of functional_call."""
    attached = make.attach(make_net())
    parameters: dict[str, Tensor] = dict(attached.net.named_parameters())

    def value(values: dict[str, Tensor]) -> Tensor:
        return loss(lambda x: torch.func.functional_call(attached.net, values, (x,)))

    found = torch.func.grad(value)(parameters)
    wanted = formula(attached.layers, attached.matrix(), 1)
    assert_close({name.removeprefix("net."): one for name, one in found.items()}, wanted)
    make.release(attached)


def checkpointed(make: Implementation) -> None:
    """Non-re-entrant, around both blocks."""
    net = make_net()

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = net.children()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.c(checkpoint(lambda x: self.b(self.a(x)), x, use_reentrant=False))
            return out

    attached = make.attach(Checkpointed())
    torch.autograd.backward(loss(attached.net))
    check(attached, 1)
    make.release(attached)


def reentrant_checkpointing(make: Implementation) -> None:
    """Right gradients, or an error that says what to do: every peer loses gradients here."""
    net = make_net()

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = net.children()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.c(checkpoint(lambda x: self.b(self.a(x)), x.requires_grad_(), use_reentrant=True))
            return out

    attached = make.attach(Checkpointed())
    said = ""
    try:
        torch.autograd.backward(loss(attached.net))
        check(attached, 1)
    except FeedbackError as error:
        said = str(error)
    assert not said or re.search(r"'a' .*use_reentrant=False", said)
    make.release(attached)


def two_threads(make: Implementation) -> None:
    """Both forwards are under way before either is over."""
    net = make_net()
    barrier = threading.Barrier(2)

    def meet(*_: Any) -> None:
        barrier.wait(60)

    net.get_submodule("b").register_forward_pre_hook(meet)
    attached = make.attach(net)

    def work(seed: int) -> Gradients:
        value = loss(attached.net, seed)
        barrier.wait(60)
        names = dict(attached.layers.named_parameters())
        return dict(zip(names, torch.autograd.grad(value, list(names.values())), strict=True))

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(work, (1, 2)))
    matrix = attached.matrix()
    for seed, one in zip((1, 2), found, strict=True):
        assert_close(one, formula(attached.layers, matrix, seed))
    make.release(attached)


def exception_in_the_forward(make: Implementation) -> None:
    net = make_net()
    fuse = [True]

    def blow(*_: Any) -> None:
        if fuse[0]:
            raise MemoryError

    net.get_submodule("c").register_forward_pre_hook(blow)
    attached = make.attach(net)
    try:
        loss(attached.net)
    except MemoryError:
        fuse[0] = False
    torch.autograd.backward(loss(attached.net))
    check(attached, 1)
    make.release(attached)


def copied(make: Implementation) -> None:
    """After a step; the copy has the same feedback, and leaves the original alone."""
    attached = make.attach(make_net())
    torch.autograd.backward(loss(attached.net))
    other = attached.of_copy(copy.deepcopy(attached.net))
    other.layers.zero_grad()
    torch.autograd.backward(loss(other.net, 2))
    check(other, 2)
    check(attached, 1)
    assert (other.matrix() == attached.matrix()).all()
    make.release(other)
    torch.autograd.backward(loss(attached.net, 2))
    check(attached, 1, 2)
    make.release(attached)


def pickled(make: Implementation) -> None:
    """After a step, and before the first one."""
    for steps in (0, 1):
        attached = make.attach(make_net())
        for _ in range(steps):
            torch.autograd.backward(loss(attached.net))
        other = attached.of_copy(pickle.loads(pickle.dumps(attached.net)))
        other.layers.zero_grad()
        torch.autograd.backward(loss(other.net, 2))
        check(other, 2)
        attached.layers.zero_grad()
        torch.autograd.backward(loss(attached.net, 2))
        assert (other.matrix() == attached.matrix()).all()
        make.release(other)
        make.release(attached)


def reloaded(make: Implementation) -> None:
    """In what would be another process: the saved state restores the feedback."""
    attached = make.attach(make_net())
    torch.autograd.backward(loss(attached.net))
    state, matrix = attached.save(), attached.matrix()
    make.release(attached)
    other = make.attach(make_net(7))
    other.load(copy.deepcopy(state))
    torch.autograd.backward(loss(other.net, 2))
    assert_close(gradients(other.layers), formula(other.layers, matrix, 2))
    make.release(other)


def frozen_first_block(make: Implementation) -> None:
    net = make_net()
    net.get_submodule("a").requires_grad_(False)
    attached = make.attach(net)
    torch.autograd.backward(loss(attached.net))
    wanted = formula(attached.layers, attached.matrix(), 1)
    assert wanted["a.0.weight"] is None
    check(attached, 1)
    make.release(attached)


ROWS: dict[str, Callable[[Implementation], None]] = {
    row.__name__: row
    for row in (
        plain, compiled, autocast_bfloat16, autocast_float16_with_a_scaler, accumulation, two_forwards_one_backward,
        backward_in_the_other_order, retain_graph, block_twice, functional, checkpointed, reentrant_checkpointing,
        two_threads, exception_in_the_forward, copied, pickled, reloaded, frozen_first_block,
    )
}  # fmt: skip

FREED = "Trying to backward through the graph a second time"
UNEQUAL = "a.0.weight: off by"
FAILS_WITH_TINY = {
    "compiled": "does not know how to trace builtin operator `print`",
    "autocast_bfloat16": "same dtype, but got: c10::BFloat16 != float",
    "autocast_float16_with_a_scaler": "same dtype, but got: c10::Half != float",
    "two_forwards_one_backward": FREED,
    "backward_in_the_other_order": FREED,
    "retain_graph": FREED,
    "block_twice": UNEQUAL,
    "functional": r"attempting to call Tensor.requires_grad_\(\)",
    "reentrant_checkpointing": "does not require grad",
    "two_threads": f"appears to not have been used in the graph|{FREED}",  # whichever comes first
    "copied": "support the deepcopy protocol",
    "reloaded": UNEQUAL,
    "frozen_first_block": "does not require grad",
}
"""Rows that fail with it, and of what: all that FACTS says of TinyDFA, and a few more."""
