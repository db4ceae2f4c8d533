"""A run through a device server ends to the bit as it would have without one, whatever fails on the way."""

import copy
from typing import Any, get_args

import numpy as np
import pytest
import torch
from device_kinds import closed, counts, opened, ternary
from served import ANYWHERE, Keys, Process, free_port, remote, running
from torch import nn

import optical_dfa as odfa
from optical_dfa.devices.fault_injection import FaultKind, FaultPlan, FaultyServer
from optical_dfa.devices.serving import ServedDevice


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optical_dfa.devices.remote_client.BACKOFF_S", (0.01, 0.05))


@pytest.mark.parametrize("kind", get_args(FaultKind))
def test_each_fault_leaves_no_trace(kind: FaultKind, tmp_path: Any) -> None:
    """A third of the requests fail: none of 20 would with a probability of 3e-4."""
    keys = Keys(tmp_path)
    plan = FaultPlan(1 / 3, seed=1, kinds=(kind,), slow_s=0.05)
    server = FaultyServer(ServedDevice(closed("noisy")), ANYWHERE, plan, **keys.of_server)
    with (
        running(server) as address,
        opened("noisy") as local,
        remote(address, patience_s=0.15, **keys.of_client()) as device,
    ):
        for call in range(20):
            vectors = ternary(1 + call % 4)
            np.testing.assert_array_equal(device.project(vectors), local.project(vectors))
        assert counts(device.usage) == counts(local.usage)
    assert server.injected[kind] > 0
    displayed = server.counts["performed"]
    assert displayed == 20  # also where the answer was lost: it is kept


def steps(feedback: Any, net: nn.Module, optimiser: Any, batches: range) -> None:
    generator = torch.Generator()
    for batch in batches:
        x = torch.randn(32, 20, generator=generator.manual_seed(batch))
        y = torch.randint(5, (32,), generator=generator)
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def prepared(device: dict[str, Any]) -> tuple[Any, nn.Module, Any]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 5))
    return odfa.attach(net, after=nn.Tanh, device=device), net, torch.optim.Adam(net.parameters(), 1e-3)


def test_a_training_run_survives_faults_and_kills() -> None:
    """A fifth of the requests fail, the server is killed twice, the client starts anew once, from its saved state."""
    feedback, expected, optimiser = prepared({"name": "emulator", "seed": 3, "backend": "numpy"})
    with feedback:
        steps(feedback, expected, optimiser, range(60))

    options = ("--inputs=5", "--outputs=40", "--set=seed=3", "--set=backend=numpy", "--faults=0.2")
    server = Process("emulator", *options, port=free_port())
    device = {"name": "remote", "address": server.address, "patience_s": 0.3}
    server.start()
    feedback, net, optimiser = prepared(device)
    with feedback:
        for first in (0, 15):
            steps(feedback, net, optimiser, range(first, first + 15))
            server.end()
            server.start()
        steps(feedback, net, optimiser, range(30, 40))
        state = copy.deepcopy([part.state_dict() for part in (feedback, net, optimiser)])
        steps(feedback, net, optimiser, range(40, 43))  # these are lost with the client
    resumed, net, optimiser = prepared(device)
    with resumed:
        for part, saved in zip((resumed, net, optimiser), state, strict=True):
            part.load_state_dict(saved)
        steps(resumed, net, optimiser, range(40, 60))
    server.end()
    for name, weights in expected.state_dict().items():
        assert torch.equal(weights, net.state_dict()[name]), name
