"""torch.compile, torch.func and autocast, with a real NumPy device whose calls are counted."""

import itertools
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch
from by_hand import assert_close, by_hand, three_layers
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from optical_dfa import Feedback, attach, feedback_point, feedback_tap
from optical_dfa.devices import DigitalDevice
from optical_dfa.feedback import Mode

# raised inside torch while it traces: an autograd.Function; an output of one compiled part that enters the next
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]

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
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


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
    torch.autograd.backward(cross_entropy(call(x), y))
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


Reference = dict[tuple[str, int], list[Tensor | None]]


@pytest.fixture(scope="module")
def reference() -> Reference:
    """Gradients of an uncompiled step, by mode and seed of the batch; made before anything is compiled."""
    result = {}
    for mode, seed in itertools.product(get_args(Mode), (1, 2)):
        net = make_net()
        with attach(net, after=nn.Tanh, device="digital") as feedback:
            feedback.mode = mode
            result[mode, seed] = step(net, net, seed)
    return result


def assert_equal(found: list[Tensor | None], wanted: list[Tensor | None]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_reference_is_the_formula(seed: int, reference: Reference) -> None:
    """What the steps below are compared with is itself compared: DFA, backpropagation, and the top alone."""
    net, (x, y) = make_net(), batch(seed)
    matrix: Any = counted().effective_matrix()
    dfa = by_hand(net, three_layers(matrix, x, y))
    bp = by_hand(net, lambda n: cross_entropy(n(x.double()), y))
    shallow = {name: one if name.startswith("4.") else None for name, one in dfa.items()}
    for mode, wanted in {"dfa": dfa, "bp": bp, "shallow": shallow}.items():
        assert_close(dict(zip(wanted, reference[mode, seed], strict=True)), wanted)


def test_the_reference_gradients_differ_between_modes(reference: Reference) -> None:
    dfa, bp = reference["dfa", 1][0], reference["bp", 1][0]
    assert dfa is not None
    assert bp is not None
    assert torch.cosine_similarity(dfa.flatten(), bp.flatten(), dim=0) < 0.9
    assert reference["shallow", 1][0] is None


def test_a_compiled_net_trains_in_one_graph(reference: Reference) -> None:
    net, device = make_net(), counted()
    with attach(net, after=nn.Tanh, device=device):
        compiled = torch.compile(net, backend=BACKEND, fullgraph=True)
        for calls, seed in enumerate((1, 2, 1), 1):
            assert_equal(step(net, compiled, seed), reference["dfa", seed])
            assert device.calls == calls
        with torch.no_grad():
            compiled(batch()[0])
        assert device.calls == 3


class Block(nn.Module):
    """What torch compiles when it is told to compile it in place; of an `nn.Sequential` it compiles nothing."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.act = layer, nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.act(self.layer(x))
        return h


class Net(nn.Module):
    """The layers of `make_net`, in blocks."""

    def __init__(self) -> None:
        super().__init__()
        first, _, second, _, self.head = make_net()
        self.block1, self.block2 = Block(first), Block(second)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.block2(self.block1(x)))
        return out

    def gradients(self) -> list[Tensor | None]:
        """Gradients in the order of `make_net`."""
        step(self, self)
        layers = (self.block1.layer, self.block2.layer, self.head)
        return [p.grad for layer in layers for p in layer.parameters()]


def test_a_net_compiled_in_place_trains(reference: Reference) -> None:
    net, device = Net(), counted()
    with attach(net, after=Block, device=device):
        net.compile(backend=BACKEND)
        for calls in (1, 2):
            assert_equal(net.gradients(), reference["dfa", 1])
            assert device.calls == calls


def test_compiled_blocks_train(reference: Reference) -> None:
    """Block by block, as large models are compiled."""
    net, device = Net(), counted()
    with attach(net, after=Block, device=device):
        net.block1.compile(backend=BACKEND, fullgraph=True)
        net.block2.compile(backend=BACKEND, fullgraph=True)
        found = net.gradients()
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2
        assert_equal(found, reference["dfa", 1])
        assert device.calls == 1


def test_modes_switch_after_a_compiled_call(reference: Reference) -> None:
    net, device = make_net(), counted()
    with attach(net, after=nn.Tanh, device=device) as feedback:
        compiled = torch.compile(net, backend=BACKEND, fullgraph=True)
        calls = 0
        for mode in ("dfa", "bp", "shallow", "dfa"):
            feedback.mode = mode
            assert_equal(step(net, compiled), reference[mode, 1])
            calls += mode == "dfa"
            assert device.calls == calls
        with feedback.paused():
            assert_equal(step(net, compiled), reference["bp", 1])
        assert device.calls == 2


def test_detaching_after_a_compiled_call_gives_backpropagation_back(reference: Reference) -> None:
    net, device = make_net(), counted()
    feedback = attach(net, after=nn.Tanh, device=device)
    compiled = torch.compile(net, backend=BACKEND, fullgraph=True)
    assert_equal(step(net, compiled), reference["dfa", 1])
    feedback.detach()
    assert_equal(step(net, compiled), reference["bp", 1])
    assert device.calls == 1


@pytest.mark.parametrize("how", ["wrapped", "one graph", "in place"])
def test_attaching_after_a_compiled_call_works_and_gives_notice(how: str) -> None:
    """Without the reset it is silently ignored: the compiled code knows of no hooks."""
    net, device = Net(), counted()
    compiled: Any = net
    if how == "in place":
        net.compile(backend=BACKEND)
    else:
        compiled = torch.compile(net, backend=BACKEND, fullgraph=how == "one graph")
    before = step(net, compiled)
    with pytest.warns(UserWarning, match=r"attach resets torch\.compile") as caught:
        feedback = attach(net, after=Block, device=device)
    assert caught[0].filename == __file__, "the notice points at the line that attaches"
    with feedback:
        after = step(net, compiled)
        assert device.calls == 1
    plain = Net()
    assert_equal(before, step(plain, plain))
    torch._dynamo.reset()
    with attach(plain, after=Block, device="digital"):
        assert_equal(after, step(plain, plain))


@pytest.mark.parametrize("transform", ["torch.func", "after a step"])
def test_functional_gradients(transform: str, reference: Reference) -> None:
    net, device = make_net(), counted()
    x, y = batch()
    parameters: dict[str, Tensor] = dict(net.named_parameters())

    def loss(values: dict[str, Tensor]) -> Tensor:
        return cross_entropy(functional_call(net, values, (x,)), y)

    with attach(net, after=nn.Tanh, device=device):
        if transform == "after a step":
            step(net, net)
        found = grad(loss)(parameters)
        assert device.calls == 1 + (transform == "after a step")
    assert_equal([found[name].detach() for name in parameters], reference["dfa", 1])


def test_autocast_to_bfloat16(reference: Reference) -> None:
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
        torch.autograd.backward(loss)
        assert device.calls == 1
    assert kinds == [torch.bfloat16]
    for p, wanted in zip(net.parameters(), reference["dfa", 1], strict=True):
        assert p.grad is not None
        assert wanted is not None
        assert p.grad.dtype == torch.float32
        assert (p.grad - wanted).norm() < 3e-2 * wanted.norm()


def test_a_compiled_autocast_step(reference: Reference) -> None:
    net, device = make_net(), counted()
    x, y = batch()
    feedback: Feedback
    with attach(net, after=nn.Tanh, device=device) as feedback:
        compiled = torch.compile(net, backend=BACKEND, fullgraph=True)
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(compiled(x), y)
        torch.autograd.backward(loss)
        assert feedback.device is device
    assert device.calls == 1
    for p, wanted in zip(net.parameters(), reference["dfa", 1], strict=True):
        assert p.grad is not None
        assert wanted is not None
        assert (p.grad - wanted).norm() < 3e-2 * wanted.norm()


class Marked(nn.Module):
    """The layers of `make_net` with marks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = make_net()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = feedback_point(self.layers[1](self.layers[0](x)))
        h = feedback_point(self.layers[3](self.layers[2](h)), "second")
        return {"hidden": h, "logits": feedback_tap(self.layers[4](h))}


@pytest.mark.parametrize("attached", [True, False])
def test_marks_compile_in_one_graph(attached: bool, reference: Reference) -> None:
    """Feedback where there is some, nothing where there is none."""
    net, device = Marked(), counted()
    compiled = torch.compile(net, backend=BACKEND, fullgraph=True)
    if attached:
        with attach(net, device=device) as feedback:
            for calls in (1, 2):
                assert_equal(step(net, lambda x: compiled(x)["logits"]), reference["dfa", 1])
                assert device.calls == calls
            with feedback.paused():
                assert_equal(step(net, lambda x: compiled(x)["logits"]), reference["bp", 1])
    else:
        assert_equal(step(net, lambda x: compiled(x)["logits"]), reference["bp", 1])


def test_a_selected_output_compiles_in_one_graph(reference: Reference) -> None:
    net, device = Marked(), counted()
    with attach(net, after=["layers.1", "layers.3"], output="logits", device=device):
        compiled = torch.compile(net, backend=BACKEND, fullgraph=True)
        assert_equal(step(net, lambda x: compiled(x)["logits"]), reference["dfa", 1])
        assert device.calls == 1


def test_without_the_derivative_compiled() -> None:
    net, device = make_net(), counted()
    with attach(net, after=nn.Tanh, device=device, derivative=False, scale=0.5):
        plain = step(net, net)
        compiled = torch.compile(net, backend=BACKEND, fullgraph=True)
        assert_equal(step(net, compiled), plain)
        assert device.calls == 2


def test_export_while_paused(reference: Reference) -> None:
    """The exported program knows nothing of the feedback: its gradients are backpropagation's."""
    net = make_net()
    with attach(net, after=nn.Tanh, device="digital") as feedback, feedback.paused():
        exported = torch.export.export(net, (batch()[0],)).module()
    assert torch.equal(exported(batch()[0]), net(batch()[0]))
    assert_equal(step(exported, exported), reference["bp", 1])


def test_compiled_blocks_are_recomputed(reference: Reference) -> None:
    """Compiled block by block and checkpointed, as large models are; named and marked."""

    class Checkpointed(nn.Module):
        def __init__(self, marked: bool) -> None:
            super().__init__()
            first, _, second, _, self.head = make_net()
            self.block1, self.block2 = Block(first), Block(second)
            self.marked = marked

        def run(self, block: nn.Module, h: Tensor) -> Tensor:
            out: Tensor = block(h)
            return feedback_point(out) if self.marked else out

        def forward(self, x: Tensor) -> Tensor:
            for block in (self.block1, self.block2):
                x = checkpoint(self.run, block, x, use_reentrant=False)
            out: Tensor = self.head(x)
            return out

    for marked in (False, True):
        net, device = Checkpointed(marked), counted()
        with attach(net, after=None if marked else Block, device=device):
            for block in (net.block1, net.block2):
                block.compile(backend=BACKEND)
            step(net, net)
            layers = (net.block1.layer, net.block2.layer, net.head)
            assert_equal([p.grad for layer in layers for p in layer.parameters()], reference["dfa", 1])
            assert device.calls == 1
        torch._dynamo.reset()
