"""Deferred projections leave gradients, device and observers as a run without them does, to the bit."""

import copy
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from by_hand import assert_close, by_hand, driven, feedback, gradients, softmax_error
from by_hand import ternary as ternary_by_hand
from micro_batches import (
    BATCH,
    CLASSES,
    INPUTS,
    NOISY,
    Backward,
    Net,
    backward,
    batch,
    bits,
    found,
    held,
    run,
)  # fmt: skip
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from optical_dfa import BitPlanes, Feedback, FeedbackError, NonFiniteError, Ternarize, attach, feedback_of, feedback_tap
from optical_dfa.devices import DeviceTimeout, open_device

# ---- the same bits


class Checkpointed(Net):
    """Its blocks, with dropout, are computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c(checkpoint(lambda x: self.b(self.drop(self.a(x))), x, use_reentrant=False))
        return out


class Exits(Net):
    """An exit behind each block, with one head for both."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Sequential(nn.Linear(16, 16), nn.Tanh())
        self.c = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.a(x)
        first = feedback_tap(self.c(h))
        return first, feedback_tap(self.c(self.b(h)))


class Tied(Net):
    """The last layer uses the weight of a block below the point, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Linear(12, 16)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.c(self.b(self.a(x))), self.get_parameter("a.0.weight").T)


class WithState(Net):
    """A norm with running statistics, a weight that each forward normalises, dropout."""

    def __init__(self) -> None:
        super().__init__()
        first = nn.utils.parametrizations.spectral_norm(nn.Linear(INPUTS, 16))
        self.a = nn.Sequential(first, nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Tanh())


class Recurrent(Net):
    """The first block runs three times."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(INPUTS, INPUTS), nn.Tanh())
        self.b = nn.Sequential(nn.Linear(INPUTS, 12), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c(self.b(self.a(self.a(self.a(x)))))
        return out


def frozen() -> nn.Module:
    net = Net()
    net.a.requires_grad_(False)
    return net


def whole_net_checkpointed(net: nn.Module, number: int) -> None:
    x, y = batch(number)
    torch.autograd.backward(cross_entropy(checkpoint(net, x, use_reentrant=False), y))


def two_forwards(net: nn.Module, number: int) -> None:
    first, second = (cross_entropy(net(x), y) for x, y in (batch(number), batch(number + 100)))
    torch.autograd.backward(first + 2 * second)


def two_exits(net: nn.Module, number: int) -> None:
    x, y = batch(number)
    first, second = net(x)
    torch.autograd.backward(cross_entropy(first, y) + cross_entropy(second, y))


def wide_error(net: nn.Module, number: int) -> None:
    torch.autograd.backward(net(batch(number)[0]).square().mean())


def twice_through_one_graph(net: nn.Module, number: int) -> None:
    x, y = batch(number)
    value = cross_entropy(net(x), y)
    torch.autograd.backward(value, retain_graph=True)
    torch.autograd.backward(3 * value)


def autocast(net: nn.Module, number: int) -> None:
    x, y = batch(number)
    with torch.autocast("cpu", torch.bfloat16):
        value = cross_entropy(net(x), y)
    torch.autograd.backward(value)


def mixed(net: nn.Module, number: int) -> None:
    """Of five micro-batches the second is plain backpropagation's look at the input, and changes no parameter."""
    if number != 1:
        return backward(net, number)
    x = batch(number)[0].requires_grad_()
    with feedback_of(net).paused():
        (gradient,) = torch.autograd.grad(net(x).sum(), x)
    assert gradient.any()
    return None


def bad_sample(net: nn.Module, number: int) -> None:
    x, y = batch(number)
    value = cross_entropy(net(x), y, reduction="none")
    torch.autograd.backward((value * torch.where(torch.arange(BATCH) == number, torch.inf, 1.0)).sum())


RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "depth 2": {"depth": 2},
    "deeper than there are micro-batches": {"depth": 9},
    "one micro-batch": {"numbers": [0]},
    "independent": {"layout": "independent"},
    "a scale of one's own": {"scale": 0.3},
    "derivative=False": {"after": nn.Tanh, "derivative": False},
    "stochastic encoder": {"ternarize": Ternarize(kind="stochastic", seed=4)},
    "bit planes": {"ternarize": BitPlanes(3)},
    "real error": {"ternarize": None, "device": "digital"},
    "frozen block": {"net": frozen},
    "block that runs again": {"net": Recurrent},
    "norms and dropout": {"net": WithState},
    "tied weights": {"net": Tied, "each": wide_error},
    "several exits": {"net": Exits, "each": two_exits},
    "two forwards, one backward": {"each": two_forwards},
    "retain_graph": {"each": twice_through_one_graph},
    "checkpointed blocks with dropout": {"net": Checkpointed},
    "checkpointed net": {"each": whole_net_checkpointed},
    "autocast": {"each": autocast},
    "paused in between": {"each": mixed},
    "error that is not finite": {"each": bad_sample, "nonfinite": "nan"},
}


@pytest.mark.parametrize("name", RUNS)
def test_the_bits_are_those_of_an_undeferred_run(name: str) -> None:
    """Gradients, positions of encoder and device, the sample, and every projection in its turn."""
    wanted = run(False, **RUNS[name])
    assert run(True, **RUNS[name]) == wanted
    assert len(set(wanted.projected)) == len(wanted.projected) >= 1


def test_the_gradients_are_those_of_the_formula() -> None:
    net = Net()
    with attach(net, after=["a", "b"], device="digital") as fed:
        with fed.deferred():
            for number in range(5):
                backward(net, number)
        matrix = fed.device.effective_matrix()
        assert matrix is not None

    def total(n: Any) -> Tensor:
        result = torch.zeros(())
        for number in range(5):
            x, y = batch(number)
            h1 = n.a(x.double())
            h2 = n.b(h1.detach())
            out = n.c(h2.detach())
            e = softmax_error(out, y)
            shown = ternary_by_hand(e)
            result = result + driven([(h1, feedback(shown, matrix)), (h2, feedback(shown, matrix[:12]))], out, e)
        return result

    assert_close(gradients(net), by_hand(net, total))


def test_steps_of_an_optimiser() -> None:
    """Three steps of Adam on four micro-batches each: weights to the bit."""
    weights = []
    for deferred in (False, True):
        net = Net()
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        with attach(net, after=["a", "b"], device=NOISY) as fed:
            for step in range(3):
                optimizer.zero_grad()
                if deferred:
                    with fed.deferred():
                        accumulate(net, range(4 * step, 4 * step + 4))
                else:
                    accumulate(net, range(4 * step, 4 * step + 4))
                optimizer.step()
        weights.append({name: value.numpy().tobytes() for name, value in net.state_dict().items()})
    assert weights[0] == weights[1]


def accumulate(net: nn.Module, numbers: Any) -> None:
    for number in numbers:
        backward(net, number)


# ---- what runs when


def test_forwards_go_on_while_the_device_works() -> None:
    """The device is held: three forward and backward passes return all the same, and nothing has a gradient yet."""
    with held() as (net, device, fed):
        backward(net, 0)
        net.zero_grad()
        device.free.clear()
        with fed.deferred(3):
            accumulate(net, (1, 2, 3))
            assert all(one is None for one in bits(net).values())
            assert len(device.shown) == 1
            device.free.set()
        assert len(device.shown) == 4
        assert len(device.threads) == 2, "this one for the first call, the device's own for the others"
        assert all(one is not None for one in bits(net).values())


def test_a_forward_settles_the_oldest_where_there_would_be_more_than_depth() -> None:
    """What waits when each forward begins, and what is settled then."""
    with held() as (net, _, fed):
        told: list[int] = []
        fed.on_projection(lambda _: told.append(len(told)))
        seen = []
        net.a.register_forward_pre_hook(lambda *_: seen.append((waiting(fed), len(told))))
        with fed.deferred(3):
            accumulate(net, range(5))
            assert (waiting(fed), len(told)) == (3, 2)
        assert (waiting(fed), len(told)) == (0, 5)
    assert seen == [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2)]


def waiting(fed: Feedback) -> int:
    deferral = fed._forwards.deferral
    return 0 if deferral is None else deferral.waiting


def test_settle_by_hand() -> None:
    with held() as (net, _, fed):
        fed.settle()
        accumulate(net, range(3))
        wanted = bits(net)
        net.zero_grad()
        with fed.deferred():
            accumulate(net, range(3))
            fed.settle()
            assert bits(net) == wanted
            net.zero_grad()  # between two steps in one block
            accumulate(net, range(3))
        assert bits(net) == wanted


def test_graphs_are_let_go_of() -> None:
    """As many inputs of micro-batches are alive as are under way, and none behind the block."""
    import weakref

    alive: list[weakref.ref[Tensor]] = []
    with held() as (net, _, fed):
        net.a[0].register_forward_hook(lambda _, __, h: alive.append(weakref.ref(h)))
        with fed.deferred(2):
            for number in range(6):
                backward(net, number)
                assert sum(one() is not None for one in alive) <= 2
        assert all(one() is None for one in alive)


def test_two_nets_on_one_device() -> None:
    """Projections are shown in the order in which the errors came, whoever waits for them."""

    def both(deferred: bool) -> Any:
        nets = [Net(), Net()]
        with open_device("emulator", n_inputs=CLASSES, n_outputs=16) as device:
            first, second = (attach(net, after=["a", "b"], device=device) for net in nets)
            if deferred:
                with first.deferred():
                    for number in range(4):
                        backward(nets[0], number)
                        backward(nets[1], number)  # at once, behind what was submitted
            else:
                for number in range(4):
                    backward(nets[0], number)
                    backward(nets[1], number)
            return [found(net, fed, []) for net, fed in zip(nets, (first, second), strict=True)]

    assert both(True) == both(False)


# ---- what goes wrong


def test_an_exception_drops_what_waits_and_leaves_the_device_where_it_would_be() -> None:
    """What comes behind is what comes behind an undeferred run that was broken off at that place."""
    stochastic = Ternarize(kind="stochastic")
    behind = []
    for deferred in (False, True):
        net = Net()
        with attach(net, after=["a", "b"], device=NOISY, ternarize=stochastic) as fed:
            with pytest.raises(ZeroDivisionError) as error, fed.deferred() if deferred else nullcontext():  # noqa: PT012
                accumulate(net, range(4))
                raise ZeroDivisionError
            if deferred:
                assert bits(net) == run(False, [0], ternarize=stochastic).gradients
                assert error.value.__notes__ == [
                    "of 4 micro-batches inside deferred() the gradients of 1 are complete in .grad; the others were "
                    "dropped: zero the gradients before the step is tried again"
                ]
            net.zero_grad()
            accumulate(net, (7, 8))
            behind.append(found(net, fed, []))
    assert behind[0] == behind[1]


def test_a_device_that_fails_stops_what_stands_behind() -> None:
    """The third call fails: two are in .grad, none behind is shown, and the same can be tried again."""
    with held(fails_at=2) as (net, device, fed):
        with pytest.raises(DeviceTimeout, match="no trigger came") as error, fed.deferred(9):
            accumulate(net, range(5))
        assert error.value.__notes__ == [
            "of 5 micro-batches inside deferred() the gradients of 2 are complete in .grad; the others were dropped: "
            "zero the gradients before the step is tried again"
        ]
        assert len(device.shown) == 2
        assert fed.state_dict()["calls"] == 2
        assert bits(net) == run(False, range(2), device=open_device("digital", n_inputs=5, n_outputs=16)).gradients
        with fed.deferred():
            accumulate(net, (2, 3, 4))
        assert len(device.shown) == 5
        assert fed.state_dict()["calls"] == 5


def test_an_exception_and_a_device_that_fails() -> None:
    with held(fails_at=1) as (net, device, fed):
        with pytest.raises(ZeroDivisionError) as error, fed.deferred(5):  # noqa: PT012
            accumulate(net, range(3))
            raise ZeroDivisionError
        assert error.value.__notes__[0] == "and the device failed: no trigger came"
        assert (len(device.shown), fed.state_dict()["calls"]) == (1, 1)
        assert waiting(fed) == 0


def test_an_observer_that_raises() -> None:
    with held() as (net, _, fed):

        def refuse(_: Any) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError), fed.on_projection(refuse), fed.deferred():
            accumulate(net, range(2))
        assert all(one is None for one in bits(net).values())
        assert fed.state_dict()["calls"] == 2


def test_a_step_before_the_gradients_are_there_raises() -> None:
    with held() as (net, _, fed):
        before = copy.deepcopy(net.state_dict())
        optimizer = torch.optim.SGD(net.parameters(), 1.0)
        other = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
        with pytest.raises(FeedbackError, match=r"SGD.step\(\) while 2 micro-batches wait"), fed.deferred():  # noqa: PT012
            accumulate(net, range(2))
            other.step()
            optimizer.step()
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        with fed.deferred():
            accumulate(net, range(2))
            fed.settle()
            optimizer.step()
        assert not torch.equal(net.c.weight, before["c.weight"])


def with_a_penalty(net: nn.Module, number: int) -> None:
    x, y = batch(number)
    torch.autograd.backward(cross_entropy(net(x), y) + net.get_parameter("a.0.weight").square().sum())


def zeroed(net: nn.Module, number: int) -> None:
    if number == 3:
        net.zero_grad()
    backward(net, number)


def clipped(net: nn.Module, number: int) -> None:
    backward(net, number)
    if number == 3:
        nn.utils.clip_grad_norm_(net.parameters(), 1e-3)


@pytest.mark.parametrize(("each", "named"), [(with_a_penalty, "a.0.weight"), (zeroed, "a.0.weight"), (clipped, "a.0")])
def test_gradients_that_others_change_meanwhile_raise(each: Backward, named: str) -> None:
    with pytest.raises(FeedbackError, match=rf"the gradients of {named}.* were changed while micro-batches waited"):
        run(True, each=each, depth=2)


def test_an_input_that_is_filled_again_too_early_raises() -> None:
    """PyTorch's own error: the backward pass of the first layer needs the input as it was."""
    room = torch.empty(BATCH, INPUTS)

    def reused(net: nn.Module, number: int) -> None:
        x, y = batch(number)
        torch.autograd.backward(cross_entropy(net(room.copy_(x)), y))

    run(False, each=reused)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        run(True, each=reused)


def test_layers_above_the_error_are_not_in_the_way() -> None:
    """They get their gradient in the backward pass of the loss, in the same order as ever."""

    class Above(Net):
        def __init__(self) -> None:
            super().__init__()
            self.vocabulary = nn.Linear(CLASSES, 30)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.vocabulary(self.c(self.b(self.a(x))))
            return out

    options: dict[str, Any] = {"net": Above, "error_at": "c"}
    assert run(True, **options) == run(False, **options)


def test_nonfinite_errors_raise_where_they_arise() -> None:
    with held() as (net, device, fed):
        with pytest.raises(NonFiniteError, match="1 of 6 error vectors"), fed.deferred():  # noqa: PT012
            backward(net, 0)
            bad_sample(net, 1)
        assert len(device.shown) == 1


def in_a_thread(fed: Feedback, net: nn.Module) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(backward, net, 0).result()


def nested(fed: Feedback, net: nn.Module) -> None:
    with fed.deferred():
        backward(net, 0)


def second_derivatives(fed: Feedback, net: nn.Module) -> None:
    x, y = batch(0)
    torch.autograd.backward(cross_entropy(net(x), y), create_graph=True)


def functional(fed: Feedback, net: nn.Module) -> None:
    x, y = batch(0)
    torch.func.grad(lambda values: cross_entropy(torch.func.functional_call(net, values, (x,)), y))(
        dict(net.named_parameters())
    )


def own_output(fed: Feedback, net: nn.Module) -> None:
    x = batch(0)[0]
    again = net(x)
    torch.autograd.backward(net(nn.functional.pad(again, (0, INPUTS - CLASSES))).sum() + again.sum())


def in_a_backward(fed: Feedback, net: nn.Module) -> None:
    x = batch(0)[0]
    backward(net, 1)
    out = net(x)
    out.register_hook(lambda _: fed.settle())
    out.sum().backward()


def saved(fed: Feedback, net: nn.Module) -> None:
    backward(net, 0)
    fed.state_dict()


def loaded(fed: Feedback, net: nn.Module) -> None:
    state = fed.state_dict()
    backward(net, 0)
    fed.load_state_dict(state)


def pickled(fed: Feedback, net: nn.Module) -> None:
    backward(net, 0)
    pickle.dumps(net)


def closed(fed: Feedback, net: nn.Module) -> None:
    backward(net, 0)
    fed.close()


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (in_a_thread, "entered in another thread"),
        (nested, r"deferred\(\) is on already"),
        (second_derivatives, "no second derivatives"),
        (functional, r"part of torch.func"),
        (own_output, "went into the net again"),
        (in_a_backward, r"settle\(\) was called inside a backward pass"),
        (saved, r"state_dict\(\) while 1 micro-batches wait .* call settle\(\) first"),
        (loaded, r"load_state_dict\(\) while 1 micro-batches wait"),
        (pickled, "pickling a feedback while 1 micro-batches wait"),
        (closed, r"detach\(\) and close\(\) while 1 micro-batches wait"),
    ],
)
@pytest.mark.filterwarnings("ignore:Using backward.* with create_graph=True:UserWarning")
def test_what_cannot_be_deferred_is_refused(misuse: Callable[[Feedback, nn.Module], None], message: str) -> None:
    """And the feedback is sound afterwards."""
    with held() as (net, _, fed):
        accumulate(net, range(3))
        wanted = bits(net)
        with pytest.raises(FeedbackError, match=message), fed.deferred():
            misuse(fed, net)
        for parameter in net.parameters():
            parameter.grad = None
        with fed.deferred():
            accumulate(net, range(3))
        assert bits(net) == wanted


def test_a_backward_pass_behind_the_block_raises() -> None:
    with held() as (net, device, fed):
        with fed.deferred():
            value = net(batch(0)[0]).sum()
        with pytest.raises(FeedbackError, match=r"forward ran inside deferred\(\), its backward pass did not"):
            value.backward()
        value = net(batch(0)[0]).sum()
        with fed.deferred():
            value.backward()  # a forward of before: projected at once
        assert len(device.shown) == 1


def test_a_depth_below_two_is_refused() -> None:
    with held() as (_, __, fed):
        for depth in (1, 0, 2.5):
            with pytest.raises(ValueError, match="depth must be a number of micro-batches, 2 or more"):
                fed.deferred(depth).__enter__()  # type: ignore[arg-type]


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def traced(test: Any) -> Any:
    """Marks a test that compiles: what torch warns of as it traces."""
    for warning in (
        ".*should not be instantiated:DeprecationWarning",
        "The .grad attribute of a Tensor that is not a leaf:UserWarning",
        "attach resets torch.compile",
    ):
        test = pytest.mark.filterwarnings(f"ignore:{warning}")(test)
    return pytest.mark.usefixtures("fresh_compiler")(test)


@traced
def test_a_compiled_block() -> None:
    def net() -> nn.Module:
        whole = Net()
        whole.a.compile(backend="aot_eager")
        return whole

    assert run(True, net=net) == run(False, net=net)


@traced
@pytest.mark.parametrize("compiled_before", [True, False])
def test_a_net_compiled_as_a_whole_is_refused(compiled_before: bool) -> None:
    """And trains on behind the block."""
    with held() as (net, _, fed):
        backward(net, 0)
        wanted = bits(net)
        compiled: Any = torch.compile(net, backend="eager")
        if compiled_before:
            backward(compiled, 0)
        with pytest.raises(FeedbackError, match="neither compiled as a whole"), fed.deferred():
            backward(compiled, 0)
        net.zero_grad()
        backward(compiled, 0)
        assert bits(net) == wanted


def test_a_copy_is_not_deferred_and_stands_behind() -> None:
    """A copy made while micro-batches wait shares the device, which shows first what came first."""

    def both(deferred: bool) -> Any:
        net = Net()
        with attach(net, after=["a", "b"], device=NOISY) as fed, fed.deferred(9) if deferred else nullcontext():
            accumulate(net, range(3))
            twin = copy.deepcopy(net)
            twin.zero_grad()
            backward(twin, 9)
            accumulate(net, range(3, 5))
            fed.settle()
            return bits(net), bits(twin), fed.state_dict()["device"], feedback_of(twin).state_dict()["calls"]

    assert both(True) == both(False)
    assert both(True)[3] == 4


def test_evaluation_and_plans_inside() -> None:
    with held() as (net, device, fed):
        accumulate(net, range(3))
        wanted = bits(net)
        net.zero_grad()
        with fed.deferred():
            backward(net, 0)
            with torch.no_grad():
                net(batch(5)[0])
            assert fed.plan(batch(5)[0]).vectors_per_step == BATCH
            accumulate(net, (1, 2))
        assert bits(net) == wanted
        assert len(device.shown) == 6


def test_the_audit_reads_a_deferred_forward() -> None:
    audits = []
    for deferred in (False, True):
        with held() as (net, _, fed):
            if deferred:
                with fed.deferred():
                    backward(net, 0)
            else:
                backward(net, 0)
            audits.append(fed.audit().to_dict())
            assert fed.parameters("exact") == [net.c.weight, net.c.bias]
    assert audits[0] == audits[1]


def test_alignment_is_measured_inside() -> None:
    """Of the first micro-batch, settled at once for it; the gradients are those of a run without a monitor."""
    measured: list[Any] = []
    for deferred in (False, True):
        with held() as (net, _, fed):
            monitor = fed.alignment(1, measured.append)

            def first(net: nn.Module = net, monitor: Any = monitor) -> None:
                x, y = batch(0)
                with monitor.step(lambda: cross_entropy(net(x), y)):
                    backward(net, 0)

            if deferred:
                with fed.deferred():
                    first()
                    accumulate(net, (1, 2))
            else:
                first()
                accumulate(net, (1, 2))
            measured.append(bits(net))
    assert measured[0] == measured[2]
    assert measured[1] == measured[3]
