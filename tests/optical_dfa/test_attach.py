"""attach: what it accepts, what it refuses and how, modes, plans, closing, and saved states."""

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from optical_dfa import AttachError, Feedback, FeedbackError, Ternarize, attach
from optical_dfa.devices import (
    DeviceInfo,
    DigitalDevice,
    FingerprintMismatch,
    InvalidConfig,
    ProjectionDevice,
    UnknownDevice,
    open_device,
)

INPUTS, CLASSES, BATCH = 8, 5, 6
NOISY = {"name": "emulator", "preset": "phase-stepping", "seed": 4}


def make_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(INPUTS, 16), nn.Tanh(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, CLASSES))


def batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, INPUTS, generator=generator), torch.randint(0, CLASSES, (BATCH,), generator=generator)


def step(net: nn.Module, seed: int = 1) -> list[Tensor | None]:
    x, y = batch(seed)
    net.zero_grad()
    torch.autograd.backward(cross_entropy(net(x), y))
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


def same_bits(one: list[Tensor | None], other: list[Tensor | None]) -> bool:
    return len(one) == len(other) and all(
        a is b is None or (a is not None and b is not None and torch.equal(a, b))
        for a, b in zip(one, other, strict=True)
    )


def hooks_of(net: nn.Module) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._forward_hooks_always_called)
        for module in net.modules()
    )


# ---- which modules


@pytest.mark.parametrize(
    ("after", "points"),
    [
        (nn.Tanh, ("1",)),
        ((nn.Tanh, nn.ReLU), ("1", "3")),
        ([nn.Tanh, nn.ReLU], ("1", "3")),
        (nn.Linear, ("0", "2", "4")),
        (["3"], ("3",)),
        (["3", "1"], ("1", "3")),
        (("1",), ("1",)),
        ("3", ("3",)),
        ("*", ("0", "1", "2", "3", "4")),
        ("[13]", ("1", "3")),
        (["0", nn.ReLU, "[0-1]"], ("0", "1", "3")),
    ],
    ids=str,
)
def test_after_names_modules_or_classes(after: Any, points: tuple[str, ...]) -> None:
    with attach(make_net(), after=after, device="digital") as feedback:
        assert feedback.points == points


@pytest.mark.parametrize(
    ("after", "points"),
    [
        ("encoder.layers.*", ("encoder.layers.0", "encoder.layers.1")),
        ("encoder.layers.*.act", ("encoder.layers.0.act", "encoder.layers.1.act")),
        ("encoder.*", ("encoder.layers",)),
        ("encoder.**.act", ("encoder.layers.0.act", "encoder.layers.1.act")),
        ("**.act", ("encoder.layers.0.act", "encoder.layers.1.act", "head.act")),
        ("**.layers.[1-9]", ("encoder.layers.1",)),
        ("tied", ("encoder.layers.1",)),
    ],
    ids=str,
)
def test_globs(after: str, points: tuple[str, ...]) -> None:
    """`*` stands for no dot. A module with two names is one point, under its first."""

    def block() -> nn.Module:
        return nn.ModuleDict({"linear": nn.Linear(4, 4), "act": nn.Tanh()})

    net = nn.Module()
    net.encoder = nn.ModuleDict({"layers": nn.ModuleList([block(), block()])})
    net.head = block()
    net.tied = net.encoder["layers"][1]  # type: ignore[index]
    with attach(net, after=after, device="digital") as feedback:
        assert feedback.points == points


def test_near_misses_are_suggested() -> None:
    net = nn.Sequential()
    net.add_module("encoder", make_net())
    for arguments in ({"after": "encodr"}, {"after": "encoder", "error_at": "encodr"}):
        with pytest.raises(AttachError, match=r"Did you mean 'encoder'\?"):
            attach(net, device="digital", **arguments)  # type: ignore[arg-type]


def test_a_module_that_appears_twice_is_one_point() -> None:
    act = nn.Tanh()
    net = nn.Sequential(nn.Linear(INPUTS, 16), act, nn.Linear(16, 12), act, nn.Linear(12, CLASSES))
    with attach(net, after=nn.Tanh, device="digital", ternarize=None) as feedback:
        assert feedback.points == ("1",)
        step(net)
        assert feedback.device.info.n_outputs == 16


# ---- what is refused


def compiled(net: nn.Module) -> nn.Module:
    wrapped: nn.Module = torch.compile(net, backend="aot_eager")  # type: ignore[assignment]  # says so of functions only
    return wrapped


def distributed(net: nn.Module) -> nn.Module:
    """Looks like a net in DistributedDataParallel; a real one needs other processes."""
    wrapper = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = net
    return wrapper


def sharded(net: nn.Module) -> nn.Module:
    """Looks like a net in FullyShardedDataParallel."""
    wrapper = nn.Module()
    wrapper._fsdp_wrapped_module = net
    return wrapper


class Nonlinear(DigitalDevice):
    """The intensity of the speckle, say."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.info = DeviceInfo(**{**vars(self.info), "name": "intensity", "linear": False})


BAD_ARGUMENTS: list[tuple[dict[str, Any], list[str]]] = [
    ({"after": ["1", "9"]}, ["after='9' matches no module", "The net's modules: '0', '1', '2', '3', '4'"]),
    ({"after": "blocks.*"}, ["after='blocks.*' matches no module", "The net's modules: '0'"]),
    ({"after": [""]}, ["after='' matches no module"]),
    ({"after": []}, ["after=[] names nothing", "The net's modules"]),
    ({"after": [1, 3]}, ["after=[1, 3] must be a module name", "a glob", "a module class"]),
    ({"after": 3}, ["after=3 must be a module name", "a glob", "a module class"]),
    ({"after": nn.GELU}, ["after=GELU: the net has no such module", "Linear (3), Tanh, ReLU"]),
    ({"after": nn.ReLU6}, ["after=ReLU6", "Did you mean 'ReLU'?"]),
    ({"after": (nn.Tanh, nn.SiLU)}, ["after=SiLU: the net has no such module"]),
    ({"after": None, "derivative": False}, ["derivative=False needs modules in after=", "feedback_point in front"]),
    ({"after": nn.Linear, "derivative": False}, ["point '0' is a Linear with parameters", "name the activations"]),
    ({"derivative": None}, ["derivative must be True or False; got None"]),
    ({"scale": 0}, ["scale must be a number above 0, or None", "got 0"]),
    ({"scale": "unit"}, ["scale must be a number above 0, or None", "got 'unit'"]),
    ({"scale": float("inf")}, ["scale must be a number above 0", "got inf"]),
    ({"output": 1.5}, ["output=1.5 must be a key, an attribute path", "an index, a function"]),
    ({"output": []}, ["output=[] must be a key"]),
    ({"error_at": "head"}, ["error_at='head' is not a module of the net.", "The net's modules: '0'"]),
    ({"error_at": 4}, ["error_at=4 is not a module of the net"]),
    ({"error_at": "1"}, ["'1' cannot both carry the error and be a feedback point"]),
    ({"layout": "separate"}, ["layout must be one of shared, independent; got 'separate'"]),
    ({"nonfinite": "ignore"}, ["nonfinite must be one of raise, nan; got 'ignore'"]),
    ({"device": 5}, ["device=5 must be a name, an open device, or a mapping with a 'name'"]),
    ({"device": {"preset": "ideal"}}, ["must be a name, an open device, or a mapping with a 'name'"]),
    ({"device": "emulator", "ternarize": None}, ["'emulator' takes ternary vectors only", "ternarize=Ternarize()"]),
    ({"device": Nonlinear(n_inputs=5, n_outputs=16)}, ["device 'intensity' is not linear"]),
]


@pytest.mark.parametrize(("arguments", "texts"), BAD_ARGUMENTS, ids=lambda value: str(value)[:60])
def test_misuse_is_refused_and_the_net_left_alone(arguments: dict[str, Any], texts: list[str]) -> None:
    net = make_net()
    with pytest.raises(AttachError) as caught:
        attach(net, **{"after": nn.Tanh, "device": "digital", **arguments})
    assert [text for text in texts if text not in str(caught.value)] == []
    assert isinstance(caught.value, ValueError)
    assert hooks_of(net) == 0


@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel, distributed, sharded])
def test_a_wrapped_net_is_refused(wrap: Callable[[nn.Module], nn.Module]) -> None:
    net = wrap(make_net())
    name = type(net).__name__
    with pytest.raises(
        AttachError, match=f"{name} wraps the net: attach to the net itself first, and wrap it afterwards"
    ):
        attach(net, after=nn.Tanh, device="digital")


def test_a_point_has_one_feedback() -> None:
    """Running a notebook cell twice must not feed a block twice."""
    net = make_net()
    first = attach(net, after=nn.Tanh, device="digital")
    for after in (nn.Tanh, ["3", "1"]):
        with pytest.raises(AttachError, match=r"module '1' has feedback already: close\(\) the other feedback first"):
            attach(net, after=after, device="digital")
    first.close()
    with attach(net, after=nn.Tanh, device="digital") as second:
        assert second.points == ("1",)


@pytest.mark.parametrize(
    ("device", "error", "texts"),
    [
        ("emulater", UnknownDevice, ["'emulater'", "Did you mean 'emulator'?", "Known: bench, digital, emulator"]),
        ({"name": "digital", "sed": 3}, InvalidConfig, ["sed: unknown key. Did you mean 'seed'?"]),
        (
            {"name": "digital", "seed": "three"},
            InvalidConfig,
            ["seed must be an int from 0 to 18,446,744,073,709,551,615; got 'three'"],
        ),
        ({"name": "emulator", "preset": "idea"}, InvalidConfig, ["'idea'", "Did you mean 'ideal'?"]),
        ({"name": "emulator", "camera": {"read_noise": 1}}, InvalidConfig, ["camera.read_noise", "read_noise_e"]),
    ],
    ids=str,
)
def test_a_bad_device_is_refused_at_once(device: Any, error: type[Exception], texts: list[str]) -> None:
    """Not at the first backward, when the data is loaded and the user has left."""
    net = make_net()
    with pytest.raises(error) as caught:
        attach(net, after=nn.Tanh, device=device)
    assert [text for text in texts if text not in str(caught.value)] == []
    assert hooks_of(net) == 0


# ---- the device


def test_the_device_is_sized_at_the_first_backward() -> None:
    net = make_net()
    with attach(net, after=nn.Tanh, device=NOISY) as feedback:
        with pytest.raises(FeedbackError, match=r"first backward pass: run one, or feedback\.plan\(example\)"):
            _ = feedback.device
        step(net)
        info = feedback.device.info
        assert (info.name, info.n_inputs, info.n_outputs) == ("emulator", CLASSES, 16)


@pytest.mark.parametrize("finish", ["close", "with"])
def test_close_closes_the_device_that_attach_opened(finish: str) -> None:
    net = make_net()
    feedback = attach(net, after=nn.Tanh, device="digital")
    step(net)
    assert feedback.device._is_open
    if finish == "close":
        feedback.close()
        feedback.close()
    else:
        with feedback:
            pass
    assert not feedback.device._is_open


def test_close_leaves_a_device_of_ones_own_open() -> None:
    net = make_net()
    with open_device("digital", n_inputs=CLASSES, n_outputs=16) as device:
        with attach(net, after=nn.Tanh, device=device) as feedback:
            step(net)
            assert feedback.device is device
        assert device._is_open


def test_detach_leaves_the_device_open() -> None:
    """A graph made before can still run backward."""
    net, (x, y) = make_net(), batch()
    feedback = attach(net, after=nn.Tanh, device="digital")
    expected = step(net)
    net.zero_grad()
    loss = cross_entropy(net(x), y)
    feedback.detach()
    torch.autograd.backward(loss)
    assert same_bits([p.grad for p in net.parameters()], expected)
    feedback.close()


# ---- modes


@pytest.mark.parametrize("leave", ["detach", "close"])
def test_the_net_is_left_as_it_was(leave: str) -> None:
    net, plain = make_net(), make_net()
    feedback = attach(net, after=(nn.Tanh, nn.ReLU), device="digital")
    assert not same_bits(step(net), step(plain))
    getattr(feedback, leave)()
    assert hooks_of(net) == 0
    assert same_bits(step(net), step(plain))
    assert net.state_dict().keys() == plain.state_dict().keys()


def test_modes() -> None:
    net, plain = make_net(), make_net()
    backpropagated = step(plain)
    with attach(net, after=(nn.Tanh, nn.ReLU), device="digital") as feedback:
        assert feedback.mode == "dfa"
        fed = step(net)
        for one, other in zip(fed[:4], backpropagated[:4], strict=True):
            assert one is not None
            assert other is not None
            assert not torch.allclose(one, other)
        feedback.mode = "bp"
        assert same_bits(step(net), backpropagated)
        feedback.mode = "shallow"
        assert same_bits(step(net), [None, None, None, None, *backpropagated[4:]])
        assert feedback.device.usage.vectors == BATCH, "neither displays anything"
        feedback.mode = "dfa"
        assert same_bits(step(net), fed)
        assert feedback.device.usage.vectors == 2 * BATCH


def test_an_unknown_mode_is_refused() -> None:
    with attach(make_net(), after=nn.Tanh, device="digital") as feedback:
        with pytest.raises(ValueError, match="mode must be one of dfa, bp, shallow; got 'backprop'"):
            feedback.mode = "backprop"  # type: ignore[assignment]
        assert feedback.mode == "dfa"


def test_a_mode_is_that_of_the_forward() -> None:
    """A backward gives what its forward was made for."""
    net, (x, y) = make_net(), batch()
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        expected = step(net)
        net.zero_grad()
        loss = cross_entropy(net(x), y)
        with feedback.paused():
            torch.autograd.backward(loss)
        assert same_bits([p.grad for p in net.parameters()], expected)


@pytest.mark.parametrize("mode", ["dfa", "bp", "shallow"])
def test_paused_gives_true_gradients_of_the_input(mode: Literal["dfa", "bp", "shallow"]) -> None:
    net, plain = make_net(), make_net()
    x, _ = batch()
    x.requires_grad_()
    expected = torch.autograd.grad(plain(x).sum(), x)[0]
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        feedback.mode = mode
        with feedback.paused():
            assert torch.equal(torch.autograd.grad(net(x).sum(), x)[0], expected)
        assert feedback.mode == mode
        with pytest.raises(KeyError), feedback.paused():
            raise KeyError
        assert feedback.mode == mode
        outside = torch.autograd.grad(net(x).sum(), x, allow_unused=True)[0]
        if mode == "shallow":
            assert outside is None
        else:
            assert torch.equal(outside, expected) == (mode == "bp")


def test_feedback_reaches_the_input_of_the_first_block_only_as_feedback() -> None:
    """Outside `paused`, the gradient of the input is that of the first block's feedback, not of the net."""
    net, (x, y) = make_net(), batch()
    x.requires_grad_()
    with attach(net, after=nn.Tanh, device="digital", ternarize=None) as feedback:
        found = torch.autograd.grad(cross_entropy(net(x), y), x)[0]
        matrix = feedback.device.effective_matrix()
    assert matrix is not None
    with torch.no_grad():
        h = net[:2](x)
        error = (net(x).softmax(1) - nn.functional.one_hot(y, CLASSES)) / BATCH
        expected = (error @ torch.from_numpy(matrix).T / 16**0.5 * (1 - h**2)) @ net[0].weight
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


# ---- plan


def test_a_plan_of_a_perceptron() -> None:
    net = make_net()
    with attach(net, after=(nn.Tanh, nn.ReLU), device="emulator") as feedback:
        plan = feedback.plan(batch()[0])
        assert plan.points == {"1": (BATCH, 16), "3": (BATCH, 12)}
        assert plan.error_shape == (BATCH, CLASSES)
        assert (plan.n_inputs, plan.n_outputs) == (CLASSES, 16)
        assert plan.vectors_per_step == BATCH
        assert plan.max_frames_per_step == 8 * BATCH
        assert feedback.device.usage.vectors == 0
        step(net)
        usage = feedback.device.usage
        assert usage.vectors == plan.vectors_per_step
        assert usage.frames + usage.frames_skipped == plan.max_frames_per_step


def test_a_plan_of_independent_rows_and_positions() -> None:
    net = make_net()
    with attach(net, after=(nn.Tanh, nn.ReLU), device="digital", layout="independent") as feedback:
        plan = feedback.plan(torch.randn(3, 7, INPUTS))
        assert plan.points == {"1": (3, 7, 16), "3": (3, 7, 12)}
        assert (plan.n_outputs, plan.vectors_per_step, plan.max_frames_per_step) == (28, 21, 0)
        assert feedback.device.info.n_outputs == 28


def test_a_plan_sees_the_error_where_error_at_says() -> None:
    net = make_net()
    with attach(net, after=nn.Tanh, device="digital", error_at="2") as feedback:
        plan = feedback.plan(batch()[0])
        assert plan.error_shape == (BATCH, 12)
        assert (plan.n_inputs, plan.n_outputs) == (12, 16)


def test_a_plan_of_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = make_net()

        def forward(self, x: Tensor, z: Tensor) -> Tensor:
            out: Tensor = self.layers(x + z)
            return out

    with attach(Two(), after=nn.Tanh, device="digital") as feedback:
        assert feedback.plan(batch(1)[0], batch(2)[0]).points == {"layers.1": (BATCH, 16)}


@pytest.mark.parametrize("mode", ["dfa", "bp", "shallow"])
def test_a_plan_changes_nothing(mode: Literal["dfa", "bp", "shallow"]) -> None:
    """Not the flags of train and eval, not the generator, not the statistics of BatchNorm, nor the mode."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(INPUTS, 16),
        nn.BatchNorm1d(16),
        nn.Dropout(0.5),
        nn.Tanh(),
        nn.Linear(16, 12),
        nn.Tanh(),
        nn.Linear(12, 5),
    )
    net[1].eval()
    net[4].requires_grad_(False)
    flags = [module.training for module in net.modules()]
    recorded: list[bool] = []
    net[0].register_forward_hook(lambda *_: recorded.append(torch.is_grad_enabled()))
    values = copy.deepcopy(net.state_dict())
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        feedback.mode = mode
        state = torch.get_rng_state()
        feedback.plan(batch()[0])
        assert torch.equal(torch.get_rng_state(), state)
        assert [module.training for module in net.modules()] == flags
        assert all(torch.equal(value, values[name]) for name, value in net.state_dict().items())
        assert feedback.mode == mode
        assert [p.grad for p in net.parameters()] == [None] * 8
        assert recorded == [False], "one forward, without a graph"
        assert torch.is_grad_enabled()


def test_a_plan_that_fails_leaves_the_net_as_it_was() -> None:
    net = make_net()
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        expected = step(net)
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            feedback.plan(torch.randn(BATCH, INPUTS + 1))
        assert all(module.training for module in net.modules())
        assert same_bits(step(net), expected)


# ---- saved states


def train(net: nn.Module, seeds: Sequence[int]) -> list[list[Tensor | None]]:
    """Plain gradient descent; the gradients of each step."""
    history = []
    for seed in seeds:
        history.append(step(net, seed))
        with torch.no_grad():
            for p in net.parameters():
                assert p.grad is not None
                p.sub_(0.1 * p.grad)
    return history


@pytest.mark.parametrize(
    "ternarize", [Ternarize(), Ternarize(kind="stochastic", seed=9)], ids=["relative", "stochastic"]
)
@pytest.mark.parametrize("sized", [False, True])
def test_a_saved_feedback_continues_to_the_bit(sized: bool, ternarize: Ternarize) -> None:
    """Camera noise and stochastic draws included; the new device is sized before or after the state is loaded."""

    def fresh(seed: int) -> tuple[nn.Sequential, Feedback]:
        net = make_net(seed)
        return net, attach(net, after=(nn.Tanh, nn.ReLU), device=NOISY, ternarize=ternarize)

    net, feedback = fresh(0)
    with feedback:
        train(net, (1, 2))
        saved = json.loads(json.dumps(feedback.state_dict()))
        weights = copy.deepcopy(net.state_dict())
        expected = train(net, (3, 4))
    other, restored = fresh(1)
    with restored:
        other.load_state_dict(weights)
        if sized:
            restored.plan(batch()[0])
        restored.load_state_dict(saved)
        assert restored.state_dict() == saved, "a state that waits for its device is not lost by saving again"
        found = train(other, (3, 4))
    assert all(same_bits(one, two) for one, two in zip(found, expected, strict=True))
    blank, unrestored = fresh(1)
    with unrestored:
        blank.load_state_dict(weights)
        assert not same_bits(train(blank, (3,))[0], expected[0]), "the state matters"


def test_a_state_saved_before_the_first_step() -> None:
    net = make_net()
    with attach(net, after=nn.Tanh, device=NOISY) as feedback:
        saved = feedback.state_dict()
        assert saved["device"] is None
        expected = step(net)
    other = make_net()
    with attach(other, after=nn.Tanh, device=NOISY) as restored:
        restored.load_state_dict(saved)
        assert same_bits(step(other), expected)


def test_the_mode_is_saved() -> None:
    net = make_net()
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        feedback.mode = "shallow"
        saved = feedback.state_dict()
        feedback.mode = "dfa"
        feedback.load_state_dict(saved)
        restored: str = feedback.mode
        assert restored == "shallow"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"after": ["1"]}, r"points \['1', '3'\], this one \['1'\]"),
        ({"layout": "independent"}, "layout 'shared', this one 'independent'"),
        ({"ternarize": Ternarize(threshold=0.4)}, "ternarize .*0.5.*, this one .*0.4.*: attach it alike"),
        ({"ternarize": Ternarize(kind="stochastic")}, "ternarize .*relative.*, this one .*stochastic"),
        ({"ternarize": None}, "ternarize .*relative.*, this one None"),
    ],
)
def test_the_state_of_another_feedback_is_refused(arguments: dict[str, Any], text: str) -> None:
    net = make_net()
    given: dict[str, Any] = {"after": ["1", "3"], "device": "digital"}
    with attach(net, **given) as feedback:
        feedback.mode = "shallow"
        saved = feedback.state_dict()
    with attach(net, **{**given, **arguments}) as other:
        before = other.state_dict()
        with pytest.raises(FeedbackError, match=text):
            other.load_state_dict(saved)
        assert other.state_dict() == before


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("other", [{**NOISY, "seed": 5}, {"name": "digital", "seed": 5}])
def test_the_state_of_another_device_is_refused(other: dict[str, Any], sized: bool) -> None:
    """At once if the device is there, else when it is made; and every time, not only the first."""
    net = make_net()
    with attach(net, after=nn.Tanh, device=NOISY) as feedback:
        step(net)
        saved = feedback.state_dict()
    with attach(net, after=nn.Tanh, device=other) as stranger:
        if sized:
            stranger.plan(batch()[0])
            before = stranger.state_dict()
            with pytest.raises(FingerprintMismatch, match="seed and size of the saved run"):
                stranger.load_state_dict(saved)
            assert stranger.state_dict() == before
            step(net)
        else:
            stranger.load_state_dict(saved)
            for _ in range(2):
                with pytest.raises(FingerprintMismatch, match="seed and size of the saved run"):
                    step(net)


def test_a_run_may_move_to_another_device_of_the_same_matrix() -> None:
    """From the noisy optics to the exact product: the fingerprint is that of the matrix."""
    net = make_net()
    with attach(net, after=nn.Tanh, device=NOISY) as feedback:
        step(net)
        saved = feedback.state_dict()
    with attach(net, after=nn.Tanh, device={"name": "digital", "seed": 4}) as digital:
        digital.load_state_dict(saved)
        moved = step(net)
    with attach(net, after=nn.Tanh, device={"name": "digital", "seed": 4}):
        assert same_bits(step(net), moved)


def test_any_linear_device_serves() -> None:
    """The contract is all that attach asks of a device."""

    class Doubled(DigitalDevice):
        def _project(self, vectors: Any) -> Any:
            fields, usage = super()._project(vectors)
            return 2 * fields, usage

    found: list[list[Tensor | None]] = []
    for kind in (DigitalDevice, Doubled):
        net = make_net()
        device: ProjectionDevice = kind(n_inputs=CLASSES, n_outputs=16)
        with device, attach(net, after=nn.Tanh, device=device):
            found.append(step(net))
    plain, doubled = found
    assert plain[0] is not None
    assert doubled[0] is not None
    assert torch.equal(doubled[0], 2 * plain[0])
    assert same_bits(doubled[2:], plain[2:])


def test_the_output_itself_is_no_point() -> None:
    net = make_net()
    with (
        attach(net, after=nn.Linear, device="digital"),
        pytest.raises(FeedbackError, match=r"'4' gives the very output"),
    ):
        step(net)
    with attach(net, after=["0", "2"], device="digital"):
        assert all(gradient is not None for gradient in step(net))
