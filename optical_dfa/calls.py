"""The running forwards of attached nets.

Open calls live on a stack of the thread, not on the feedback: a shared list loses tokens across threads, replicas and
exceptions (measured).
"""

import abc
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from optical_dfa.errors import FeedbackError, FeedbackShapeError
from optical_dfa.watch import in_backward

if TYPE_CHECKING:
    from optical_dfa.wiring import Wiring


class Fault(NamedTuple):
    """What is wrong with a forward that is over."""

    code: str
    points: Sequence[str]
    message: str


@dataclass
class Call(abc.ABC):
    """One running forward of an attached net: takes what its points and its output bring."""

    owner: "Wiring"
    """The hooks that opened it."""
    ran: list[str] = field(default_factory=list)
    """Names of the points that ran, in order."""
    waiting: int = 0
    """How many of them wait for the next Tap."""
    tapped: bool = False
    """Whether the error has been seen."""

    def point(self, name: str, h: Tensor) -> Tensor:
        """Take what a point gives; what the next block gets instead."""
        if h.is_complex():
            raise FeedbackError(
                f"feedback point {name!r} gave a {h.dtype} tensor, and feedback is real: choose a point with a real "
                "output, or mark torch.view_as_real of it in the forward with feedback_point"
            )
        if not h.dim():
            raise FeedbackShapeError(
                f"feedback point {name!r} gave a single number, and feedback is a vector for each sample: choose a "
                "point whose output is (samples, features)"
            )
        self.ran.append(name)
        self.waiting += 1
        return self.cut(name, h)

    def tap(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Take the tensors that carry the error; what the loss gets instead."""
        for output in outputs:
            if output.is_complex():
                raise FeedbackError(
                    f"{self.owner.error_name} is {output.dtype}, and feedback is real: return torch.view_as_real of "
                    "it, flattened, or name a real tensor with output= or error_at="
                )
        self.tapped, self.waiting = True, 0
        return self.join(outputs)

    def end(self, output: Any) -> None:
        """Raise what is wrong with the forward that returned `output`."""
        for fault in self.faults():
            raise FeedbackError(fault.message)

    @abc.abstractmethod
    def cut(self, name: str, h: Tensor) -> Tensor:
        """Part of `point`."""

    @abc.abstractmethod
    def join(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Part of `tap`."""

    def faults(self) -> list[Fault]:
        """What is wrong with the forward, now that it is over."""
        silent = [name for name in self.owner.points or () if name not in self.ran]
        late = self.ran[len(self.ran) - self.waiting :]
        error_at = f"the module named by error_at ({self.owner.error_at!r})"
        found = []
        if silent:
            text = (
                f"feedback points {silent} did not run in this forward, so they would get no gradient: attach only to "
                "modules that every forward calls"
            )
            found.append(Fault("point-not-run", silent, text))
        elif not self.ran:
            text = (
                f"no feedback point ran in this forward of {type(self.owner.net).__name__}: mark the ends of its "
                "blocks with optical_dfa.feedback_point(h), or name modules with after="
            )
            found.append(Fault("point-not-run", [], text))
        if not self.tapped:
            text = f"{error_at} did not run in this forward, so no point would get a gradient"
            found.append(Fault("error-not-run", [], text))
        elif late:
            carrier = "what feedback_tap marks" if self.owner.marked_error else error_at
            text = f"feedback points {late} ran after {carrier} and would get no gradient"
            found.append(Fault("point-after-error", late, text))
        return found


class _OpenCalls(threading.local):
    def __init__(self) -> None:
        self.stack: list[Call | None] = []


_open_calls = _OpenCalls()


def open_calls() -> list[Call | None]:
    """Open calls of this thread, innermost last; None for one that is not to be touched."""
    return _open_calls.stack


@contextmanager
def no_open_calls() -> Iterator[None]:
    """Within the block this thread runs no forward: for a backward pass that is started in the midst of one."""
    stack, _open_calls.stack = open_calls(), []
    try:
        yield
    finally:
        _open_calls.stack = stack


def recomputing() -> bool:
    """Whether checkpointing runs a part of a forward again, inside a backward and outside any call."""
    return not open_calls() and torch.is_grad_enabled() and in_backward()


def recompute(name: str, h: Tensor) -> Tensor:
    """What a recomputed point passes on: the recomputed graph must save what the first one saved.

    There is no token here: a token saves nothing, and the Tap holds that of the first forward.

    Raises:
        FeedbackError: under re-entrant checkpointing, whose graph is not the one that the Tap holds.
    """
    node = torch._C._current_autograd_node()
    if node is not None and "CheckpointFunction" in type(node).__name__:
        raise FeedbackError(
            f"re-entrant checkpointing around feedback point {name!r} would lose its gradient: "
            "call torch.utils.checkpoint.checkpoint with use_reentrant=False"
        )
    return h.detach()
