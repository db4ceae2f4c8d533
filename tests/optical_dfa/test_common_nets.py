"""Nets and training loops as people write them, each against its formula in float64."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from by_hand import assert_close, by_hand, driven, feedback, gradients, softmax_error
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_, parametrizations
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from optical_dfa import FeedbackError, FeedbackShapeError, attach, feedback_of, feedback_point, feedback_tap, validate

B, T, D, C = 6, 4, 12, 5
REAL: dict[str, Any] = {"device": "digital", "ternarize": None}


class Net(nn.Module):
    """Layers by name, and the forward that joins them."""

    def __init__(self, run: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *args: Any, **named: Any) -> Any:
        return self.run(self, *args, **named)


def lin(before: int = D, width: int = D) -> nn.Sequential:
    return nn.Sequential(nn.Linear(before, width), nn.Tanh())


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def labels(*shape: int) -> Tensor:
    return torch.randint(0, C, shape, generator=torch.Generator().manual_seed(2))


Fed = Callable[..., Tensor]


def fed_by(net: nn.Module) -> Fed:
    """`fed(error, width, positions)`: feedback of a point that reads the first rows of the matrix."""
    matrix: Any = feedback_of(net).device.effective_matrix()
    return lambda error, width=D, positions=(): feedback(error, matrix[:width], positions)


def check(
    net: nn.Module, x: Tensor, y: Tensor, formula: Callable[[Any, Tensor, Fed], Any], after: Any, **options: Any
) -> None:
    """Gradients of one cross-entropy step against `formula(net, x, fed)`: points with feedback, output and error."""
    with attach(net, after=after, **{**REAL, **options}):
        before = copy.deepcopy(dict(net.named_buffers()))
        torch.manual_seed(3)
        torch.autograd.backward(cross_entropy(net(x).reshape(-1, C), y.reshape(-1)))
        found = gradients(net)
        for name, buffer in net.named_buffers():
            buffer.data.copy_(before[name])
        x = x.double() if x.is_floating_point() else x
        fed = fed_by(net)
        assert_close(found, by_hand(net, lambda other: driven(*formula(other, x, fed))))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


# ---- parameters in several places, or of several tensors


def test_tied_embedding_and_vocabulary() -> None:
    """One table: the embedding's feedback and the exact gradient of the vocabulary layer add up in it."""
    net = Net(lambda n, x: n.out(n.mix(n.embed(x))), embed=nn.Embedding(C, D), mix=lin(), out=nn.Linear(D, C))
    net.get_submodule("out").weight = net.get_submodule("embed").weight

    def formula(n: Any, x: Tensor, fed: Fed) -> Any:
        h1 = n.embed(x)
        h2 = n.mix(h1.detach())
        out = n.out(h2.detach())
        e = softmax_error(out, labels(B, T).flip(0))
        return [(h1, fed(e)), (h2, fed(e))], out, e

    check(net, labels(B, T), labels(B, T).flip(0), formula, ["embed", "mix"])


def test_a_list_of_modules_in_a_loop() -> None:
    """Universal Transformer style: the list runs twice, so every point runs twice."""

    def run(n: Any, x: Tensor) -> Any:
        for _ in range(2):
            for block in n.blocks:
                x = x + block(x)
        return n.out(x)

    net = Net(run, blocks=nn.ModuleList(lin() for _ in range(3)), out=nn.Linear(D, C))

    def formula(n: Any, x: Tensor, fed: Fed) -> Any:
        branches = []
        for _ in range(2):
            for block in n.blocks:
                branches.append(block(x))
                x = x + branches[-1].detach()
        out = n.out(x)
        e = softmax_error(out, labels(B))
        return [(h, fed(e)) for h in branches], out, e

    check(net, normal(B, D), labels(B), formula, "blocks.*")


def test_weight_norm_and_spectral_norm() -> None:
    """Feedback goes through the parametrisation to what it is computed from."""
    net = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(8, D)), nn.Tanh(),
        parametrizations.spectral_norm(nn.Linear(D, D)), nn.Tanh(), nn.Linear(D, C),
    )  # fmt: skip

    def formula(n: Any, x: Tensor, fed: Fed) -> Any:
        h1 = n[:2](x)
        h2 = n[2:4](h1.detach())
        out = n[4](h2.detach())
        e = softmax_error(out, labels(B))
        return [(h1, fed(e)), (h2, fed(e))], out, e

    check(net, normal(B, 8), labels(B), formula, nn.Tanh)


def test_a_frozen_trunk_with_low_rank_adapters() -> None:
    class Adapted(nn.Module):
        def __init__(self, before: int) -> None:
            super().__init__()
            self.trunk = nn.Linear(before, D).requires_grad_(False)
            self.down, self.up = nn.Linear(before, 2, bias=False), nn.Linear(2, D, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.trunk(x) + self.up(self.down(x)))

    net = nn.Sequential(Adapted(8), Adapted(D), nn.Linear(D, C))

    def formula(n: Any, x: Tensor, fed: Fed) -> Any:
        h1 = n[0](x)
        h2 = n[1](h1.detach())
        out = n[2](h2.detach())
        e = softmax_error(out, labels(B))
        return [(h1, fed(e)), (h2, fed(e))], out, e

    check(net, normal(B, 8), labels(B), formula, Adapted)


# ---- kinds of layers


def test_attention_by_einsum() -> None:
    def attend(n: Any, x: Tensor) -> Tensor:
        q, k, v = n.qkv(x).reshape(*x.shape[:2], 3, 3, D // 3).unbind(2)
        weights = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
        out: Tensor = x + n.out(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2))
        return out

    layers = [Net(attend, qkv=nn.Linear(D, 3 * D), out=nn.Linear(D, D)) for _ in range(2)]
    net = nn.Sequential(nn.Linear(8, D), *layers, nn.Linear(D, C))

    def formula(n: Any, x: Tensor, fed: Fed) -> Any:
        h1 = n[:2](x)
        h2 = n[2](h1.detach())
        out = n[3](h2.detach())
        e = softmax_error(out, labels(B, T))
        return [(h1, fed(e)), (h2, fed(e))], out, e

    check(net, normal(B, T, 8), labels(B, T), formula, ["1", "2"])


def test_a_gated_cell_by_hand_with_marks() -> None:
    """A GRU of linear layers; the mark in the loop is one point that runs T times."""

    def cell(n: Any, x: Tensor, h: Tensor) -> Tensor:
        both = torch.cat([x, h], -1)
        update, reset = n.gates(both).sigmoid().chunk(2, -1)
        candidate = n.candidate(torch.cat([x, reset * h], -1)).tanh()
        out: Tensor = update * h + (1 - update) * candidate
        return out

    def run(n: Any, x: Tensor) -> Any:
        h = x.new_zeros(len(x), D)
        for step in range(T):
            h = feedback_point(cell(n, x[:, step], h), "state")
        return n.out(h)

    net = Net(run, gates=nn.Linear(3 + D, 2 * D), candidate=nn.Linear(3 + D, D), out=nn.Linear(D, C))

    def formula(n: Any, x: Tensor, fed: Fed) -> Any:
        states = [x.new_zeros(len(x), D)]
        for step in range(T):
            states.append(cell(n, x[:, step], states[-1].detach()))
        out = n.out(states[-1].detach())
        e = softmax_error(out, labels(B))
        return [(h, fed(e)) for h in states[1:]], out, e

    check(net, normal(B, T, 3), labels(B), formula, None)


def test_a_recurrent_module_whose_last_state_is_used() -> None:
    """Of (output, state) the output is the point: each step gets a share, backpropagated through time."""

    def run(n: Any, x: Tensor) -> Any:
        _, (h, _) = n.lstm(x)
        return n.out(h[-1])

    net = Net(run, lstm=nn.LSTM(3, D, batch_first=True), out=nn.Linear(D, C))

    def formula(n: Any, x: Tensor, fed: Fed) -> Any:
        hidden, (h, _) = n.lstm(x)
        out = n.out(h[-1].detach())
        e = softmax_error(out, labels(B))
        return [(hidden, fed(e, D, (T,)))], out, e

    check(net, normal(B, T, 3), labels(B), formula, nn.LSTM)


def test_a_u_net() -> None:
    """Skips by concatenation; points inside it have positions of their own, so one error a sample is taken."""

    def conv(before: int, width: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(before, width, 3, padding=1), nn.Tanh())

    def run(n: Any, x: Tensor, cut: Any = lambda h: h) -> Any:
        a = cut(n.a(x))
        b = cut(n.b(nn.functional.max_pool2d(a, 2)))
        up = nn.functional.interpolate(b, scale_factor=2)
        c = cut(n.c(torch.cat([a, up], 1)))
        return n.out(c.mean((2, 3)))

    net = Net(run, a=conv(2, 8), b=conv(8, D), c=conv(8 + D, 10), out=nn.Linear(10, C))

    def formula(n: Any, x: Tensor, fed: Fed) -> Any:
        points: list[Tensor] = []

        def cut(h: Tensor) -> Tensor:
            points.append(h)
            return h.detach()

        out = run(n, x, cut)
        e = softmax_error(out, labels(B))
        return [(h, fed(e, h.shape[1], tuple(h.shape[2:])).movedim(-1, 1)) for h in points], out, e

    check(net, normal(B, 2, 8, 4), labels(B), formula, "[abc]")


def test_a_u_net_with_an_error_for_each_pixel_names_the_point_of_another_size() -> None:
    net = nn.Sequential(nn.Conv2d(2, 8, 3, stride=2, padding=1), nn.Upsample(scale_factor=2), nn.Conv2d(8, 3, 1))
    text = r"'0' has shape \(6, 8, 4, 2\), the error \(6, 3, 8, 4\).*Choose another point"
    with attach(net, after="0", **REAL), pytest.raises(FeedbackShapeError, match=text):
        net(normal(B, 2, 8, 4))


def test_a_mixture_of_experts_that_routes_by_the_data() -> None:
    """The mixture is the point; experts and gate are backpropagated inside. An expert sees some samples alone."""

    def mix(n: Any, x: Tensor) -> Tensor:
        weight, chosen = n.gate(x).softmax(-1).max(-1)
        out = x.new_zeros(len(x), D)
        for number, expert in enumerate(n.experts):
            rows = (chosen == number).nonzero()[:, 0]
            if len(rows):
                out = out.index_add(0, rows, weight[rows, None] * expert(x[rows]))
        return out

    def layer(before: int) -> nn.Module:
        return Net(mix, gate=nn.Linear(before, 3), experts=nn.ModuleList(lin(before) for _ in range(3)))

    net = nn.Sequential(layer(8), layer(D), nn.Linear(D, C))

    def formula(n: Any, x: Tensor, fed: Fed) -> Any:
        h1 = n[0](x)
        h2 = n[1](h1.detach())
        out = n[2](h2.detach())
        e = softmax_error(out, labels(32))
        return [(h1, fed(e)), (h2, fed(e))], out, e

    check(net, normal(32, 8), labels(32), formula, ["0", "1"])
    with (
        attach(net, after="0.experts.*", **REAL),
        pytest.raises(FeedbackError, match=r"'0\.experts\.\d' has shape|\['0\.experts\.\d'.*did not run"),
    ):
        net(normal(B, 8))


def test_multi_head_attention_that_returns_its_weights() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.norm = nn.MultiheadAttention(D, 3, batch_first=True), nn.LayerNorm(D)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            attended, weights = self.attention(x, x, x, need_weights=True)
            return self.norm(x + attended), weights

    net = Net(lambda n, x: n.out(n.b(n.a(x)[0])[0].mean(1)), a=Block(), b=Block(), out=nn.Linear(D, C))

    def formula(n: Any, x: Tensor, fed: Fed) -> Any:
        h1 = n.a(x)[0]
        h2 = n.b(h1.detach())[0]
        out = n.out(h2.detach().mean(1))
        e = softmax_error(out, labels(B))
        return [(h1, fed(e, D, (T,))), (h2, fed(e, D, (T,)))], out, e

    check(net, normal(B, T, D), labels(B), formula, Block)


def test_batch_norm_in_training_and_dropout() -> None:
    """The masks of the forward, made again by the same seed; the statistics of the batch."""
    net = nn.Sequential(
        nn.Linear(8, D, bias=False), nn.BatchNorm1d(D), nn.ReLU(), nn.Dropout(0.4),
        nn.Linear(D, D, bias=False), nn.BatchNorm1d(D), nn.ReLU(), nn.Dropout(0.4), nn.Linear(D, C),
    )  # fmt: skip
    torch.manual_seed(3)
    masks = [nn.functional.dropout(torch.ones(B, D), 0.4) for _ in range(2)]

    def formula(n: Any, x: Tensor, fed: Fed) -> Any:
        h1 = n[:3](x)
        h2 = n[4:7](h1.detach() * masks[0])
        out = n[8](h2.detach() * masks[1])
        e = softmax_error(out, labels(B))
        return [(h1, fed(e)), (h2, fed(e))], out, e

    check(net, normal(B, 8), labels(B), formula, nn.ReLU)


def test_a_net_of_embeddings_alone() -> None:
    """Factors of a matrix, with sparse gradients: the product carries the error, for each of its features."""

    def run(n: Any, x: Tensor) -> Any:
        return n.out(n.user(x[:, 0]) * n.item(x[:, 1]))

    net = Net(
        run, user=nn.Embedding(7, D, sparse=True), item=nn.Embedding(9, D, sparse=True), out=nn.Linear(D, C, bias=False)
    )
    x = torch.stack([torch.arange(B) % 4, torch.arange(B) % 3], 1)
    with attach(net, after=["user", "item"], **REAL):
        torch.autograd.backward(cross_entropy(net(x), labels(B)))
        found = gradients(net)
        fed = fed_by(net)

        def formula(n: Any) -> Tensor:
            u, i = n.user(x), n.item(x)
            u, i = u[:, 0], i[:, 1]
            out = n.out((u * i).detach())
            e = softmax_error(out, labels(B))
            return driven([(u, fed(e)), (i, fed(e))], out, e)

        wanted = by_hand(net, formula)
    dense = {name: one.to_dense() if one is not None else None for name, one in found.items()}
    assert_close(dense, {name: one.to_dense() if one is not None else None for name, one in wanted.items()})


def test_a_net_without_features_in_its_output_is_named() -> None:
    """A score for each pair, (samples,): which dimension is what cannot be told."""
    net = Net(lambda n, x: (n.user(x) * n.item(x)).sum(-1), user=nn.Embedding(7, D), item=nn.Embedding(7, D))
    text = r"'user' has shape \(6, 12\), the error \(6,\).*cannot be told apart.*error_at="
    with attach(net, after=["user", "item"], **REAL), pytest.raises(FeedbackShapeError, match=text):
        net(torch.arange(B))


def test_a_residual_sum_in_place() -> None:
    """`branch += skip` as in ResNets, on what a point passed on; and an edit of the net's output."""

    def run(n: Any, x: Tensor) -> Any:
        h = n.a(x)
        for block in (n.b, n.c):
            branch = block(h)
            branch += h
            h = branch.relu_()
        return n.out(h)

    net = Net(run, a=lin(8), b=nn.Linear(D, D), c=nn.Linear(D, D), out=nn.Linear(D, C))
    x, y = normal(B, 8), labels(B)
    with attach(net, after=["a", "b", "c"], **REAL):
        logits = net(x)
        logits /= 0.5
        torch.autograd.backward(cross_entropy(logits, y))
        found = gradients(net)
        fed = fed_by(net)

    def formula(n: Any) -> Tensor:
        a = n.a(x.double())
        b = n.b(a.detach())
        h = (a + b).detach().relu()
        c = n.c(h)
        out = n.out((h + c).detach().relu())
        e = 2 * softmax_error(2 * out, y)
        return driven([(a, fed(e)), (b, fed(e)), (c, fed(e))], out, e)

    assert_close(found, by_hand(net, formula))


# ---- real and complex, channels and features


@pytest.mark.parametrize(
    ("complex_at", "text"),
    [("a", "'a' gave a torch.complex64 tensor"), ("out", "output of the net is torch.complex64")],
)
def test_complex_tensors_are_refused(complex_at: str, text: str) -> None:
    """Half of the gradient would be lost without a word."""
    kinds: dict[str, Any] = {complex_at: torch.complex64}

    def run(n: Any, x: Tensor) -> Any:
        h = n.a(x.to(n.a.weight.dtype))
        return n.out(h.abs().to(n.out.weight.dtype))

    net = Net(run, a=nn.Linear(8, D, dtype=kinds.get("a")), out=nn.Linear(D, C, dtype=kinds.get("out")))
    (finding,) = validate(net, after="a", example=normal(B, 8)).findings
    assert finding.severity == "error"
    assert text in finding.message
    with attach(net, after="a", **REAL), pytest.raises(FeedbackError, match=text):
        net(normal(B, 8))


def test_features_of_one_dimensional_convolutions() -> None:
    """Three dimensions are (samples, positions, features): `validate` warns if channels come first; marks mend."""
    net: nn.Module = nn.Sequential(
        nn.Conv1d(3, D, 3, padding=1), nn.BatchNorm1d(D), nn.Tanh(), nn.Flatten(), nn.Linear(8 * D, C)
    )
    (finding,) = validate(net, after=nn.Tanh, example=normal(B, 3, 8))
    assert (finding.code, finding.severity, finding.module) == ("channels-first", "warning", "2")
    assert "8 features at 12 positions" in finding.message

    def run(n: Any, x: Tensor) -> Any:
        h = feedback_point(n.conv(x).tanh().mT)
        return n.out(h.mean(1))

    net = Net(run, conv=nn.Conv1d(3, D, 3, padding=1), out=nn.Linear(D, C))
    assert not validate(net, example=normal(B, 3, T)).findings

    def formula(n: Any, x: Tensor, fed: Fed) -> Any:
        h = n.conv(x).tanh().mT
        out = n.out(h.detach().mean(1))
        e = softmax_error(out, labels(B))
        return [(h, fed(e, D, (T,)))], out, e

    check(net, normal(B, 3, T), labels(B), formula, None)


# ---- whose memory a gradient is


class Nodes(nn.Module):
    """Tables of parameters, as large as the batch: the gradient of the sum is theirs as it comes."""

    def __init__(self) -> None:
        super().__init__()
        self.p, self.q, self.r = (nn.Parameter(normal(B, D, seed=seed)) for seed in (4, 5, 6))
        self.mix, self.out = nn.Parameter(normal(D, D, seed=7)), nn.Linear(D, C)

    def forward(self, x: Tensor) -> Tensor:
        h1 = feedback_point(x + self.p)
        h2 = feedback_point((x - self.q).reshape(B, 3, 4).flatten(1))
        out: Tensor = self.out(h1 * h2 * feedback_point(torch.addmm(self.r, x, self.mix)))
        return out


@pytest.mark.parametrize("scale", [None, 1.0])
def test_gradients_do_not_share_memory(scale: float | None) -> None:
    """Accumulated and clipped, each by itself: as views of one projection, each change would come to both."""
    net, x, y = Nodes(), normal(B, D), labels(B)
    with attach(net, scale=scale, **REAL):
        for _ in range(2):
            torch.autograd.backward(cross_entropy(net(x), y))
        found = gradients(net)
        matrix: Any = feedback_of(net).device.effective_matrix()

    def formula(n: Any) -> Tensor:
        points = [x.double() + n.p, x.double() - n.q, n.r + x.double() @ n.mix]
        out = n.out((points[0] * points[1] * points[2]).detach())
        e = softmax_error(out, y)
        share = feedback(e, matrix, scale=scale)
        return 2 * driven([(h, share) for h in points], out, e)

    wanted = by_hand(net, formula)
    assert_close(found, wanted)
    norm = torch.stack([one.norm() for one in wanted.values() if one is not None]).norm()
    clip_grad_norm_(net.parameters(), 0.1 * float(norm))
    assert_close(gradients(net), {name: None if one is None else 0.1 * one for name, one in wanted.items()})


# ---- loops


def net_and_formula() -> tuple[nn.Sequential, Callable[..., Callable[[Any], Tensor]]]:
    net = nn.Sequential(nn.Linear(8, D), nn.Tanh(), nn.Linear(D, D), nn.Tanh(), nn.Linear(D, C))

    def formula(fed: Fed, x: Tensor, y: Tensor) -> Callable[[Any], Tensor]:
        def of(n: Any) -> Tensor:
            h1 = n[:2](x.double())
            h2 = n[2:4](h1.detach())
            out = n[4](h2.detach())
            e = softmax_error(out, y)
            return driven([(h1, fed(e)), (h2, fed(e))], out, e)

        return of

    return net, formula


def test_batches_that_are_dictionaries() -> None:
    """What a DataLoader collates, by name into the net; so for plan and validate."""
    layers, formula = net_and_formula()
    net = Net(lambda n, *, pixels, labels: {"loss": cross_entropy(n.net(pixels), labels)}, net=layers)
    samples = [{"pixels": x, "labels": y} for x, y in zip(normal(B, 8), labels(B), strict=True)]
    loader: DataLoader[Any] = DataLoader(samples, batch_size=B)  # type: ignore[arg-type]  # a list will do
    (batch,) = loader
    after, error_at = ["net.1", "net.3"], "net"
    assert not validate(net, after=after, error_at=error_at, example=batch).findings
    with attach(net, after=after, error_at=error_at, **REAL) as feedback_:
        assert feedback_.plan(**batch).error_shape == (B, C)
        torch.autograd.backward(net(**batch)["loss"])
        wanted = by_hand(layers, formula(fed_by(net), normal(B, 8), labels(B)))
        assert_close(gradients(layers), wanted)


def test_two_adversaries() -> None:
    """Both attached. The generator's error is what the judge's first block sends down from its feedback."""
    make, judge = nn.Sequential(*lin(3), nn.Linear(D, 8)), nn.Sequential(*lin(8, 9), nn.Linear(9, 2))
    noise, real = normal(B, 3), normal(B, 8, seed=9)
    yes, no = torch.ones(B, dtype=torch.long), torch.zeros(B, dtype=torch.long)

    def hidden_and_out(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        h = net[:2](x)
        return h, net[2](h.detach())

    with attach(make, after="1", **REAL), attach(judge, after="1", **REAL):
        fake = make(noise)
        torch.autograd.backward(cross_entropy(judge(real), yes) + cross_entropy(judge(fake.detach()), no))
        fed_judge = fed_by(judge)

        def of_judge(n: Any) -> Tensor:
            total = torch.zeros(())
            for x, y in ((real.double(), yes), (fake.detach().double(), no)):
                h, out = hidden_and_out(n, x)
                e = softmax_error(out, y)
                total = total + driven([(h, fed_judge(e, 9))], out, e)
            return total

        assert_close(gradients(judge), by_hand(judge, of_judge))
        torch.autograd.backward(cross_entropy(judge(fake), yes))
        fed_make = fed_by(make)
        twin_of_judge: Any = copy.deepcopy(judge).double()
        feedback_of(twin_of_judge).detach()

        def of_make(n: Any) -> Tensor:
            h, out = hidden_and_out(n, noise.double())
            given = out.detach().requires_grad_()
            inner, verdict = hidden_and_out(twin_of_judge, given)
            share = fed_judge(softmax_error(verdict, yes), 9)
            (e,) = torch.autograd.grad((inner * share.detach()).sum(), given)
            return driven([(h, fed_make(e))], out, e)

        assert_close(gradients(make), by_hand(make, of_make))


def test_clipping_averaging_and_two_step_sharpness() -> None:
    """SAM: the gradient at weights moved along the first gradient, clipped; the average is a copy that trains too."""
    net, formula = net_and_formula()
    x, y = normal(B, 8), labels(B)
    with attach(net, after=nn.Tanh, **REAL) as feedback_:
        average = AveragedModel(net)
        torch.autograd.backward(cross_entropy(net(x), y))
        clip_grad_norm_(net.parameters(), 0.05)
        assert float(torch.stack([p.grad.norm() for p in net.parameters() if p.grad is not None]).norm()) <= 0.0501
        moves = [0.3 * p.grad for p in net.parameters() if p.grad is not None]
        with torch.no_grad():
            for p, move in zip(net.parameters(), moves, strict=True):
                p.add_(move)
        net.zero_grad()
        torch.autograd.backward(cross_entropy(net(x), y))
        assert_close(gradients(net), by_hand(net, formula(fed_by(net), x, y)))
        average.update_parameters(net)
        torch.autograd.backward(cross_entropy(average(x), y))
        assert_close(gradients(average.module), by_hand(average.module, formula(fed_by(net), x, y)))
        assert feedback_of(average.module).device is feedback_.device


def test_a_second_derivative_is_refused_and_had_while_paused() -> None:
    """A gradient penalty: through the projected error it would be wrong in silence."""
    net, _ = net_and_formula()
    plain = copy.deepcopy(net)
    x, y = normal(B, 8).requires_grad_(), labels(B)

    def penalty(net: nn.Module) -> Tensor:
        (slope,) = torch.autograd.grad(cross_entropy(net(x), y), x, create_graph=True)
        return slope.square().sum()

    with attach(net, after=nn.Tanh, **REAL) as feedback_:
        value = penalty(net)
        with pytest.raises(FeedbackError, match=r"second derivative .* feedback\.paused\(\)"):
            torch.autograd.backward(value)
        net.zero_grad()
        with feedback_.paused():
            torch.autograd.backward(penalty(net))
    torch.autograd.backward(penalty(plain))
    assert_close(gradients(net), gradients(plain), relative=0)


@pytest.mark.parametrize("before", [False, True])
def test_a_second_loss_on_a_hidden_tensor(before: bool) -> None:
    """What a point passes on carries nothing down; what was there before it does, to the last point below."""

    def run(n: Any, x: Tensor) -> Any:
        hidden = n.a(x)
        h = feedback_point(hidden, "middle")
        return {"hidden": hidden if before else h, "logits": feedback_tap(n.out(h))}

    x, y = normal(B, 8), labels(B)
    net = Net(run, a=lin(8), out=nn.Linear(D, C))
    findings = validate(net, example=x).findings
    assert [(one.code, one.module) for one in findings] == ([] if before else [("output-cut-off", "middle")])
    with attach(net, **REAL):
        given = net(x)
        torch.autograd.backward(cross_entropy(given["logits"], y) + 3 * given["hidden"].square().sum())
        found = gradients(net)
        fed = fed_by(net)

    def formula(n: Any) -> Tensor:
        h = n.a(x.double())
        out = n.out(h.detach())
        e = softmax_error(out, y)
        return driven([(h, fed(e))], out, e) + (3 * h.square().sum() if before else 0)

    assert_close(found, by_hand(net, formula))
