"""Which call each forward of an attached net gets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from optical_dfa.audit_graph import Reached
from optical_dfa.calls import Call
from optical_dfa.deferral import Deferral
from optical_dfa.errors import FeedbackError
from optical_dfa.forward import TrainingCall
from optical_dfa.plan import PlanCall
from optical_dfa.projection import Projector
from optical_dfa.sharing import Layout
from optical_dfa.watch import TapWatch, in_backward, watching
from optical_dfa.wiring import Wiring

if TYPE_CHECKING:
    from optical_dfa.feedback import Feedback

Mode = Literal["dfa", "bp", "shallow"]


@dataclass(frozen=True)
class Choices:
    """How feedback enters a net; arguments of `attach`."""

    layout: Layout
    scale: float | None
    derivative: bool


class Forwards:
    """Opens the calls of one net, and keeps what they found out.

    Attributes:
        mode: of the forwards that follow.
        planning: call of the one forward of a plan; None otherwise.
        reached: what gradients reach, once a training forward has shown it.
        marked: names of the marked points, as the last forward met them.
        deferral: takes the errors of the forwards that follow; None: they are projected at once.
    """

    def __init__(self, feedback: "Feedback", projector: Projector, choices: Choices) -> None:
        self.feedback, self._projector, self._choices = feedback, projector, choices
        self.mode: Mode = "dfa"
        self.planning: PlanCall | None = None
        self.reached: Reached | None = None
        self.marked: tuple[str, ...] = ()
        self.deferral: Deferral | None = None
        self._last_watch: TapWatch | None = None

    @property
    def feeding(self) -> bool:
        """Whether forwards with gradients are cut at the points."""
        return self.mode != "bp"

    def open_call(self, wiring: Wiring) -> Call | None:
        """A call for a forward that begins; None to leave it alone.

        Raises:
            FeedbackError: the backward pass of the forward before went round the Tap, or it cannot be deferred.
        """
        if self.planning is not None:
            return self.planning
        if not (self.feeding and torch.is_grad_enabled()):
            return None
        deferral = self.deferral if self.mode == "dfa" else None
        if deferral is not None:
            deferral.admit()
        watch = None
        if watching():
            watch = TapWatch()
            if not in_backward():  # that of the forward before has ended: not what checkpointing computes again
                last, self._last_watch = self._last_watch, None
                if last is not None and last.bypassed:
                    raise FeedbackError(_bypass_message(wiring, self.marked))
                self._last_watch = watch
        return TrainingCall(
            wiring,
            handle=self._projector.handle,
            layout=self._choices.layout,
            scale=self._choices.scale,
            feeds=self.mode == "dfa",
            reads_graph=self.reached is None,
            watch=watch,
            deferral=deferral,
            on_end=self._over,
        )

    def _over(self, call: TrainingCall) -> None:
        if call.reached is not None:
            self.reached = call.reached
        if call.owner.points is None:
            self.marked = tuple(dict.fromkeys(call.ran))

    def __getstate__(self) -> dict[str, Any]:
        """All but what speaks of the parameters of this very net by their identity, and what waits."""
        return {**vars(self), "reached": None, "deferral": None, "_last_watch": None}


def _bypass_message(wiring: Wiring, marked: Sequence[str]) -> str:
    return (
        f"the last backward pass of {type(wiring.net).__name__} did not come through {wiring.error_name}, so the "
        f"points {list(wiring.points or marked)} got no gradient: compute the loss from that tensor as the net returns "
        "it, or name with output= or error_at=, or mark with feedback_tap, the tensor that the loss is computed from"
    )
