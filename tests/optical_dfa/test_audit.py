"""The audit: where the gradient of every parameter comes from, and which weights it passes through.

What the graph says is compared with what the gradients do: between forward and backward pass the values of one
parameter are changed in the memory that the graph holds. The activations stay those of the forward pass, so a gradient
changes if and only if it passes through that parameter.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from typer.testing import CliRunner

from optical_dfa import Audit, FeedbackError, attach, feedback_point, feedback_tap
from optical_dfa.audit import AuditRow
from optical_dfa.audit_figure import Line, boxes_of
from optical_dfa.cli import app
from optical_dfa.feedback import Feedback


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 5))


def audit_of(net: nn.Module, after: list[str]) -> Audit:
    with attach(net, after=after, device="digital") as feedback:
        net(torch.randn(6, 8))
        return feedback.audit()


def through(audit: Audit) -> dict[str, tuple[str, ...]]:
    return {row.parameter: row.through + row.exact_through for row in audit.rows}


# ---- the graph against the gradients


class Residual(nn.Module):
    """x + W2 tanh(W1 norm(x)), twice; the second block shares W1 with the first."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.up, self.down = nn.Linear(8, 6), nn.Linear(6, 9), nn.ModuleList()
        self.down.extend(nn.Linear(9, 6) for _ in range(2))
        self.norm, self.end = nn.LayerNorm(6), nn.ModuleList(nn.Identity() for _ in range(2))
        self.out = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        for down, end in zip(self.down, self.end, strict=True):
            h = end(h + down(torch.tanh(self.up(self.norm(h)))))
        out: Tensor = self.out(h)
        return out


class Attention(nn.Module):
    """One head written out, with scaled dot products; q, k, v and out have weights of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.start = nn.Linear(8, 6), nn.Tanh()
        self.q, self.v, self.o = (nn.Linear(6, 6) for _ in range(3))
        self.k = nn.Linear(6, 6, bias=False)  # a bias here has the gradient zero: softmax takes no notice of it
        self.end, self.out = nn.Identity(), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.start(self.enter(x))
        attended = scaled_dot_product_attention(self.q(h), self.k(h), self.v(h))
        out: Tensor = self.out(self.end(h + self.o(attended)))
        return out


class Tied(nn.Module):
    """A vocabulary layer that is the embedding transposed; the feedback point lies between the two."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.place = nn.Parameter(torch.randn(11, 6)), nn.Parameter(torch.randn(1, 4, 6))
        self.mix, self.end, self.body = nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.end(self.mix(embedding(x, self.table) + self.place))
        out: Tensor = self.body(h) @ self.table.T
        return out


class Convolutions(nn.Module):
    """Convolution, batch norm, PReLU, a gain for each channel, and a masked weight."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        # a bias before the norm has the gradient zero
        self.first, self.norm, self.act = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.PReLU(4)
        self.gain, self.second = nn.Parameter(torch.rand(4, 1, 1) + 0.5), nn.Conv2d(4, 4, 3, groups=2)
        self.end, self.weight, self.out = nn.Tanh(), nn.Parameter(torch.randn(6, 4)), nn.Linear(6, 5)
        self.register_buffer("mask", (torch.rand(6, 4) > 0.3).double())

    def forward(self, x: Tensor) -> Tensor:
        h = self.end(self.second(self.gain * self.act(self.norm(self.first(x))))).mean((2, 3))
        out: Tensor = self.out(torch.tanh(h @ (self.weight * self.mask).T))
        return out


class Frozen(nn.Module):
    """Frozen layers in a block transport as well: a linear one, a norm, and rows of a packed weight."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.still, self.norm = nn.Linear(8, 6), nn.Linear(6, 6), nn.LayerNorm(6)
        self.packed, self.end, self.out = nn.Parameter(torch.randn(12, 6)), nn.Tanh(), nn.Linear(6, 5)
        self.still.requires_grad_(False)
        self.norm.weight.requires_grad_(False)
        self.packed.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.still(self.enter(x)))
        out: Tensor = self.out(self.end(nn.functional.linear(h, self.packed[6:])))
        return out


class Recurrent(nn.Module):
    """A gated cell, four times, without a point in between: weights are transported through themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.end, self.out = nn.GRUCell(2, 6), nn.Identity(), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), 6, dtype=x.dtype)
        for step in range(4):
            h = self.cell(x[:, 2 * step : 2 * step + 2], h)
        out: Tensor = self.out(self.end(h))
        return out


class Vocabulary(nn.Module):
    """The error is taken at `body`, below the vocabulary layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = make_net()
        self.norm, self.vocabulary = nn.LayerNorm(5), nn.Linear(5, 20)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.vocabulary(self.norm(self.body(x)))}


@dataclass(frozen=True)
class Case:
    net: Callable[[], nn.Module]
    after: list[str]
    x: Callable[[], Tensor] = lambda: torch.randn(7, 8, dtype=torch.float64)
    error_at: str | None = None


CASES: Mapping[str, Case] = {
    "one layer a block": Case(make_net, ["1", "3"]),
    "two layers a block": Case(make_net, ["3"]),
    "the top of several layers": Case(make_net, ["1"]),
    "residual, shared": Case(Residual, ["end.0", "end.1"]),
    "attention": Case(Attention, ["start", "end"], lambda: torch.randn(3, 7, 8, dtype=torch.float64)),
    "vocabulary tied": Case(Tied, ["end"], lambda: torch.randint(0, 11, (3, 4))),
    "convolutions": Case(Convolutions, ["end"], lambda: torch.randn(3, 3, 6, 6, dtype=torch.float64)),
    "frozen in between": Case(Frozen, ["end"]),
    "recurrent": Case(Recurrent, ["end"]),
    "error below the vocabulary": Case(Vocabulary, ["body.1", "body.3"], error_at="body"),
}


def gradients(case: Case, net: nn.Module, changed: Tensor | None, *, feedback: Feedback) -> dict[str, Tensor]:
    """Gradients of a fixed loss, the values of `changed` altered between forward and backward pass."""
    torch.manual_seed(2)
    net.zero_grad()
    output = net(case.x())
    logits = output["logits"] if isinstance(output, dict) else output
    kept = None if changed is None else changed.detach().clone()
    if changed is not None:
        changed.data.mul_(1.5).add_(0.25)  # .data: the graph takes no notice
    # the same error at the tap whatever changes: it is the sign of a fixed direction that is displayed
    (
        logits * torch.randn(logits.shape, dtype=logits.dtype, generator=torch.Generator().manual_seed(3))
    ).sum().backward()
    if changed is not None and kept is not None:
        changed.data.copy_(kept)
    assert feedback.mode == "dfa"
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_gradient_depends_on_exactly_the_weights_that_it_passes_through(case: Case) -> None:
    torch.manual_seed(1)
    net = case.net().double()
    options = {} if case.error_at is None else {"error_at": case.error_at}
    with attach(net, after=case.after, device="digital", ternarize=None, **options) as feedback:  # type: ignore[arg-type]
        before = gradients(case, net, None, feedback=feedback)
        audit = feedback.audit()
        found: dict[str, set[str]] = {name: set() for name in before}
        for changed, parameter in net.named_parameters():
            after = gradients(case, net, parameter, feedback=feedback)
            for name, gradient in after.items():
                if not torch.allclose(gradient, before[name], rtol=1e-9, atol=1e-12):
                    found[name].add(changed)
    above = set(audit.error_through)
    said = {
        row.parameter: set(row.through + row.exact_through) | (above if row.points else set())
        for row in audit.rows
        if row.source in ("feedback", "backpropagated", "exact")
    }
    assert said == found
    assert sum(map(len, said.values())) > 0 or case.after == ["1", "3"]


def test_weights_computed_from_parameters() -> None:
    """A low-rank update passes through its other factor; what comes below passes through both, and norm parameters."""

    class Reparametrised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Linear(8, 6)
            self.a, self.b = nn.Parameter(torch.randn(6, 2)), nn.Parameter(torch.randn(2, 6))
            self.weight_norm = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
            self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)).eval()
            self.end, self.out = nn.Tanh(), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.enter(x)) @ (torch.eye(6) + self.a @ self.b)
            out: Tensor = self.out(self.end(self.spectral(self.weight_norm(h))))
            return out

    torch.manual_seed(0)
    found = through(audit_of(Reparametrised(), ["end"]))
    gain, direction, spectral = (
        *(f"weight_norm.parametrizations.weight.original{number}" for number in (0, 1)),
        "spectral.parametrizations.weight.original",
    )
    assert set(found["enter.weight"]) == {"a", "b", gain, direction, spectral}
    assert set(found["a"]) == {"b", gain, direction, spectral}
    assert set(found["b"]) == {"a", gain, direction, spectral}
    assert set(found["weight_norm.bias"]) == {spectral}
    assert set(found[direction]) == {gain, spectral}
    assert found["spectral.bias"] == ()


def test_the_weights_of_a_tied_vocabulary_and_of_attention_by_name() -> None:
    torch.manual_seed(0)
    net = Attention()
    with attach(net, after=["start", "end"], device="digital") as feedback:
        net(torch.randn(3, 7, 8))
        found = through(feedback.audit())
    assert {name: found[f"{name}.weight"] for name in "qkvo"} == {
        **dict.fromkeys("qkv", ("o.weight",)),
        "o": (),
    }
    tied = Tied()
    with attach(tied, after=["end"], device="digital") as feedback:
        tied(torch.randint(0, 11, (3, 4)))
        rows = {row.parameter: row for row in feedback.audit().rows}
    assert rows["table"] == AuditRow("table", (11, 6), "exact", ("end",), ("mix.weight",), ())
    assert rows["body.weight"].exact_through == ("table",)
    assert rows["place"] == AuditRow("place", (1, 4, 6), "backpropagated", ("end",), ("mix.weight",))


# ---- the table


def test_the_table_of_a_perceptron() -> None:
    audit = audit_of(make_net(), ["1", "3"])
    assert audit.rows[0] == AuditRow("0.weight", (16, 8), "feedback", ("1",))
    assert audit.rows[-1] == AuditRow("4.bias", (5,), "exact")
    assert str(audit).splitlines() == [
        "Sequential: 2 feedback points, device digital, layout shared",
        "",
        "feedback at '1'",
        "  0.weight, bias  16 x 8, 16  feedback",
        "",
        "feedback at '3'",
        "  2.weight, bias  12 x 16, 12  feedback",
        "",
        "exact, from the output",
        "  4.weight, bias  5 x 12, 5  exact",
        "",
        "gradient                                  tensors           values       %",
        "feedback, no weight in between                  4              348    84.3",
        "exact, from the output                          2               65    15.7",
    ]


def test_a_block_of_two_layers_names_the_weight_in_between() -> None:
    lines = str(audit_of(make_net(), ["3"])).splitlines()
    assert "  0.weight, bias  16 x 8, 16   backpropagated, through 2.weight" in lines
    assert "  2.weight, bias  12 x 16, 12  feedback" in lines


def test_blocks_that_are_alike_are_written_once() -> None:
    layers = [layer for _ in range(40) for layer in (nn.Linear(8, 8), nn.Tanh())]
    net = nn.Sequential(*layers, nn.Linear(8, 5))
    lines = str(audit_of(net, [str(place) for place in range(1, 80, 2)])).splitlines()
    assert "  the same in 39 more: '3', '5' … '79'" in lines
    assert len(lines) < 15


def test_the_table_is_at_most_100_columns_wide() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    net = nn.Sequential()
    net.add_module("a_module_with_quite_a_long_name_indeed", nn.Sequential(layer, nn.Linear(8, 8)))
    net.add_module("head", nn.Linear(8, 5))
    with attach(net, after=["a_module_with_quite_a_long_name_indeed"], device="digital") as feedback:
        net(torch.randn(2, 3, 8))
        lines = str(feedback.audit()).splitlines()
    assert max(map(len, lines)) <= 100
    assert "feedback at 'a_module_with_quite_a_long_name_indeed'  (.x stands for" in "\n".join(lines)


def test_frozen_and_unused_parameters() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = make_net()
            self.layers[2].weight.requires_grad_(False)
            self.unused = nn.Linear(2, 3)
            self.gain = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.gain * self.layers(x)
            return out

    audit = audit_of(Net(), ["layers.1", "layers.3"])
    assert {row.parameter: (row.source, row.points) for row in audit.rows} == {
        "gain": ("exact", ()),
        "layers.0.weight": ("feedback", ("layers.1",)),
        "layers.0.bias": ("feedback", ("layers.1",)),
        "layers.2.weight": ("frozen", ()),
        "layers.2.bias": ("feedback", ("layers.3",)),
        "layers.4.weight": ("exact", ()),
        "layers.4.bias": ("exact", ()),
        "unused.weight": ("none", ()),
        "unused.bias": ("none", ()),
    }
    assert audit.totals() == {
        "feedback": (3, 128 + 16 + 12),
        "backpropagated": (0, 0),
        "exact": (3, 1 + 60 + 5),
        "frozen": (1, 192),
        "none": (2, 9),
    }


def test_a_shared_layer_and_one_that_goes_round_a_point() -> None:
    """What two points reach is driven by both; what the output reaches past a point is backpropagated too."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.enter, self.twice, self.out = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 5)
            self.first, self.second = nn.Tanh(), nn.Tanh()

        def forward(self, x: Tensor) -> Tensor:
            h = self.enter(x)
            out: Tensor = self.out(self.second(self.twice(self.first(self.twice(h)))) + h)
            return out

    audit = audit_of(Net(), ["first", "second"])
    rows = {row.parameter: row for row in audit.rows}
    assert rows["enter.weight"] == AuditRow(
        "enter.weight", (6, 8), "exact", ("first",), ("twice.weight",), ("out.weight",)
    )
    assert rows["twice.weight"] == AuditRow("twice.weight", (6, 6), "feedback", ("first", "second"))
    lines = str(audit).splitlines()
    assert "feedback at 'first', 'second'" in lines
    words = " ".join(" ".join(lines).split())
    assert "exact, through out.weight; and feedback at 'first', through twice.weight" in words


def test_the_error_below_a_vocabulary_layer_is_transport_of_every_point() -> None:
    torch.manual_seed(0)
    net = Vocabulary()
    with attach(net, after=["body.1", "body.3"], device="digital", error_at="body") as feedback:
        net(torch.randn(6, 8))
        audit = feedback.audit()
    assert audit.error_through == ("norm.weight", "vocabulary.weight")
    sources = {row.parameter: (row.source, row.exact_through) for row in audit.rows}
    assert sources["vocabulary.weight"] == ("exact", ())
    assert sources["norm.bias"] == ("exact", ("vocabulary.weight",))
    assert sources["body.4.weight"] == ("exact", ("norm.weight", "vocabulary.weight"))
    assert "The error itself passes through norm.weight, vocabulary.weight before it is projected" in str(audit)


def test_marked_points_and_two_taps_of_one_forward() -> None:
    """Each error drives the points since the one before; the second tap's error passes through the weights above it."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.side = nn.Linear(8, 6), nn.Linear(6, 5)
            self.inner, self.second, self.out, self.last = (nn.Linear(6, 6) for _ in range(4))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = feedback_point(torch.tanh(self.first(x)), "one")
            side = feedback_tap(self.side(h))
            h = feedback_point(torch.tanh(self.second(torch.tanh(self.inner(h)))), "two")
            return side, self.last(feedback_tap(self.out(h)))

    torch.manual_seed(0)
    net = Net()
    with attach(net, device="digital") as feedback:
        net(torch.randn(3, 8))
        rows = {row.parameter: row for row in feedback.audit().rows}
        assert feedback.audit().error_through == ("last.weight",)
    assert rows["first.weight"] == AuditRow("first.weight", (6, 8), "feedback", ("one",))
    assert rows["inner.weight"] == AuditRow("inner.weight", (6, 6), "backpropagated", ("two",), ("second.weight",))
    assert rows["second.weight"] == AuditRow("second.weight", (6, 6), "feedback", ("two",))
    assert rows["last.weight"] == AuditRow("last.weight", (6, 6), "exact")
    assert {rows[name].source for name in ("side.weight", "out.weight")} == {"exact"}


def test_frozen_weights_in_a_checkpointed_block_are_counted_as_unseen() -> None:
    """Reading must not unpack what checkpointing packed: that would run the block again."""
    runs = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.still, self.end, self.out = nn.Linear(8, 6), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 5)
            self.still.weight.requires_grad_(False)

        def block(self, x: Tensor) -> Tensor:
            runs.append(1)
            out: Tensor = self.end(self.still(self.enter(x)))
            return out

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.out(checkpoint(self.block, x, use_reentrant=False))
            return out

    audit = audit_of(Net(), ["end"])
    assert len(runs) == 1
    assert audit.unseen > 0
    assert f"{audit.unseen} operations keep their operands elsewhere" in str(audit)


def test_the_audit_as_json() -> None:
    audit = audit_of(make_net(), ["3"])
    read = json.loads(audit.to_json())
    assert read == audit.to_dict()
    assert read["parameters"][0] == {
        "parameter": "0.weight",
        "shape": [16, 8],
        "source": "backpropagated",
        "points": ["3"],
        "through": ["2.weight"],
        "exact_through": [],
    }
    assert read["totals"]["backpropagated"] == {"tensors": 2, "values": 144}
    assert read["kinds"] == {"0": "Linear", "2": "Linear", "3": "Tanh", "4": "Linear"}
    assert (read["device"], read["layout"], read["points"]) == ("digital", "shared", ["3"])


# ---- when it can be had


def test_the_audit_is_what_the_gradients_say() -> None:
    """A parameter whose source is feedback alone gets no gradient in mode shallow; one that is exact does."""
    net = make_net()
    x, y = torch.randn(6, 8), torch.randint(0, 5, (6,))
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        net(x)
        feedback.mode = "shallow"
        torch.autograd.backward(cross_entropy(net(x), y))
        for row in feedback.audit().rows:
            assert (net.get_parameter(row.parameter).grad is None) == (row.source == "feedback")


def test_an_audit_needs_a_training_forward() -> None:
    net, x = make_net(), torch.randn(6, 8)
    with attach(net, after=nn.Tanh, device="digital") as feedback:
        feedback.plan(x)
        with torch.no_grad():
            net(x)
        for mode in ("bp", "shallow"):
            feedback.mode = mode
            net(x)
        with pytest.raises(FeedbackError, match="reads the graph of a training forward: run one"):
            feedback.audit()
        feedback.mode = "dfa"
        net(x)
        assert len(feedback.audit().rows) == 6


# ---- the diagram


def chain(n_blocks: int) -> nn.Sequential:
    """Blocks of two layers each, then the top."""
    layers = [layer for _ in range(2 * n_blocks) for layer in (nn.Linear(8, 8), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(8, 5))


@pytest.mark.parametrize("n_blocks", [3, 12])
def test_the_diagram_has_every_block_and_module(n_blocks: int, tmp_path: Path) -> None:
    points = [str(4 * block + 3) for block in range(n_blocks)]
    audit = audit_of(chain(n_blocks), points)
    boxes = boxes_of(audit)
    assert [box.title for box in boxes] == [
        "exact gradient, from the output",
        *(f"feedback at {point} (Tanh)" for point in reversed(points)),
    ]
    assert boxes[-1].lines == (
        Line("2  Linear", "72", "feedback"),
        Line("0  Linear  through 2.weight", "72", "backpropagated"),
    )
    audit.draw(tmp_path / "net.svg")
    audit.draw(tmp_path / "net.png")
    drawn = (tmp_path / "net.svg").read_text("utf-8")
    assert drawn.count("<!-- feedback at ") == n_blocks
    assert (tmp_path / "net.png").read_bytes().startswith(b"\x89PNG")


def test_the_diagram_of_a_deep_net_leaves_out_blocks_that_are_alike() -> None:
    boxes = boxes_of(audit_of(chain(60), [str(4 * block + 3) for block in range(60)]))
    assert [box.title for box in boxes] == [
        "exact gradient, from the output",
        "feedback at 239 (Tanh)",
        "58 more blocks alike, each with its feedback",
        "feedback at 3 (Tanh)",
    ]


def test_large_blocks_are_summed_up_in_the_diagram() -> None:
    block = [layer for _ in range(30) for layer in (nn.Linear(8, 8), nn.Tanh())]
    boxes = boxes_of(audit_of(nn.Sequential(*block, nn.Linear(8, 5)), ["59"]))
    assert boxes[1].lines == (
        Line("1 module: feedback", "72", "feedback"),
        Line("29 modules: feedback, backpropagated inside the block", "2,088", "backpropagated"),
    )


def test_a_diagram_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"net\.bmp: a diagram can be written as \.svg, \.png, \.pdf"):
        audit_of(make_net(), ["1"]).draw(tmp_path / "net.bmp")


# ---- the command


def test_the_command_prints_the_table_and_writes_the_files(tmp_path: Path) -> None:
    config = tmp_path / "net.yaml"
    config.write_text("model: {hidden: [32, 16]}\ndevice: digital\n")
    done = CliRunner().invoke(app, ["audit", str(config), "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "  2.weight, bias  16 x 32, 16  feedback" in done.output.splitlines()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["audit.json", "audit.png", "audit.svg"]
    read = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert read["totals"]["feedback"] == {"tensors": 4, "values": 64 * 32 + 32 + 32 * 16 + 16}


def test_the_command_refuses_a_method_without_feedback(tmp_path: Path) -> None:
    config = tmp_path / "net.yaml"
    config.write_text("training: {method: bp}\n")
    done = CliRunner().invoke(app, ["audit", str(config)])
    assert done.exit_code == 2
    assert "training.method is 'bp', which has no feedback to audit" in done.output
