"""derivative, scale, law, observers, groups of parameters: each against its formula."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from by_hand import assert_close, by_hand, driven, feedback, gradients, softmax_error, ternary
from rows import BATCH, CLASSES, INPUTS, batch, formula, loss, make_net
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from optical_dfa import FeedbackError, FeedbackShapeError, Projection, attach, feedback_of
from optical_dfa.devices import (
    FingerprintMismatch,
    InvalidConfig,
    InvalidVectors,
    make_device,
    measured_snr_db,
    open_device,
)

REAL: dict[str, Any] = {"device": "digital", "ternarize": None}
NOISY = {"name": "emulator", "seed": 4}


def step(net: nn.Module, seed: int = 1) -> dict[str, Tensor | None]:
    net.zero_grad()
    torch.autograd.backward(loss(net, seed))
    return gradients(net)


def matrix_of(net: nn.Module) -> Any:
    return feedback_of(net).device.effective_matrix()


# ---- derivative


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("kind", ["ReLU", "Hardtanh"])
def test_without_the_derivative_feedback_is_that_of_the_pre_activation(kind: str, inplace: bool) -> None:
    """δa = 1/√d · T·e, where f' would have set parts of it to zero."""
    torch.manual_seed(0)
    act = getattr(nn, kind)
    net = nn.Sequential(
        nn.Linear(INPUTS, 16), act(inplace=inplace), nn.Linear(16, 12), act(inplace=inplace), nn.Linear(12, CLASSES)
    )
    x, y = batch()
    with attach(net, after=act, derivative=False, **REAL):
        found = step(net)
        matrix = matrix_of(net)

    def by_formula(n: Any) -> Tensor:
        f = type(n[1])()
        a1 = n[0](x.double())
        a2 = n[2](f(a1.detach()))
        out = n[4](f(a2.detach()))
        e = softmax_error(out, y)
        return driven([(a1, feedback(e, matrix)), (a2, feedback(e, matrix[:12]))], out, e)

    assert_close(found, by_hand(net, by_formula))
    with attach(net, after=["0", "2"], **REAL):
        assert_close(step(net), found, relative=0)  # the same, said otherwise
    with attach(net, after=act, **REAL):
        with_derivative = step(net)
    one, other = found["0.weight"], with_derivative["0.weight"]
    assert one is not None
    assert other is not None
    assert (one - other).norm() > 0.1 * other.norm(), "it makes a difference"


def test_without_the_derivative_points_are_recomputed() -> None:
    """Checkpointing around an activation that is a point."""

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = make_net().children()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.c(checkpoint(lambda x: self.b(self.a(x)), x, use_reentrant=False))
            return out

    found = []
    for net in (make_net(), Checkpointed()):
        with attach(net, after=nn.Tanh, derivative=False, **REAL):
            found.append(step(net))
    assert_close(found[1], found[0], relative=0)


def test_without_the_derivative_a_point_must_keep_the_shape() -> None:
    net = nn.Sequential(nn.Linear(INPUTS, 16), nn.GLU(), nn.Linear(8, CLASSES))
    with (
        attach(net, after=nn.GLU, derivative=False, **REAL),
        pytest.raises(FeedbackShapeError, match=r"'1' made shape \(6, 8\) of shape \(6, 16\); derivative=False"),
    ):
        step(net)


def test_without_the_derivative_a_point_takes_one_tensor() -> None:
    class Gate(nn.Module):
        def forward(self, x: Tensor, gate: Tensor) -> Tensor:
            return x * gate

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.gate, self.out = nn.Linear(INPUTS, 16), Gate(), nn.Linear(16, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            out: Tensor = self.out(self.gate(h, h.sigmoid()))
            return out

    net = Net()
    with (
        attach(net, after=Gate, derivative=False, **REAL),
        pytest.raises(FeedbackError, match=r"'gate' takes 2 positional inputs; derivative=False"),
    ):
        step(net)


# ---- scale and law


@pytest.mark.parametrize("layout", ["shared", "independent"])
def test_a_scale_of_ones_own(layout: Any) -> None:
    """The factor takes the place of 1/√d: here the papers' 1/√(largest width), at every point."""
    net = make_net()
    x, y = batch()
    with attach(net, after=["a", "b"], layout=layout, scale=0.25, **REAL):
        found = step(net)
        matrix = matrix_of(net)
    second = matrix[:12] if layout == "shared" else matrix[16:]

    def by_formula(n: Any) -> Tensor:
        h1 = n.a(x.double())
        h2 = n.b(h1.detach())
        out = n.c(h2.detach())
        e = softmax_error(out, y)
        return driven([(h1, feedback(e, matrix[:16], scale=0.25)), (h2, feedback(e, second, scale=0.25))], out, e)

    assert_close(found, by_hand(net, by_formula))


@pytest.mark.parametrize("given", ["open", "named"])
@pytest.mark.parametrize("kind", [np.float32, np.int16])
def test_a_matrix_of_ones_own(kind: type, given: str) -> None:
    """Any law: here the uniform one of the papers, and a sparse one of integers."""
    generator = np.random.default_rng(0)
    values = generator.uniform(-1, 1, (16, CLASSES)) if kind is np.float32 else generator.integers(-1, 2, (16, CLASSES))
    matrix: Any = values.astype(kind)
    net = make_net()
    device: Any = {"name": "matrix", "matrix": matrix}
    device = open_device(**device) if given == "open" else device
    with attach(net, after=["a", "b"], device=device, ternarize=None) as feedback_:
        found = step(net)
        assert feedback_.device.info.exact
    assert_close(found, formula(net, matrix, 1))


def test_the_feedback_of_true_gradients_is_backpropagation() -> None:
    """With one block and T = Wᵀ of the layer above, unscaled, DFA is backpropagation."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(INPUTS, 16), nn.Tanh(), nn.Linear(16, CLASSES))
    transposed = net.get_parameter("2.weight").detach().numpy().T.copy()
    device = {"name": "matrix", "matrix": transposed}
    with attach(net, after="1", device=device, ternarize=None, scale=1.0) as feedback_:
        found = step(net)
        feedback_.mode = "bp"
        assert_close(found, step(net), relative=1e-6)


def test_a_matrix_has_a_fingerprint_of_its_values() -> None:
    matrix = np.arange(20, dtype=np.float32).reshape(4, 5)
    device = make_device("matrix", matrix=matrix)
    same = make_device("matrix", matrix=matrix.astype(np.int8))
    assert device.fingerprint == same.fingerprint
    for other in (matrix + 1, matrix.reshape(5, 4), matrix[:3]):
        assert make_device("matrix", matrix=other).fingerprint != device.fingerprint
    assert (
        make_device("matrix", matrix=matrix, n_outputs=3).fingerprint
        == make_device("matrix", matrix=matrix[:3]).fingerprint
    )
    matrix[0, 0] = 7
    held = device.effective_matrix()
    assert held is not None
    assert held[0, 0] == 0, "it is copied"
    with pytest.raises(FingerprintMismatch):
        make_device("matrix", matrix=matrix).load_state_dict(device.state_dict())


def test_a_matrix_projects() -> None:
    """Ternary and real vectors, exactly: the sums are of integers."""
    generator = np.random.default_rng(1)
    matrix = generator.integers(-9, 10, (30, 12)).astype(np.int32)
    vectors = generator.integers(-1, 2, (7, 12)).astype(np.int8)
    with open_device("matrix", matrix=matrix, n_inputs=12, n_outputs=20) as device:
        assert (device.project(vectors) == (vectors @ matrix.T)[:, :20]).all()
        assert (device.project(vectors.astype(np.float32)) == (vectors @ matrix.T)[:, :20]).all()
        assert device.project(vectors).dtype == np.float32
        with pytest.raises(InvalidVectors):
            device.project(vectors[:, :3])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"matrix": [[1.0]]}, "must be a NumPy array .* got a list"),
        ({"matrix": np.zeros(3, np.float32)}, r"got float32 \(3,\)"),
        ({"matrix": np.zeros((0, 3), np.float32)}, r"neither empty .* got float32 \(0, 3\)"),
        ({"matrix": np.zeros((2, 3))}, r"got float64 \(2, 3\): convert it with \.astype\(np\.float32\)"),
        ({"matrix": np.zeros((2, 3), np.complex64)}, "got complex64"),
        ({"matrix": np.full((2, 3), np.inf, np.float32)}, "must be finite; .* with NaN or infinity"),
        ({"matrix": np.full((2, 3), 1 << 25)}, "at most 2\\^24"),
        ({"matrix": np.zeros((2, 3), np.float32), "n_inputs": 4}, "n_inputs: must be 3, the columns .* got 4"),
        ({"matrix": np.zeros((2, 3), np.float32), "n_outputs": 3}, "n_outputs: must be 1 … 2, the rows .* got 3"),
    ],
)  # fmt: skip
def test_a_matrix_that_is_none_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidConfig, match=text):
        make_device("matrix", **options)


def test_a_matrix_too_small_for_the_net_is_refused_when_it_is_known() -> None:
    net = make_net()
    matrix = np.zeros((15, CLASSES), np.float32)
    with (
        attach(net, after=["a", "b"], device={"name": "matrix", "matrix": matrix}) as feedback_,
        pytest.raises(InvalidConfig, match="n_outputs: must be 1 … 15, the rows of the matrix; got 16"),
    ):
        feedback_.plan(batch()[0])


# ---- the callback


def test_an_observer_sees_every_projection() -> None:
    net = make_net()
    seen: list[Projection] = []
    x, y = batch()
    with attach(net, after=["a", "b"], device="digital") as feedback_:
        step(net)
        handle = feedback_.on_projection(seen.append)
        expected = step(net)
        assert_close(expected, step(net), relative=0)
        handle.remove()
        step(net)
        matrix = matrix_of(net)
    assert len(seen) == 2
    with torch.no_grad():
        error = softmax_error(net(x).double(), y)
    one = seen[0]
    torch.testing.assert_close(one.error.double(), error, rtol=1e-5, atol=1e-7)
    assert one.encoded.dtype == torch.int8
    assert one.scale is not None
    torch.testing.assert_close((one.scale * one.encoded).double(), ternary(error), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(one.encoded.double(), ternary(error).sign())
    torch.testing.assert_close(one.field.double(), one.encoded.double() @ torch.from_numpy(matrix).double().T)
    assert one.snr_db is None, "the digital device has no noise"


def test_an_observer_of_real_errors_and_one_that_raises() -> None:
    net = make_net()
    seen: list[Projection] = []

    def refuse(_projection: Projection) -> None:
        raise ZeroDivisionError

    with attach(net, after=["a", "b"], **REAL) as feedback_:
        with feedback_.on_projection(seen.append):
            step(net)
        assert torch.equal(seen[0].error, seen[0].encoded)
        assert seen[0].scale is None
        feedback_.on_projection(refuse)
        with pytest.raises(ZeroDivisionError):
            step(net)


def test_the_snr_of_a_projection_is_that_of_its_device() -> None:
    """Both measure 96 noisy outputs; each has a standard error below 10·log10(1 + √(2/96)·1.2) dB = 0.7 dB.

    With fixed seeds; a difference of 3 dB would come by chance in fewer than 1 of 10^4 fresh ones.
    """
    net = make_net()
    seen: list[Projection] = []
    with attach(net, after=["a", "b"], device=NOISY) as feedback_:
        feedback_.on_projection(seen.append)
        step(net)
        (one,) = seen
        measured = measured_snr_db(feedback_.device, one.encoded.numpy())
    assert one.snr_db is not None
    assert math.isfinite(measured)
    assert abs(one.snr_db - measured) < 3


# ---- groups of parameters


def test_groups_of_parameters() -> None:
    net = make_net()
    net.get_parameter("a.0.bias").requires_grad_(False)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    with attach(net, after=["a", "b"], device="digital") as feedback_:
        with pytest.raises(FeedbackError, match=r"parameters\(\) reads the graph of a training forward"):
            feedback_.parameters("feedback")
        net(batch()[0])
        fed = feedback_.parameters("feedback")
        assert [names[id(one)] for one in fed] == ["a.0.weight", "b.0.weight", "b.0.bias"]
        assert [names[id(one)] for one in feedback_.parameters("exact")] == ["c.weight", "c.bias"]
        with pytest.raises(ValueError, match="driven must be one of feedback, exact; got 'bp'"):
            feedback_.parameters("bp")  # type: ignore[arg-type]
        groups: list[dict[str, Any]] = [{"params": fed, "lr": 0.0}, {"params": feedback_.parameters("exact")}]
        optimizer = torch.optim.SGD(groups, lr=0.1)
        before = {name: one.clone() for name, one in net.named_parameters()}
        step(net)
        optimizer.step()
    changed = {name for name, one in net.named_parameters() if not torch.equal(one, before[name])}
    assert changed == {"c.weight", "c.bias"}


# ---- plans


def test_a_plan_of_inputs_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_net()

        def forward(self, *, inputs: Tensor) -> dict[str, Tensor]:
            return {"logits": self.net(inputs)}

    net = Named()
    with attach(net, after=["net.a", "net.b"], output="logits", **REAL) as feedback_:
        plan = feedback_.plan(inputs=batch()[0])
        assert plan.points == {"net.a": (BATCH, 16), "net.b": (BATCH, 12)}
        torch.autograd.backward(cross_entropy(net(inputs=batch()[0])["logits"], batch()[1]))
        found = gradients(net.net)
        matrix = matrix_of(net)
    assert_close(found, formula(net.net, matrix, 1))


def test_feedback_of_a_plain_net() -> None:
    with pytest.raises(FeedbackError, match="Sequential has no feedback"):
        feedback_of(make_net())
