"""The audit: where the gradient of every parameter comes from, read from the graph."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from optical_dfa import Audit, FeedbackError, attach
from optical_dfa.audit import AuditRow


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 5))


def audit_of(net: nn.Module, after: list[str]) -> Audit:
    with attach(net, after=after, device="digital") as feedback:
        net(torch.randn(6, 8))
        return feedback.audit()


def test_the_table_of_a_perceptron() -> None:
    audit = audit_of(make_net(), ["1", "3"])
    assert audit.rows[0] == AuditRow("0.weight", (16, 8), "feedback", ("1",))
    assert audit.rows[-1] == AuditRow("4.bias", (5,), "exact", ())
    assert str(audit).splitlines() == [
        "parameter  shape    gradient",
        "0.weight   16 x 8   feedback at '1'",
        "0.bias     16       feedback at '1'",
        "2.weight   12 x 16  feedback at '3'",
        "2.bias     12       feedback at '3'",
        "4.weight   5 x 12   exact",
        "4.bias     5        exact",
    ]


def test_a_block_of_two_layers_has_one_source() -> None:
    sources = {row.parameter: (row.source, row.points) for row in audit_of(make_net(), ["3"]).rows}
    assert sources == {
        **{f"{layer}.{kind}": ("feedback", ("3",)) for layer in (0, 2) for kind in ("weight", "bias")},
        **{f"4.{kind}": ("exact", ()) for kind in ("weight", "bias")},
    }


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

    net = Net()
    assert str(audit_of(net, ["layers.1", "layers.3"])).splitlines() == [
        "parameter        shape    gradient",
        "gain             scalar   exact",
        "layers.0.weight  16 x 8   feedback at 'layers.1'",
        "layers.0.bias    16       feedback at 'layers.1'",
        "layers.2.weight  12 x 16  frozen",
        "layers.2.bias    12       feedback at 'layers.3'",
        "layers.4.weight  5 x 12   exact",
        "layers.4.bias    5        exact",
        "unused.weight    3 x 2    none",
        "unused.bias      3        none",
    ]


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

    table = str(audit_of(Net(), ["first", "second"])).splitlines()
    assert table[1] == "enter.weight  6 x 8  feedback at 'first' and exact"
    assert table[3] == "twice.weight  6 x 6  feedback at 'first', 'second'"
    assert table[5] == "out.weight    5 x 6  exact"


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
