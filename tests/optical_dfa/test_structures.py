"""DFA in nets of every structure, each against its formula in float64."""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from by_hand import assert_close, by_hand, driven, feedback, gradients, softmax_error, ternary
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from optical_dfa import Feedback, FeedbackError, FeedbackShapeError, attach, feedback_point, feedback_tap

B, T, D, C = 6, 4, 12, 5
REAL: dict[str, Any] = {"device": "digital", "ternarize": None}


class Net(nn.Module):
    """Layers by name, and the forward that joins them."""

    def __init__(self, run: Callable[[Any, Any], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Any) -> Any:
        return self.run(self, x)


def lin(before: int = D, width: int = D) -> nn.Sequential:
    return nn.Sequential(nn.Linear(before, width), nn.Tanh())


def data(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)), labels(shape[0])


def labels(*shape: int) -> Tensor:
    return torch.randint(0, C, shape, generator=torch.Generator().manual_seed(2))


Formula = Callable[[Any, Callable[..., Tensor]], tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor]]


def check(net: nn.Module, x: Any, y: Tensor, formula: Formula, after: Any, **options: Any) -> Feedback:
    """Gradients of one cross-entropy step against the formula.

    `formula(net, fed)` gives points with their feedback, the output and the error; `fed(error, h, …)` is the feedback
    of a point like h by the rows that the shared layout gives it, features last.
    """
    with attach(net, after=after, **{**REAL, **options}) as feedback_:
        logits = net(x)
        torch.autograd.backward(cross_entropy(logits.reshape(-1, C), y.reshape(-1)))
        matrix = feedback_.device.effective_matrix()
        assert matrix is not None
        rows = matrix

        def fed(error: Tensor, width: int = D, positions: tuple[int, ...] = (), first: int = 0) -> Tensor:
            shown = error if feedback_._projector.encoder is None else ternary(error)
            return feedback(shown, rows[first : first + width], positions)

        found = gradients(net)
        wanted = by_hand(net, lambda other: driven(*formula(other, fed)))
        assert_close(found, wanted)
        return feedback_


def f64(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


# ---- how blocks are joined


@pytest.mark.parametrize("layout", ["shared", "independent"])
@pytest.mark.parametrize("encoder", ["real", "ternary"])
def test_residual(layout: str, encoder: str) -> None:
    """The sum is the point, so the skip carries nothing past it."""
    torch.manual_seed(0)

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, D))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = x + self.inner(x)
            return out

    net = nn.Sequential(nn.Linear(8, D), Residual(), Residual(), nn.Linear(D, C))
    x, y = data(B, 8)

    def formula(n: Any, fed: Any) -> Any:
        h1 = n[1](n[0](f64(x)))
        h2 = n[2](h1.detach())
        out = n[3](h2.detach())
        e = softmax_error(out, y)
        return [(h1, fed(e)), (h2, fed(e, first=D if layout == "independent" else 0))], out, e

    options: dict[str, Any] = {} if encoder == "real" else {"ternarize": _ternarize()}
    check(net, x, y, formula, Residual, layout=layout, **options)


def _ternarize() -> Any:
    from optical_dfa import Ternarize

    return Ternarize()


def test_a_skip_round_a_point_is_exact() -> None:
    """What reaches the output past a point is backpropagated, beside the feedback."""
    torch.manual_seed(0)
    net = Net(lambda n, x: n.out(n.b(n.a(x)) + n.a(x)), a=lin(8), b=lin(), out=nn.Linear(D, C))
    x, y = data(B, 8)

    def formula(n: Any, fed: Any) -> Any:
        h = n.a(f64(x))
        b = n.b(h)
        out = n.out(b.detach() + n.a(f64(x)))
        e = softmax_error(out, y)
        return [(b, fed(e))], out, e

    check(net, x, y, formula, "b")


def test_concatenation_and_branches() -> None:
    """Two branches of different width, joined."""
    torch.manual_seed(0)
    net = Net(lambda n, x: n.out(torch.cat([n.a(x), n.b(x)], -1)), a=lin(8, D), b=lin(8, 7), out=nn.Linear(D + 7, C))
    x, y = data(B, 8)

    def formula(n: Any, fed: Any) -> Any:
        a, b = n.a(f64(x)), n.b(f64(x))
        out = n.out(torch.cat([a, b], -1).detach())
        e = softmax_error(out, y)
        return [(a, fed(e)), (b, fed(e, 7))], out, e

    check(net, x, y, formula, ["a", "b"])


@pytest.mark.parametrize("layout", ["shared", "independent"])
def test_one_block_repeated(layout: str) -> None:
    """A point that runs three times gets feedback three times; with independent rows, each run has its own."""
    torch.manual_seed(0)
    net = Net(lambda n, x: n.out(n.a(n.a(n.a(x)))), a=lin(), out=nn.Linear(D, C))
    x, y = data(B, D)

    def formula(n: Any, fed: Any) -> Any:
        h1 = n.a(f64(x))
        h2 = n.a(h1.detach())
        h3 = n.a(h2.detach())
        out = n.out(h3.detach())
        e = softmax_error(out, y)
        step = D if layout == "independent" else 0
        return [(h, fed(e, first=k * step)) for k, h in enumerate((h1, h2, h3))], out, e

    check(net, x, y, formula, "a", layout=layout)


def test_shared_modules_in_two_blocks() -> None:
    torch.manual_seed(0)
    shared = nn.Linear(D, D)
    net = Net(
        lambda n, x: n.out(n.act2(n.second(n.act1(n.first(x))))),
        first=shared, act1=nn.Tanh(), second=shared, act2=nn.Sigmoid(), out=nn.Linear(D, C),
    )  # fmt: skip
    x, y = data(B, D)

    def formula(n: Any, fed: Any) -> Any:
        h1 = n.first(f64(x)).tanh()
        h2 = n.first(h1.detach()).sigmoid()
        out = n.out(h2.detach())
        e = softmax_error(out, y)
        return [(h1, fed(e)), (h2, fed(e))], out, e

    check(net, x, y, formula, ["act1", "act2"])


@pytest.mark.parametrize("kind", ["RNNCell", "GRUCell", "LSTMCell"])
def test_recurrent_unrolling(kind: str) -> None:
    """A cell that runs T times: each step gets the feedback of its output, and nothing goes back through time.

    An LSTM cell gives (h, c): h is the point, c passes on without a gradient.
    """
    torch.manual_seed(0)

    def run(n: Any, x: Tensor) -> Tensor:
        state: Any = None
        for step in range(T):
            state = n.cell(x[:, step], state)
        return n.out(state[0] if isinstance(state, tuple) else state)  # type: ignore[no-any-return]

    net = Net(run, cell=getattr(nn, kind)(3, D), out=nn.Linear(D, C))
    x, y = data(B, T, 3)

    def formula(n: Any, fed: Any) -> Any:
        state: Any = None
        hidden = []
        for step in range(T):
            state = n.cell(f64(x)[:, step], state)
            hidden.append(state[0] if isinstance(state, tuple) else state)
            state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        out = n.out(hidden[-1].detach())
        e = softmax_error(out, y)
        return [(h, fed(e)) for h in hidden], out, e

    check(net, x, y, formula, "cell")


# ---- kinds of layers


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_convolution(memory_format: torch.memory_format) -> None:
    """Channels are features; the feedback of a sample is shared by the pixels of the map."""
    torch.manual_seed(0)
    net = Net(
        lambda n, x: n.out(n.b(n.a(x)).flatten(1)),
        a=nn.Sequential(nn.Conv2d(2, 8, 3), nn.Tanh()),
        b=nn.Sequential(nn.Conv2d(8, 6, 2, stride=2), nn.ReLU(), nn.MaxPool2d(2)),
        out=nn.Linear(12, C),
    ).to(memory_format=memory_format)  # type: ignore[call-overload]
    x, y = data(B, 2, 12, 6)
    x = x.to(memory_format=memory_format)

    def formula(n: Any, fed: Any) -> Any:
        a = n.a(f64(x))
        b = n.b(a.detach())
        out = n.out(b.detach().flatten(1))
        e = softmax_error(out, y)
        channels_first = [
            (h, fed(e, h.shape[1], tuple(h.shape[2:])).movedim(-1, 1)) for h in (a, b)
        ]  # fmt: skip
        return channels_first, out, e

    check(net, x, y, formula, ["a", "b"])


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
def test_transformer_layers(norm_first: bool, pooled: bool) -> None:
    """Feedback at the end of each layer (*macro*): one vector a position, or one a sample for all positions."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(D, 3, 16, dropout=0.0, batch_first=True, norm_first=norm_first)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    net = Net(
        lambda n, x: n.out(n.encoder(x).mean(1) if pooled else n.encoder(x)), encoder=encoder, out=nn.Linear(D, C)
    )
    x, _ = data(B, T, D)
    y = labels(B) if pooled else labels(B, T)

    def formula(n: Any, fed: Any) -> Any:
        h1 = n.encoder.layers[0](f64(x))
        h2 = n.encoder.layers[1](h1.detach())
        out = n.out(h2.detach().mean(1) if pooled else h2.detach())
        e = softmax_error(out, y)
        share = fed(e, D, (T,)) if pooled else fed(e)
        return [(h1, share), (h2, share)], out, e

    check(net, x, y, formula, nn.TransformerEncoderLayer)


def test_feedback_within_a_transformer_layer() -> None:
    """After attention and after the feed-forward part (*micro*): attention gives (output, weights), the first is it."""
    torch.manual_seed(0)

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(D, 3, batch_first=True)
            self.feed = nn.Sequential(nn.Linear(D, 16), nn.GELU(), nn.Linear(16, D))

        def forward(self, x: Tensor) -> Tensor:
            attended, weights = self.attention(x, x, x)
            assert not weights.requires_grad
            out: Tensor = x + attended + self.feed(x + attended)
            return out

    net = nn.Sequential(nn.Linear(3, D), nn.Tanh(), Layer(), nn.Linear(D, C))
    x, _ = data(B, T, 3)
    y = labels(B, T)

    def formula(n: Any, fed: Any) -> Any:
        h = n[1](n[0](f64(x)))
        d = h.detach()
        attended, _ = n[2].attention(d, d, d)
        given = d + attended.detach()
        fedforward = n[2].feed(given)
        out = n[3](given + fedforward.detach())
        e = softmax_error(out, y)
        return [(h, fed(e)), (attended, fed(e)), (fedforward, fed(e))], out, e

    check(net, x, y, formula, ["1", "2.attention", "2.feed"])


def test_graph_convolution() -> None:
    """Â·X·W: nodes are the samples; messages pass within a block, feedback comes to each node by its own error."""
    torch.manual_seed(0)
    adjacency = (torch.rand(B, B) < 0.4).float() + torch.eye(B)
    normal = adjacency / adjacency.sum(1, keepdim=True)

    class GraphConv(nn.Module):
        def __init__(self, before: int, width: int) -> None:
            super().__init__()
            self.linear = nn.Linear(before, width, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = normal.to(x.dtype) @ self.linear(x)
            return out

    net = nn.Sequential(GraphConv(8, D), nn.Tanh(), GraphConv(D, 10), nn.Tanh(), GraphConv(10, C))
    x, y = data(B, 8)

    def formula(n: Any, fed: Any) -> Any:
        h1 = (normal.double() @ f64(x) @ n[0].linear.weight.T).tanh()
        h2 = (normal.double() @ h1.detach() @ n[2].linear.weight.T).tanh()
        out = normal.double() @ h2.detach() @ n[4].linear.weight.T
        e = softmax_error(out, y)
        return [(h1, fed(e)), (h2, fed(e, 10))], out, e

    check(net, x, y, formula, nn.Tanh)


@pytest.mark.parametrize("error_at", [None, "body"])
def test_embeddings_and_a_vocabulary_layer(error_at: str | None) -> None:
    """The embedding gets feedback of its own. The error is that of the logits, or that before the vocabulary layer.

    The second is e·W of the vocabulary layer: one weight transport, and a device as wide as the model only.
    """
    torch.manual_seed(0)
    net = Net(
        lambda n, x: n.vocabulary(n.body(n.block(n.embed(x)))),
        embed=nn.Embedding(C, D), block=lin(D, 10), body=lin(10, 9), vocabulary=nn.Linear(9, C),
    )  # fmt: skip
    x, y = labels(B, T), labels(B, T).flip(0)

    def formula(n: Any, fed: Any) -> Any:
        h1 = n.embed(x)
        h2 = n.block(h1.detach())
        top = n.body(h2.detach())
        out = n.vocabulary(top)
        e = softmax_error(out, y)
        sent = e if error_at is None else e @ n.vocabulary.weight
        return [(h1, fed(sent)), (h2, fed(sent, 10))], out, e

    info = check(net, x, y, formula, ["embed", "block"], error_at=error_at).device.info
    assert (info.n_inputs, info.n_outputs) == (C if error_at is None else 9, D)


@pytest.mark.parametrize("frozen", ["a.0.weight", "a", "b"])
def test_frozen_blocks(frozen: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(OrderedDict(a=lin(8), b=lin(), c=nn.Linear(D, C)))
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    x, y = data(B, 8)

    def formula(n: Any, fed: Any) -> Any:
        h1 = n[0](f64(x))
        h2 = n[1](h1.detach())
        out = n[2](h2.detach())
        e = softmax_error(out, y)
        return [(h1, fed(e)), (h2, fed(e))], out, e

    check(net, x, y, formula, ["a", "b"])


@pytest.mark.parametrize("after", [nn.ReLU, nn.BatchNorm1d])
@pytest.mark.parametrize("inplace", [False, True])
def test_in_place_activations(after: type[nn.Module], inplace: bool) -> None:
    """At the point itself, and behind it, where the derivative of the point is not computed from what is edited."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(8, D, bias=False), nn.BatchNorm1d(D), nn.ReLU(inplace),
        nn.Linear(D, D, bias=False), nn.BatchNorm1d(D), nn.ReLU(inplace), nn.Linear(D, C),
    )  # fmt: skip  # no bias: before a BatchNorm its gradient is zero, up to rounding
    x, y = data(B, 8)

    def formula(n: Any, fed: Any) -> Any:
        for layer in (1, 4):
            n[layer].reset_running_stats()
        relu = nn.functional.relu
        if after is nn.ReLU:
            h1 = relu(n[1](n[0](f64(x))))
            h2 = relu(n[4](n[3](h1.detach())))
            out = n[6](h2.detach())
        else:
            h1 = n[1](n[0](f64(x)))
            h2 = n[4](n[3](relu(h1.detach())))
            out = n[6](relu(h2.detach()))
        e = softmax_error(out, y)
        return [(h1, fed(e)), (h2, fed(e))], out, e

    check(net, x, y, formula, after)


# ---- marks in a forward of one's own


class Marked(nn.Module):
    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.head = lin(8), lin(), nn.Linear(D, C)
        self.name = name

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = feedback_point(self.a(x), self.name)
        h = feedback_point(self.b(h), self.name)
        return {"hidden": h, "logits": feedback_tap(self.head(h))}


def marked_formula(x: Tensor, y: Tensor) -> Formula:
    def formula(n: Any, fed: Any) -> Any:
        h1 = n.a(f64(x))
        h2 = n.b(h1.detach())
        out = n.head(h2.detach())
        e = softmax_error(out, y)
        return [(h1, fed(e)), (h2, fed(e))], out, e

    return formula


@pytest.mark.parametrize("name", [None, "block"])
def test_marked_points(name: str | None) -> None:
    net = Marked(name)
    x, y = data(B, 8)
    whole = Net(lambda n, x: n.net(x)["logits"], net=net)

    def formula(n: Any, fed: Any) -> Any:
        return marked_formula(x, y)(n.net, fed)

    feedback_ = check(whole, x, y, formula, None)
    assert feedback_.points == (("point 1", "point 2") if name is None else ("block",))


def test_marks_are_inert_outside_an_attached_net() -> None:
    """Outside, while paused, without gradients, and where attach names modules: the very tensor comes back."""
    h = torch.ones(2, 3, requires_grad=True) * 2
    assert feedback_point(h) is h
    assert feedback_tap(h) is h
    assert feedback_tap(h, h) == (h, h)
    seen: list[bool] = []

    def run(n: Any, x: Tensor) -> Tensor:
        h = n.a(x)
        seen.append(feedback_point(h) is h)
        out: Tensor = n.out(h)
        return out

    net = Net(run, a=lin(8), out=nn.Linear(D, C))
    x, _ = data(B, 8)
    with attach(net, after="a", **REAL):
        net(x)
    with attach(net, **REAL) as feedback_:
        with torch.no_grad():
            net(x)
        with feedback_.paused():
            net(x)
        net(x)
    assert seen == [True, True, True, False]


def test_modules_named_by_attach_take_the_place_of_marks() -> None:
    net = Marked()
    x, y = data(B, 8)
    with attach(net, after=["a"], error_at="head", **REAL) as feedback_:
        torch.autograd.backward(cross_entropy(net(x)["logits"], y))
        matrix = feedback_.device.effective_matrix()
        assert feedback_.points == ("a",)
        found = gradients(net)

    def formula(n: Any) -> Tensor:
        h1 = n.a(f64(x))
        out = n.head(n.b(h1.detach()))
        e = softmax_error(out, y)
        return driven([(h1, feedback(e, matrix))], out, e)  # type: ignore[arg-type]

    assert_close(found, by_hand(net, formula))


def test_a_tap_for_each_head_in_one_forward() -> None:
    """Deep supervision: each marked output sends its error to the points since the one before."""
    torch.manual_seed(0)

    def run(n: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        h = feedback_point(n.a(x))
        early = feedback_tap(n.early(h))
        h = feedback_point(n.b(h))
        return early, feedback_tap(n.late(h))

    net = Net(run, a=lin(8), early=nn.Linear(D, C), b=lin(), late=nn.Linear(D, C))
    x, y = data(B, 8)
    with attach(net, **REAL) as feedback_:
        assert feedback_.plan(x).vectors_per_step == 2 * B
        early, late = net(x)
        torch.autograd.backward(cross_entropy(early, y) + 2 * cross_entropy(late, y))
        matrix: Any = feedback_.device.effective_matrix()
        assert feedback_.device.usage.vectors == 2 * B
        found = gradients(net)

    def formula(n: Any) -> Tensor:
        h1 = n.a(f64(x))
        early = n.early(h1.detach())
        h2 = n.b(h1.detach())
        late = n.late(h2.detach())
        e1, e2 = softmax_error(early, y), 2 * softmax_error(late, y)
        points = [(h1, feedback(e1, matrix)), (h2, feedback(e2, matrix))]
        return driven(points, early, e1) + driven([], late, e2)

    assert_close(found, by_hand(net, formula))


def test_no_mark_ran() -> None:
    net = Net(lambda n, x: n.out(n.a(x)), a=lin(8), out=nn.Linear(D, C))
    with attach(net, **REAL), pytest.raises(FeedbackError, match=r"no feedback point ran in this forward of Net: mark"):
        net(data(B, 8)[0])


@pytest.mark.parametrize("mark", [feedback_point, feedback_tap])
def test_only_tensors_are_marked(mark: Any) -> None:
    with pytest.raises(FeedbackError, match=r"got a tuple: mark the tensor inside it"):
        mark((torch.ones(2),))


# ---- outputs that are not one tensor


class Pair(NamedTuple):
    hidden: Tensor
    logits: Tensor


@dataclasses.dataclass(frozen=True)
class Record:
    hidden: Tensor
    logits: Tensor


class ModelOutput(OrderedDict[str, Any]):
    """As in Hugging Face's transformers: an ordered mapping whose items are attributes too."""

    def __init__(self, **items: Any) -> None:
        super().__init__(**items)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        object.__setattr__(self, key, value)

    def __reduce__(self) -> Any:
        return (_model_output, (dict(self),))


def _model_output(items: dict[str, Any]) -> ModelOutput:
    return ModelOutput(**items)


class Holder:
    def __init__(self, hidden: Tensor, logits: Tensor) -> None:
        self.decoder = {"hidden": hidden, "logits": logits}


OUTPUTS: list[tuple[Any, Any, Callable[[Any], Tensor]]] = [
    (lambda h, o: {"hidden": h, "logits": o}, "logits", lambda out: out["logits"]),
    (lambda h, o: (h, o), 1, lambda out: out[1]),
    (lambda h, o: [h, {"deep": (o, h)}], "1.deep.0", lambda out: out[1]["deep"][0]),
    (lambda h, o: (h, o), -1, lambda out: out[-1]),
    (Pair, "logits", lambda out: out.logits),
    (Record, "logits", lambda out: out.logits),
    (lambda h, o: ModelOutput(hidden=h, logits=o), "logits", lambda out: out["logits"]),
    (lambda h, o: ModelOutput(hidden=h, logits=o), "logits", lambda out: out.logits),
    (lambda h, o: {"hidden": h, "logits": o}, lambda out: out["logits"], lambda out: out["logits"]),
]


@pytest.mark.parametrize(("make", "output", "get"), OUTPUTS, ids=[str(k) for k in range(len(OUTPUTS))])
def test_outputs(make: Any, output: Any, get: Callable[[Any], Tensor]) -> None:
    """The type of the output stays; the loss may be computed from it as usual."""
    torch.manual_seed(0)

    def run(n: Any, x: Tensor) -> Any:
        h = n.b(n.a(x))
        return make(h, n.head(h))

    net = Net(run, a=lin(8), b=lin(), head=nn.Linear(D, C))
    x, y = data(B, 8)
    with attach(net, after=["a", "b"], output=output, **REAL) as feedback_:
        assert feedback_.plan(x).error_shape == (B, C)
        given = net(x)
        assert type(given) is type(make(x, x))
        torch.autograd.backward(cross_entropy(get(given), y))
        matrix: Any = feedback_.device.effective_matrix()
        found = gradients(net)

    def fed(error: Tensor, *_: Any) -> Tensor:
        return feedback(error, matrix)

    assert_close(found, by_hand(net, lambda n: driven(*marked_formula(x, y)(n, fed))))


@pytest.mark.parametrize("how", ["output", "function", "marks"])
@pytest.mark.parametrize("ternarize", [None, _ternarize()], ids=["real", "ternary"])
def test_several_outputs_are_one_vector(how: str, ternarize: Any) -> None:
    """Mean and log-variance, say: their errors side by side, encoded and projected together, once."""
    torch.manual_seed(0)

    def run(n: Any, x: Tensor) -> Any:
        h = n.a(x)
        h = feedback_point(h) if how == "marks" else h
        if how == "marks":
            return dict(zip(("mean", "spread"), feedback_tap(n.mean(h), n.spread(h)), strict=True))
        return {"mean": n.mean(h), "spread": n.spread(h)}

    net = Net(run, a=lin(8), mean=nn.Linear(D, 3), spread=nn.Linear(D, 4))
    x, _ = data(B, 8)
    choices: dict[str, dict[str, Any]] = {
        "output": {"after": "a", "output": ["mean", "spread"]},
        "function": {"after": "a", "output": lambda out: (out["mean"], out["spread"])},
        "marks": {},
    }
    options = choices[how]
    with attach(net, device="digital", ternarize=ternarize, **options) as feedback_:
        plan = feedback_.plan(x)
        assert (plan.error_shape, plan.n_inputs, plan.vectors_per_step) == ((B, 7), 7, B)
        out = net(x)
        torch.autograd.backward(out["mean"].square().sum() + out["spread"].pow(3).sum())
        matrix: Any = feedback_.device.effective_matrix()
        assert feedback_.device.usage.vectors == B
        found = gradients(net)

    def formula(n: Any) -> Tensor:
        h = n.a(f64(x))
        mean, spread = n.mean(h.detach()), n.spread(h.detach())
        e1, e2 = 2 * mean.detach(), 3 * spread.detach() ** 2
        e = torch.cat([e1, e2], -1)
        sent = e if ternarize is None else ternary(e)
        return driven([(h, feedback(sent, matrix))], mean, e1) + driven([], spread, e2)

    assert_close(found, by_hand(net, formula))


def test_an_output_without_a_loss_of_its_own_has_zero_error() -> None:
    torch.manual_seed(0)
    net = Net(lambda n, x: (n.p(n.a(x)), n.q(n.a(x))), a=lin(8), p=nn.Linear(D, 3), q=nn.Linear(D, 4))
    shared = Net(lambda n, x: (lambda h: (n.n.p(h), n.n.q(h)))(n.n.a(x)), n=net)
    x, _ = data(B, 8)
    with attach(shared, after="n.a", output=[0, 1], **REAL) as feedback_:
        torch.autograd.backward(shared(x)[1].sum())
        matrix: Any = feedback_.device.effective_matrix()
        found = gradients(net)

    def formula(n: Any) -> Tensor:
        h = n.a(f64(x))
        q = n.q(h.detach())
        e = torch.cat([torch.zeros(B, 3), torch.ones(B, 4)], -1)
        return driven([(h, feedback(e, matrix))], q, torch.ones(B, 4))

    wanted = by_hand(net, formula)
    wanted["p.weight"], wanted["p.bias"] = torch.zeros(3, D), torch.zeros(3)  # it has an error, which is zero
    assert_close(found, wanted)


def test_the_loss_within_the_model_and_its_logits_beside_it() -> None:
    """Hugging Face's models give both; the loss is computed before the output, so error_at names what it came from."""
    torch.manual_seed(0)
    x, y = data(B, 8)

    def run(n: Any, x: Tensor) -> Any:
        h = n.b(n.a(x))
        logits = n.head(h)
        return ModelOutput(loss=cross_entropy(logits, y), logits=logits)

    net = Net(run, a=lin(8), b=lin(), head=nn.Linear(D, C))
    with attach(net, after=["a", "b"], error_at="head", **REAL) as feedback_:
        for _ in range(2):
            net.zero_grad()
            torch.autograd.backward(net(x).loss)
        matrix: Any = feedback_.device.effective_matrix()
        found = gradients(net)
    fed = lambda error, *_: feedback(error, matrix)  # noqa: E731
    assert_close(found, by_hand(net, lambda n: driven(*marked_formula(x, y)(n, fed))))


@pytest.mark.parametrize(
    ("output", "error", "text"),
    [
        ("logit", FeedbackError, r"output='logit': .* gave a dict with 'hidden', 'logits', which has no 'logit'"),
        ("logits.deep", FeedbackError, r"gave a Tensor, which has no 'deep'"),
        (2, FeedbackError, r"output=2: .* which has no 2"),
        (lambda out: out["logits"] * 1, FeedbackError, r"it must select a tensor, not compute one"),
        (lambda out: "logits", FeedbackError, r"gave a str; feedback needs a tensor"),
        (None, FeedbackError, r"a dict with 'hidden', 'logits'; feedback needs .*output=.*error_at=.*feedback_tap"),
        (["logits", "wide"], FeedbackError, "which has no 'wide'"),
        (lambda out: [out["logits"], out["hidden"].mean(1)], FeedbackShapeError, r"\(6, 5\), \(6,\): their samples"),
    ],
)  # fmt: skip
def test_outputs_that_are_not_there(output: Any, error: type[Exception], text: str) -> None:
    def run(n: Any, x: Tensor) -> Any:
        h = n.a(x)
        return {"hidden": h, "logits": n.head(h)}

    net = Net(run, a=lin(8), head=nn.Linear(D, C))
    with attach(net, after="a", output=output, **REAL), pytest.raises(error, match=text):
        net(data(B, 8)[0])
