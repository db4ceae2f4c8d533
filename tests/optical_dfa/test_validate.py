"""validate: one finding for each thing that keeps feedback from a parameter, and none for a sound net."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from optical_dfa import Finding, Validation, attach, validate


class Net(nn.Module):
    """8 → 16 → 12 → 5, and a forward of one's own."""

    def __init__(self, run: Callable[[Any, Tensor], Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Sequential(nn.Linear(8, 16), nn.Tanh())
        self.b = nn.Sequential(nn.Linear(16, 12), nn.Tanh())
        self.c = nn.Linear(12, 5)
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.c(self.b(self.a(x))) if self.run is None else self.run(self, x)


X = torch.zeros(3, 8)


def codes(net: nn.Module, example: Any = X, **options: Any) -> list[tuple[str, str, str]]:
    found = validate(net, example=example, **{"after": ["a", "b"], **options})
    return [(one.code, one.severity, one.module) for one in found]


def test_a_sound_net() -> None:
    found = validate(Net(), after=["a", "b"], example=X)
    assert found.findings == ()
    assert found.ok
    assert str(found) == "every parameter that learns gets feedback or its exact gradient"


CASES: list[tuple[str, Callable[[], nn.Module], dict[str, Any], list[tuple[str, str, str]]]] = [
    ("wrapped", lambda: nn.DataParallel(Net()), {}, [("attach", "error", "")]),
    ("no such module", Net, {"after": "block"}, [("attach", "error", "")]),
    ("no marks", Net, {"after": None}, [("point-not-run", "error", "")]),
    ("a point that does not run", lambda: Net(lambda n, x: n.c(n.b(n.a[0](x)))), {}, [("point-not-run", "error", "a")]),
    ("a point that is the output", Net, {"after": ["a", "b", "c"]}, [("point-is-output", "error", "c")]),
    ("points behind the error", Net, {"error_at": "b.0"}, [("point-after-error", "error", "b")]),
    (
        "an error module that does not run",
        lambda: Net(lambda n, x: n.c.weight.sum() + n.b(n.a(x))),
        {"error_at": "c"},
        [("error-not-run", "error", "")],
    ),
    ("an output that is no tensor", lambda: Net(lambda n, x: {"y": n.c(n.b(n.a(x)))}), {}, [("output", "error", "")]),
    ("a loss within", lambda: Net(lambda n, x: n.c(n.b(n.a(x))).sum()), {}, [("shapes", "error", "")]),
    (
        "re-entrant checkpointing",
        lambda: Net(lambda n, x: n.c(n.b(checkpoint(n.a, x.requires_grad_(), use_reentrant=True)))),
        {"example": X.clone()},
        [("point-without-gradient", "error", "a")],
    ),
    (
        "a layer that is not used",
        lambda: Net(lambda n, x: n.c(torch.cat([n.a(x)[:, :12]], 1))),
        {"after": ["a"]},
        [("no-gradient", "warning", f"b.0.{kind}") for kind in ("weight", "bias")],
    ),
    (
        "two layers in a block",
        Net,
        {"after": ["b"]},
        [("backpropagated-inside", "note", "b")],
    ),
    (
        "round a point",
        lambda: Net(lambda n, x: n.c(n.b(n.a(x)) + n.a(x)[:, :12])),
        {"after": ["b"]},
        [
            ("backpropagated-inside", "note", "b"),
            ("round-a-point", "note", "'a.0.weight', 'a.0.bias'"),
        ],
    ),
]


@pytest.mark.parametrize(("net", "options", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_findings(net: Callable[[], nn.Module], options: dict[str, Any], expected: list[tuple[str, str, str]]) -> None:
    assert codes(net(), **options) == expected


def test_a_bottleneck() -> None:
    """Narrower than the error: 16 features are no bottleneck for 5, 4 are (Launay 2019)."""
    net = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 5))
    (found,) = validate(net, after=nn.Tanh, example=X)
    assert (found.code, found.severity, found.module) == ("bottleneck", "warning", "1")
    assert "4 features and the error 5" in found.message


def test_frozen_blocks_and_a_frozen_top() -> None:
    net = Net()
    net.a.requires_grad_(False)
    assert codes(net) == [("nothing-to-learn", "warning", "a")]
    net.c.requires_grad_(False)
    assert codes(net) == [("no-exact-layer", "warning", ""), ("nothing-to-learn", "warning", "a")]


@pytest.mark.parametrize(
    ("run", "x"),
    [
        (lambda n, x: n.c(n.b(n.a(x))), (X,)),
        (lambda n, x: n.c(n.b(n.a(x))), {"x": X}),
    ],
)
def test_examples(run: Any, x: Any) -> None:
    assert codes(Net(run), x) == []


def test_it_leaves_the_net_alone() -> None:
    """Weights, statistics of BatchNorm, gradients, hooks and the random numbers."""
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Tanh(), nn.Linear(16, 5))
    values, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    assert validate(net, after=nn.Tanh, example=X).ok
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, values[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()) == 0
    attach(net, after=nn.Tanh, device="digital").close()


def test_printed_and_as_json() -> None:
    found = Validation((
        Finding("bottleneck", "warning", "1", "has 4 features", "widen it"),
        Finding("round-a-point", "note", "", "goes round", "join"),
    ))  # fmt: skip
    assert str(found).splitlines() == [
        "warning  bottleneck             1: has 4 features",
        "                                widen it",
        "note     round-a-point          goes round",
        "                                join",
    ]
    assert json.loads(json.dumps(found.to_dict()))["findings"][0]["code"] == "bottleneck"
    assert found.ok


def test_what_is_valid_trains_and_what_is_not_raises() -> None:
    """The errors are those of attach and of the first training forward."""
    for _, make, options, expected in CASES:
        arguments = {key: value for key, value in {"after": ["a", "b"], **options}.items() if key != "example"}
        fails = any(severity == "error" for _, severity, _ in expected)
        net = make()
        try:
            with attach(net, device="digital", **arguments):
                net(X.clone())
            raised = False
        except RuntimeError:
            raised = True
        assert raised == fails
