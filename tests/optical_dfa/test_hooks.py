"""What the hooks must survive: exceptions, threads, checkpointing, partial and repeated forwards."""

import copy
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pytest
import torch
from by_hand import assert_close, by_hand, three_layers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from optical_dfa import Feedback, FeedbackError, attach
from optical_dfa.devices import open_device

INPUTS, CLASSES, BATCH = 8, 5, 6


def make_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(INPUTS, 16), nn.Tanh(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, CLASSES))


def batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, INPUTS, generator=generator), torch.randint(0, CLASSES, (BATCH,), generator=generator)


def gradients(net: nn.Module) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


def step(net: nn.Module, x: Tensor, y: Tensor) -> list[Tensor | None]:
    net.zero_grad()
    torch.autograd.backward(cross_entropy(net(x), y))
    return gradients(net)


def same_bits(one: list[Tensor | None], other: list[Tensor | None]) -> bool:
    return len(one) == len(other) and all(
        a is b is None or (a is not None and b is not None and torch.equal(a, b))
        for a, b in zip(one, other, strict=True)
    )


def dfa_gradients(seed: int = 1) -> list[Tensor | None]:
    """What the net of `make_net` gets in an undisturbed step."""
    net = make_net()
    with attach(net, after=nn.Tanh, device="digital"):
        return step(net, *batch(seed))


def test_an_undisturbed_step_is_the_formula() -> None:
    """What the others are compared with."""
    net, device = make_net(), open_device("digital", n_inputs=CLASSES, n_outputs=16)
    matrix: Any = device.effective_matrix()
    wanted = by_hand(net, three_layers(matrix, *batch()))
    assert_close(dict(zip(wanted, dfa_gradients(), strict=True)), wanted)


class Wrapper(nn.Module):
    """A forward of one's own around the layers of `make_net`."""

    def __init__(self, run: Callable[[nn.Sequential, Tensor], Any]) -> None:
        super().__init__()
        self.layers = make_net()
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.run(self.layers, x)


# ---- exceptions


class Fuse(nn.Module):
    blown = False

    def forward(self, x: Tensor) -> Tensor:
        if self.blown:
            raise MemoryError("out of memory")
        return x


@pytest.mark.parametrize("place", [1, 2, 5])
def test_an_exception_in_the_forward_leaves_nothing_behind(place: int) -> None:
    """Neither an open call (points outside a forward are inert) nor a token that a later error would reach."""
    net, (x, y) = make_net(), batch()
    fuse = Fuse()
    net.insert(place, fuse)
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        fuse.blown = True
        for _ in range(2):
            with pytest.raises(MemoryError):
                net(x)
        fuse.blown = False
        outside = torch.autograd.grad(net[:3](x).sum(), net.get_parameter("0.weight"))[0]
        assert outside.abs().max() > 0, "no open call detaches this point"
        assert same_bits(step(net, x, y), dfa_gradients())
        assert feedback.device.usage.vectors == BATCH


def test_an_exception_in_a_pre_hook_of_the_user_leaves_the_outer_call_alone() -> None:
    """An attached net inside an attached net: the inner forward fails before it starts, the outer one goes on."""
    inner = make_net(3)

    def refuse(_net: nn.Module, _args: Any) -> None:
        raise MemoryError("out of memory")

    inner.register_forward_pre_hook(refuse)

    def run(layers: nn.Sequential, x: Tensor) -> Any:
        h = layers[:2](x)
        with pytest.raises(MemoryError):
            inner(x)
        return layers[2:](h)

    net = Wrapper(run)
    net.inner = inner
    with (
        attach(inner, after=nn.Tanh, device="digital"),
        attach(net, after=["layers.1", "layers.3"], device="digital"),
    ):
        assert same_bits(step(net, *batch())[:6], dfa_gradients())


def test_the_error_of_a_bad_shape_is_not_buried_under_another() -> None:
    """It leaves the forward as it is, with no second complaint (warnings are errors here)."""
    net = Wrapper(lambda layers, x: layers(x).reshape(BATCH // 2, 2 * CLASSES))
    with (
        attach(net, after=nn.Tanh, device="digital"),
        pytest.raises(FeedbackError, match=r"'layers\.1' has shape \(6, 16\), the error \(3, 10\)"),
    ):
        net(batch()[0])


# ---- attached nets inside attached nets


def test_nets_within_nets_keep_their_feedback_apart() -> None:
    """The inner net is driven by its own output's error, which the outer block backpropagates to it."""
    torch.manual_seed(0)
    inner_net = make_net()
    net = nn.Sequential(inner_net, nn.Tanh(), nn.Linear(CLASSES, 4))
    x, y = batch()
    y = y % 4
    with (
        attach(inner_net, after=nn.Tanh, device="digital", ternarize=None) as inner,
        attach(net, after=["1"], device={"name": "digital", "seed": 1}, ternarize=None) as outer,
    ):
        torch.autograd.backward(cross_entropy(net(x), y))
        inner_matrix, outer_matrix = inner.device.effective_matrix(), outer.device.effective_matrix()
    assert inner_matrix is not None
    assert outer_matrix is not None
    with torch.no_grad():
        h1 = inner_net[:2](x)
        h2 = inner_net[2:4](h1)
        h3 = inner_net[4](h2).tanh()
        error = (net[2](h3).softmax(1) - nn.functional.one_hot(y, 4)) / BATCH
        inner_error = error @ torch.from_numpy(outer_matrix).T / CLASSES**0.5 * (1 - h3**2)
        field = inner_error @ torch.from_numpy(inner_matrix).T
        expected = [
            (field / 16**0.5 * (1 - h1**2)).T @ x,
            (field[:, :12] / 12**0.5 * (1 - h2**2)).T @ h1,
            inner_error.T @ h2,
            error.T @ h3,
        ]
    for found, weight in zip(gradients(net)[::2], expected, strict=True):
        torch.testing.assert_close(found, weight, rtol=1e-5, atol=1e-7)


def test_a_net_that_calls_itself() -> None:
    """Each call has its own Tap, so its own vectors."""

    class Recursive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.block, self.act, self.out = nn.Linear(INPUTS, 16), nn.Tanh(), nn.Linear(16, CLASSES)

        def forward(self, x: Tensor, depth: int = 1) -> Tensor:
            h = self.act(self.block(x))
            below = self(x / 2, depth - 1) if depth else 0.0
            out: Tensor = self.out(h) + below
            return out

    x, y = batch()
    net = Recursive()
    with attach(net, after=["act"], device="digital") as feedback:
        torch.autograd.backward(cross_entropy(net(x), y))
        assert feedback.device.usage.vectors == 2 * BATCH
        found = net.block.weight.grad
        # the same error reaches both taps: the sum of two plain calls' feedback
        by_hand = torch.zeros_like(net.block.weight)
        logits = (net.out(torch.tanh(net.block(x))) + net.out(torch.tanh(net.block(x / 2)))).detach().requires_grad_()
        error = torch.autograd.grad(cross_entropy(logits, y), logits)[0]
        for given in (x, x / 2):
            net.zero_grad()
            net(given, 0).backward(error)
            assert net.block.weight.grad is not None
            by_hand += net.block.weight.grad
    assert found is not None
    torch.testing.assert_close(found, by_hand, rtol=1e-5, atol=1e-7)


# ---- threads


def test_two_threads_at_once() -> None:
    """Both are held inside the forward until the other is there; each gets the gradients it gets alone."""

    class Meet(nn.Module):
        barrier: threading.Barrier | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.barrier is not None:
                self.barrier.wait(timeout=60)
            return x

    net, meet = make_net(), Meet()
    net.insert(2, meet)

    def work(seed: int) -> list[Tensor]:
        x, y = batch(seed)
        return list(torch.autograd.grad(cross_entropy(net(x), y), list(net.parameters())))

    interval = sys.getswitchinterval()
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        alone = [work(seed) for seed in (1, 2)]
        meet.barrier = threading.Barrier(2)
        sys.setswitchinterval(1e-5)
        try:
            with ThreadPoolExecutor(2) as pool:
                for _ in range(10):
                    together = list(pool.map(work, (1, 2)))
                    for one, other in zip(alone, together, strict=True):
                        torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-8)
        finally:
            sys.setswitchinterval(interval)
        assert feedback.device.usage.vectors == 22 * BATCH


def test_many_threads_with_batches_of_many_sizes() -> None:
    """What is kept of the vectors belongs to all of them; a count of it that they change in turn is soon wrong."""
    net = make_net()
    failed: list[BaseException] = []

    def work(size: int) -> None:
        x, y = (one[:1].expand(size, *one.shape[1:]) for one in batch())
        try:
            for _ in range(200):
                torch.autograd.grad(cross_entropy(net(x), y), list(net.parameters()))
        except BaseException as error:
            failed.append(error)

    with attach(net, after=nn.Tanh, device="digital") as feedback:
        threads = [threading.Thread(target=work, args=(size,)) for size in (64, 100, 200, 33)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert not failed
        work(10)
        assert not failed
        assert len(feedback.sample) == 256


# ---- forwards that are not training


def test_forwards_without_gradients_are_untouched() -> None:
    x, _ = batch()
    net = make_net()
    expected = net(x).detach()
    with attach(net, after=nn.Tanh, device="emulator") as feedback:
        feedback.plan(x)
        for training in (True, False):
            net.train(training)
            for context in (torch.no_grad, torch.inference_mode):
                with context():
                    assert torch.equal(net(x), expected)
            output = net(x)
            assert torch.equal(output, expected), "feedback changes gradients, never values"
        assert feedback.device.usage.vectors == 0
        assert feedback.sample is None


def test_a_point_called_outside_its_net_is_inert() -> None:
    x, _ = batch()
    net, plain = make_net(), make_net()
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        feedback.plan(x)
        for model in (net, plain):
            model[:4](x).square().sum().backward()
        assert same_bits(gradients(net), gradients(plain))
        assert feedback.device.usage.vectors == 0


def test_a_point_of_another_net_is_inert() -> None:
    """A net that uses a block of an attached net, and not that net itself, backpropagates through it."""
    other = make_net(3)
    x, y = batch()

    def run(layers: nn.Sequential, x: Tensor) -> Any:
        return layers(x) + other[4](other[1](other[0](x))[:, :12])

    def gradients_with(owner: bool) -> list[Tensor | None]:
        net = Wrapper(run)
        other.zero_grad()
        with attach(net, after=nn.Tanh, device="digital"):
            if not owner:
                return step(net, x, y) + gradients(other)
            with attach(other, after=nn.Tanh, device="digital") as feedback:
                feedback.plan(x)
                found = step(net, x, y) + gradients(other)
                assert feedback.device.usage.vectors == 0
                return found

    assert same_bits(gradients_with(owner=True), gradients_with(owner=False))
    assert other[0].weight.grad is not None


# ---- checkpointing

SPANS = [(0, 2), (2, 4), (1, 3), (0, 3), (1, 4), (0, 5), (3, 5), (2, 5)]


def checkpointed(first: int, last: int, reentrant: bool = False) -> Wrapper:
    """Layers first … last-1 are run again in the backward instead of keeping their activations."""

    def run(layers: nn.Sequential, x: Tensor) -> Any:
        h = checkpoint(layers[first:last], layers[:first](x), use_reentrant=reentrant)
        return layers[last:](h)

    return Wrapper(run)


@pytest.mark.parametrize(("first", "last"), SPANS)
def test_checkpointing_changes_nothing(first: int, last: int) -> None:
    net = checkpointed(first, last)
    runs = 0

    def count(*_: Any) -> None:
        nonlocal runs
        runs += 1

    net.layers[first].register_forward_hook(count)
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        found = step(net, *batch())
        assert runs == 2, "the span was recomputed"
        assert feedback.device.usage.vectors == BATCH
        part = net.layers[:4](batch()[0]).sum()
        outside = torch.autograd.grad(part, net.get_parameter("layers.0.weight"))[0]
        assert outside.abs().max() > 0, "no call is left open"
    assert same_bits(found, dfa_gradients())


def test_checkpointing_the_whole_net_changes_nothing() -> None:
    net, (x, y) = make_net(), batch()
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        torch.autograd.backward(cross_entropy(checkpoint(net, x, use_reentrant=False), y))
        assert feedback.device.usage.vectors == BATCH
    assert same_bits(gradients(net), dfa_gradients())


@pytest.mark.parametrize("inside", [False, True], ids=["net", "net and loss"])
def test_checkpointing_of_what_comes_after_the_error_module(inside: bool) -> None:
    """The backward asks for the recomputation before it reaches the Tap, which is no way round it."""

    def run(wrapped: nn.Module, x: Tensor, y: Tensor) -> Any:
        if inside:
            return checkpoint(lambda z: cross_entropy(wrapped(z), y), x, use_reentrant=False)
        return cross_entropy(checkpoint(wrapped, x, use_reentrant=False), y)

    x, y = batch()
    found = []
    for checkpointed_too in (False, True):
        net = Wrapper(lambda layers, x: layers(x).square().tanh())
        with attach(net, after=nn.Tanh, error_at="layers.4", device="digital"):
            for _ in range(3):
                net.zero_grad()
                torch.autograd.backward(run(net, x, y) if checkpointed_too else cross_entropy(net(x), y))
            found.append(gradients(net))
    assert same_bits(*found)


def test_a_way_round_the_tap_of_a_checkpointed_net_is_found() -> None:
    net, (x, _) = Wrapper(lambda layers, x: (layers(x), layers[0](x).square())), batch()
    with attach(net, after=nn.Tanh, error_at="layers.4", device="digital"):
        checkpoint(net, x, use_reentrant=False)[1].sum().backward()
        with pytest.raises(FeedbackError, match=r"did not come through the output of 'layers.4'"):
            net(x)


def test_checkpointing_in_mode_shallow() -> None:
    net, (x, y) = checkpointed(0, 4), batch()
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        feedback.mode = "shallow"
        found = step(net, x, y)
    assert same_bits(found, [None, None, None, None, *dfa_gradients()[4:]])


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(("first", "last"), [(0, 2), (1, 4), (0, 5)])
def test_checkpointing_while_paused(first: int, last: int, reentrant: bool) -> None:
    """True backpropagation, of either kind, as long as the backward is inside the pause too."""
    net, plain, (x, y) = checkpointed(first, last, reentrant), make_net(), batch()
    x.requires_grad_()
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        with feedback.paused():
            assert same_bits(step(net, x, y), step(plain, x, y))
            loss = cross_entropy(net(x), y)
        if reentrant:
            with pytest.raises(FeedbackError, match=r"re-entrant checkpointing around feedback point 'layers\.1'"):
                torch.autograd.backward(loss)


def test_reentrant_checkpointing_of_the_whole_net_changes_nothing() -> None:
    """There the Tap is inside: the recomputed forward has a call of its own."""
    net, (x, y) = make_net(), batch()
    x.requires_grad_()
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        torch.autograd.backward(cross_entropy(checkpoint(net, x, use_reentrant=True), y))
        assert feedback.device.usage.vectors == BATCH
    assert same_bits(gradients(net), dfa_gradients())


@pytest.mark.parametrize(("first", "last"), [(0, 2), (0, 3), (1, 4), (0, 5)])
def test_reentrant_checkpointing_around_a_point_raises(first: int, last: int) -> None:
    """Its inner graph is not the one that the Tap holds: every peer gives None gradients without a word."""
    net, (x, y) = checkpointed(first, last, reentrant=True), batch()
    with (
        attach(net, after=nn.Tanh, device="digital"),
        pytest.raises(FeedbackError, match=r"(?s)feedback point 'layers\.[13]'.*use_reentrant=False"),
    ):
        step(net, x.requires_grad_(), y)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True:UserWarning")
@pytest.mark.parametrize(("first", "last"), [(0, 2), (2, 4)])
def test_reentrant_checkpointing_without_an_input_that_requires_gradients_raises(first: int, last: int) -> None:
    """The usual case, as the input of every block is detached: nothing would be recomputed, and nothing noticed."""
    net, (x, y) = checkpointed(first, last, reentrant=True), batch()
    with (
        attach(net, after=nn.Tanh, device="digital"),
        pytest.raises(FeedbackError, match=rf"(?s)feedback point 'layers\.{last - 1}'.*use_reentrant=False"),
    ):
        step(net, x, y)


# ---- points that do not run, or run late


def test_a_point_that_did_not_run_is_named() -> None:
    net = Wrapper(lambda layers, x: layers[2:](layers[0](x)))
    with (
        attach(net, after=nn.Tanh, device="digital") as feedback,
        pytest.raises(FeedbackError, match=r"\['layers\.1'\] did not run in this forward"),
    ):
        net(batch()[0])
    assert feedback.points == ("layers.1", "layers.3")


def test_an_error_module_that_did_not_run_raises() -> None:
    net = Wrapper(lambda layers, x: layers(x))
    net.unused = nn.Linear(CLASSES, CLASSES)
    with (
        attach(net, after=nn.Tanh, error_at="unused", device="digital"),
        pytest.raises(FeedbackError, match=r"error_at \('unused'\) did not run in this forward"),
    ):
        net(batch()[0])


def test_points_after_the_error_module_raise() -> None:
    net = make_net()
    with (
        attach(net, after=nn.Tanh, error_at="2", device="digital"),
        pytest.raises(FeedbackError, match=r"\['3'\] ran after the module named by error_at \('2'\) and would"),
    ):
        net(batch()[0])


def test_an_output_that_is_not_a_tensor_raises_and_error_at_helps() -> None:
    net, (x, y) = Wrapper(lambda layers, x: {"logits": layers(x)}), batch()
    with (
        attach(net, after=nn.Tanh, device="digital"),
        pytest.raises(FeedbackError, match=r"output of the net gave a dict with 'logits'.*output=.*error_at="),
    ):
        net(x)
    with attach(net, after=nn.Tanh, error_at="layers", device="digital"):
        net.zero_grad()
        torch.autograd.backward(cross_entropy(net(x)["logits"], y))
    assert same_bits(gradients(net), dfa_gradients())


def test_the_loss_inside_the_net() -> None:
    """A scalar output carries no error vector; the module before the loss does."""
    x, y = batch()
    net = Wrapper(lambda layers, x: cross_entropy(layers(x), y))
    with (
        attach(net, after=nn.Tanh, device="digital"),
        pytest.raises(FeedbackError, match=r"the error \(\).*error_at="),
    ):
        net(x)
    with attach(net, after=nn.Tanh, error_at="layers", device="digital"):
        net.zero_grad()
        net(x).backward()
    assert same_bits(gradients(net), dfa_gradients())


# ---- forwards that repeat


@pytest.mark.parametrize("layout", ["shared", "independent"])
@pytest.mark.parametrize("planned", [False, True])
def test_a_block_that_runs_twice_is_fed_twice(layout: Literal["shared", "independent"], planned: bool) -> None:
    """With independent rows, each run has its own."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.block = nn.Sequential(nn.Linear(INPUTS, INPUTS), nn.Tanh())
            self.out = nn.Linear(INPUTS, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.out(self.block(self.block(x)))
            return out

    net, (x, y) = Twice(), batch()
    with attach(net, after=["block"], device="digital", layout=layout, ternarize=None) as feedback:
        if planned:
            assert feedback.plan(x).n_outputs == INPUTS * (2 if layout == "independent" else 1)
        torch.autograd.backward(cross_entropy(net(x), y))
        matrix = feedback.device.effective_matrix()
        assert feedback.device.usage.vectors == BATCH
    assert matrix is not None
    found = net.block[0].weight.grad
    block = copy.deepcopy(net.block)
    first = block(x)
    second = block(first.detach())
    logits = net.out(second.detach())
    error = (logits.softmax(1) - nn.functional.one_hot(y, CLASSES)).detach() / BATCH
    field = error @ torch.from_numpy(matrix).T / INPUTS**0.5
    torch.autograd.backward([first, second], [field[:, :INPUTS], field[:, -INPUTS:]])
    torch.testing.assert_close(found, block[0].weight.grad, rtol=1e-5, atol=1e-7)


def test_two_forwards_before_one_backward() -> None:
    net = make_net()
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        losses = [cross_entropy(net(x), y) for x, y in (batch(1), batch(2))]
        torch.autograd.backward(sum(losses, torch.zeros(())))
        assert feedback.device.usage.vectors == 2 * BATCH
    for found, one, two in zip(gradients(net), dfa_gradients(1), dfa_gradients(2), strict=True):
        assert found is not None
        assert one is not None
        assert two is not None
        torch.testing.assert_close(found, one + two, rtol=1e-6, atol=1e-8)


def test_the_same_graph_backward_twice() -> None:
    """Each backward projects: the device sees the error twice, the gradients add up."""
    net, (x, y) = make_net(), batch()
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        loss = cross_entropy(net(x), y)
        torch.autograd.backward(loss, retain_graph=True)
        once = gradients(net)
        torch.autograd.backward(loss)
        assert feedback.device.usage.vectors == 2 * BATCH
    assert same_bits(once, dfa_gradients())
    assert same_bits(gradients(net), [None if g is None else 2 * g for g in once])


@pytest.mark.parametrize("frozen", [0, 2, 4])
def test_a_frozen_block_changes_nothing_for_the_others(frozen: int) -> None:
    net = make_net()
    net[frozen].requires_grad_(False)
    with attach(net, after=nn.Tanh, device="digital"):
        found = step(net, *batch())
    expected: list[Tensor | None] = dfa_gradients()
    expected[frozen : frozen + 2] = [None, None]
    assert same_bits(found, expected)


def test_the_feedback_lives_as_long_as_its_hooks() -> None:
    """Nobody must keep what attach returned for the net to train."""
    net = make_net()

    def forget() -> None:
        feedback: Feedback = attach(net, after=nn.Tanh, device="digital")
        assert feedback.mode == "dfa"

    forget()
    assert same_bits(step(net, *batch()), dfa_gradients())
