"""torch.compile, torch.func and autocast, with a real NumPy device whose calls are counted."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn.functional import cross_entropy

from optical_dfa import Feedback, attach
from optical_dfa.devices import DigitalDevice

# raised by torch itself when it traces an autograd.Function
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")

INPUTS, CLASSES, BATCH = 8, 5, 6
BACKEND = "aot_eager"


class CountedDevice(DigitalDevice):
    """Counts its calls: a compiled backward that forgot the device, or called it twice, is noticed."""

    calls = 0

    def project(self, vectors: Any) -> Any:
        self.calls += 1
        return super().project(vectors)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Neither finds code compiled by earlier tests, nor leaves traces that make a later attach give notice."""
    forget_compiled_code()
    yield
    forget_compiled_code()


def forget_compiled_code() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, 16), nn.Tanh(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, CLASSES))


def counted() -> CountedDevice:
    device = CountedDevice(n_inputs=CLASSES, n_outputs=16)
    device.open()
    return device


def batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, INPUTS, generator=generator), torch.randint(0, CLASSES, (BATCH,), generator=generator)


def step(net: nn.Module, call: Any, seed: int = 1) -> list[Tensor | None]:
    x, y = batch(seed)
    net.zero_grad()
    cross_entropy(call(x), y).backward()
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


def expected(mode: Literal["dfa", "bp", "shallow"] = "dfa", seed: int = 1) -> list[Tensor | None]:
    """Gradients of an uncompiled step."""
    net = make_net()
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        feedback.mode = mode
        return step(net, net, seed)


def assert_equal(found: list[Tensor | None], wanted: list[Tensor | None]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_the_reference_gradients_differ_between_modes() -> None:
    dfa, bp = expected("dfa")[0], expected("bp")[0]
    assert dfa is not None
    assert bp is not None
    assert torch.cosine_similarity(dfa.flatten(), bp.flatten(), dim=0) < 0.9
    assert expected("shallow")[0] is None


def test_a_compiled_net_trains_in_one_graph() -> None:
    net, device = make_net(), counted()
    with attach(net, after=nn.Tanh, device=device):
        compiled = torch.compile(net, backend=BACKEND, fullgraph=True)
        for calls, seed in enumerate((1, 2, 1), 1):
            assert_equal(step(net, compiled, seed), expected(seed=seed))
            assert device.calls == calls
        with torch.no_grad():
            compiled(batch()[0])
        assert device.calls == 3


def test_a_net_compiled_in_place_trains() -> None:
    net, device = make_net(), counted()
    with attach(net, after=nn.Tanh, device=device):
        net.compile(backend=BACKEND, fullgraph=True)
        for calls in (1, 2):
            assert_equal(step(net, net), expected())
            assert device.calls == calls


def test_compiled_blocks_train() -> None:
    """Block by block, as large models are compiled."""
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Sequential(*pair) for pair in zip(make_net()[0:4:2], make_net()[1:4:2], strict=True)))
    net.append(make_net()[4])
    device = counted()
    with attach(net, after=["0", "1"], device=device):
        for block in net:
            block.compile(backend=BACKEND, fullgraph=True)
        assert_equal(step(net, net), expected())
        assert device.calls == 1


def test_modes_switch_after_a_compiled_call() -> None:
    net, device = make_net(), counted()
    with attach(net, after=nn.Tanh, device=device) as feedback:
        compiled = torch.compile(net, backend=BACKEND, fullgraph=True)
        calls = 0
        for mode in ("dfa", "bp", "shallow", "dfa"):
            feedback.mode = mode  # type: ignore[assignment]
            assert_equal(step(net, compiled), expected(mode))  # type: ignore[arg-type]
            calls += mode == "dfa"
            assert device.calls == calls
        with feedback.paused():
            assert_equal(step(net, compiled), expected("bp"))
        assert device.calls == 2


def test_detaching_after_a_compiled_call_gives_backpropagation_back() -> None:
    net, device = make_net(), counted()
    feedback = attach(net, after=nn.Tanh, device=device)
    compiled = torch.compile(net, backend=BACKEND, fullgraph=True)
    assert_equal(step(net, compiled), expected())
    feedback.detach()
    assert_equal(step(net, compiled), expected("bp"))
    assert device.calls == 1


@pytest.mark.parametrize("in_place", [False, True])
def test_attaching_after_a_compiled_call_works_and_gives_notice(in_place: bool) -> None:
    """Without the reset it is silently ignored: the compiled code knows of no hooks."""
    net, device = make_net(), counted()
    if in_place:
        net.compile(backend=BACKEND)
        compiled: Any = net
    else:
        compiled = torch.compile(net, backend=BACKEND)
    assert_equal(step(net, compiled), expected("bp"))
    with pytest.warns(UserWarning, match=r"attach resets torch\.compile") as caught:
        feedback = attach(net, after=nn.Tanh, device=device)
    assert caught[0].filename == __file__, "the notice points at the line that attaches"
    with feedback:
        found = step(net, compiled)
        assert device.calls == 1
    assert_equal(found, _without_notice())


def _without_notice() -> list[Tensor | None]:
    forget_compiled_code()
    return expected()


@pytest.mark.parametrize("transform", ["torch.func", "after a step"])
def test_functional_gradients(transform: str) -> None:
    net, device = make_net(), counted()
    x, y = batch()
    parameters = dict(net.named_parameters())

    def loss(values: dict[str, Tensor]) -> Tensor:
        return cross_entropy(functional_call(net, values, (x,)), y)

    with attach(net, after=nn.Tanh, device=device):
        if transform == "after a step":
            step(net, net)
        found = grad(loss)(parameters)
        assert device.calls == 1 + (transform == "after a step")
    assert_equal([found[name].detach() for name in parameters], expected())


def test_autocast_to_bfloat16() -> None:
    """Hidden tensors are bfloat16, parameters and their gradients float32: 8 bits of mantissa, 3 % over two layers.

    The ternary vectors are the same: no error of this batch is near its threshold.
    """
    net, device = make_net(), counted()
    x, y = batch()
    kinds: list[torch.dtype] = []
    net[1].register_forward_hook(lambda _module, _args, h: kinds.append(h.dtype))
    with attach(net, after=nn.Tanh, device=device):
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(net(x), y)
        loss.backward()
        assert device.calls == 1
    assert kinds == [torch.bfloat16]
    for p, wanted in zip(net.parameters(), expected(), strict=True):
        assert p.grad is not None
        assert wanted is not None
        assert p.grad.dtype == torch.float32
        assert (p.grad - wanted).norm() < 3e-2 * wanted.norm()


def test_a_compiled_autocast_step() -> None:
    net, device = make_net(), counted()
    x, y = batch()
    feedback: Feedback
    with attach(net, after=nn.Tanh, device=device) as feedback:
        compiled = torch.compile(net, backend=BACKEND, fullgraph=True)
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(compiled(x), y)
        loss.backward()
        assert feedback.device is device
    assert device.calls == 1
    for p, wanted in zip(net.parameters(), _without_notice(), strict=True):
        assert p.grad is not None
        assert wanted is not None
        assert (p.grad - wanted).norm() < 3e-2 * wanted.norm()
