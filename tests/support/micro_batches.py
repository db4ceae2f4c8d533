"""Gradient accumulation on a noisy device, deferred or not: what is compared in the tests of `Feedback.deferred`."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from optical_dfa import Feedback, attach
from optical_dfa.devices import DeviceTimeout, DigitalDevice
from optical_dfa.devices.base import Fields, Usage, Vectors

INPUTS, CLASSES, BATCH = 8, 5, 6
NOISY = {"name": "emulator", "preset": "phase-stepping"}
"""Each of its fields depends on how many frames were shown before, so that a wrong order shows."""

Backward = Callable[[nn.Module, int], None]


class Net(nn.Module):
    """Two blocks and a last layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Sequential(nn.Linear(INPUTS, 16), nn.Tanh())
        self.b = nn.Sequential(nn.Linear(16, 12), nn.Tanh())
        self.c = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Any:
        return self.c(self.b(self.a(x)))


def batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(BATCH, INPUTS, generator=generator), torch.randint(0, CLASSES, (BATCH,), generator=generator)


def backward(net: nn.Module, number: int) -> None:
    """Forward and backward pass of a micro-batch."""
    x, y = batch(number)
    torch.autograd.backward(cross_entropy(net(x), y))


@dataclass
class Found:
    """All that a run leaves behind."""

    gradients: dict[str, bytes | None]
    state: dict[str, Any]
    sample: bytes
    projected: list[bytes]
    """Fields in the order in which `on_projection` told of them."""


def run(
    deferred: bool,
    numbers: Sequence[int] = range(5),
    *,
    net: Callable[[], nn.Module] = Net,
    each: Backward = backward,
    depth: int = 3,
    **options: Any,
) -> Found:
    """Accumulate the gradients of these micro-batches, on a new net and a new device."""
    model = net()
    torch.manual_seed(1)  # of dropout
    with attach(model, **{"after": ["a", "b"], "device": NOISY, **options}) as feedback:
        projected: list[bytes] = []
        feedback.on_projection(lambda projection: projected.append(projection.field.numpy().tobytes()))
        with feedback.deferred(depth) if deferred else nullcontext():
            for number in numbers:
                each(model, number)
        return found(model, feedback, projected)


def found(net: nn.Module, feedback: Feedback, projected: list[bytes]) -> Found:
    return Found(bits(net), feedback.state_dict(), feedback.sample.tobytes(), projected)


def bits(net: nn.Module) -> dict[str, bytes | None]:
    """Gradients as bytes: equal zeros of different sign are not equal here."""
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    return {name: None if one is None else one.contiguous().numpy().tobytes() for name, one in gradients.items()}


class HeldDevice(DigitalDevice):
    """The exact device, which projects only while `free` is set, and fails at the call of the number `fails_at`."""

    def __init__(self, n_inputs: int = CLASSES, n_outputs: int = 16, fails_at: int | None = None) -> None:
        super().__init__(n_inputs=n_inputs, n_outputs=n_outputs)
        self.free = threading.Event()
        self.free.set()
        self.fails_at = fails_at
        self.shown: list[bytes] = []
        self.threads: set[int] = set()

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        assert self.free.wait(60)
        self.threads.add(threading.get_ident())
        if len(self.shown) == self.fails_at:
            self.fails_at = None
            raise DeviceTimeout("no trigger came")
        self.shown.append(vectors.tobytes())
        return super()._project(vectors)


@contextmanager
def held(**options: Any) -> Iterator[tuple[Net, HeldDevice, Feedback]]:
    """A net whose device can be held."""
    net = Net()
    with HeldDevice(**options) as device, attach(net, after=["a", "b"], device=device) as feedback:
        yield net, device, feedback
