"""The feedback of a net: what the user asks of it."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from optical_dfa.audit import Audit, make_audit
from optical_dfa.audit_graph import Reached
from optical_dfa.deferral import Deferral
from optical_dfa.devices import ProjectionDevice
from optical_dfa.errors import FeedbackError
from optical_dfa.forwards import Choices, Forwards
from optical_dfa.forwards import Mode as Mode  # part of the interface of Feedback
from optical_dfa.plan import Plan, PlanCall
from optical_dfa.projection import Projection, Projector
from optical_dfa.structures import Selector
from optical_dfa.wiring import Wiring, wirings_of

if TYPE_CHECKING:
    from optical_dfa.alignment import Alignment, AlignmentMonitor

Driven = Literal["feedback", "exact"]


class Feedback:
    """The feedback of one net. Made by `attach`.

    A deep copy of the net has a feedback of its own, `feedback_of(copy)`, on the same device. Pickled with the net, the
    feedback remembers name, options and position of its device and opens it anew when it first projects. Observers
    (`on_projection`) are neither copied nor pickled.

    Attributes:
        mode: `dfa`, `bp` (plain backpropagation) or `shallow` (only what lies above the last point learns).
    """

    def __init__(
        self,
        net: nn.Module,
        points: Mapping[str, nn.Module] | None,
        error_module: nn.Module | None,
        selectors: Sequence[Selector],
        projector: Projector,
        choices: Choices,
    ) -> None:
        self._net, self._projector, self._choices = net, projector, choices
        self._owns_device = True
        self._forwards = Forwards(self, projector, choices)
        self._wiring = Wiring(self._forwards, net, points, error_module, selectors, not choices.derivative)

    # ---- for the user

    @property
    def points(self) -> tuple[str, ...]:
        """Names of the points, in the order of `net.named_modules()`; marked ones as the last forward met them."""
        return self._forwards.marked if self._wiring.points is None else self._wiring.points

    @property
    def mode(self) -> Mode:
        """`dfa`, `bp` or `shallow`; applies to the forward passes that follow."""
        return self._forwards.mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}; got {mode!r}")
        self._forwards.mode = mode

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within the block, forward passes are plain: true backpropagation, input gradients, export."""
        mode, self._forwards.mode = self._forwards.mode, "bp"
        try:
            yield
        finally:
            self._forwards.mode = mode

    @contextmanager
    def deferred(self, depth: int = 3) -> Iterator[None]:
        """Within the block, forward passes go on while the device projects the errors of those before.

        For gradient accumulation: `backward()` hands the error of a micro-batch to the device and returns; the layers
        of the net get their gradients when the projection is there, at the latest when the block ends, in the order in
        which they would have come. The gradients are those of a run without `deferred`, bit for bit. What cannot be
        so raises.

        Args:
            depth: how many micro-batches are under way at a time, 2 or more. The graph of each is held, so that memory
                for activations is up to `depth` times that of one; a forward first settles the oldest where there
                would be more.

        Raises:
            FeedbackError: deferred already; a net sharded by `fully_shard`; in the block, a forward that is compiled or
                runs in another thread, or under DDP outside `no_sync()`; `step()` of an optimiser while micro-batches
                wait; gradients that others change while they do.
            optical_dfa.devices.DeviceError: the device failed; at the forward or at the end of the block that needed
                its answer. What was submitted behind is not displayed, and its gradients are dropped.
        """
        if self._forwards.deferral is not None:
            raise FeedbackError("deferred() is on already: one with block for all micro-batches of a step is enough")
        deferral = Deferral(self._net, self._projector, depth)
        self._forwards.deferral = deferral
        try:
            with deferral:
                yield
        finally:
            self._forwards.deferral = None

    def settle(self) -> None:
        """Wait for the projections that were submitted, and give the layers their gradients; see `deferred`.

        Called for you when the block ends. Does nothing where nothing waits.
        """
        if self._forwards.deferral is not None:
            self._forwards.deferral.settle()

    @property
    def device(self) -> ProjectionDevice:
        """The device that projects the error.

        Raises:
            FeedbackError: it is sized to the net at the first backward pass or by `plan`; neither has happened yet.
        """
        if self._projector.source.device is None:
            raise FeedbackError(
                "the device is sized to the net at the first backward pass: run one, or feedback.plan(example), before "
                "asking for it"
            )
        return self._projector.source.device

    @property
    def sample(self) -> Any:
        """Up to 256 of the most recently displayed vectors, NumPy (vectors, error features); None before the first."""
        return self._projector.sample

    @property
    def nonfinite_rows(self) -> int:
        """Error vectors that held NaN or infinity and were not displayed (with nonfinite="nan")."""
        return self._projector.nonfinite_rows

    def on_projection(self, observer: Callable[[Projection], None]) -> RemovableHandle:
        """Call `observer` with every `Projection`: the error, what was displayed for it, the field, and its SNR.

        It is called in the backward pass, in the thread that runs it, and stops the pass if it raises.

        Returns:
            A handle whose `remove()` takes the observer off; also a context manager.
        """
        handle = RemovableHandle(self._projector.observers)
        self._projector.observers[handle.id] = observer
        return handle

    def alignment(self, every: int = 100, *to: Callable[["Alignment"], object]) -> "AlignmentMonitor":
        """A monitor that measures how well the feedback is aligned with the true gradient.

        Args:
            every: training steps from one measurement to the next.
            to: called with each `Alignment`.
        """
        from optical_dfa.alignment import AlignmentMonitor

        return AlignmentMonitor(self, every, *to)

    def plan(self, *example: Any, **named: Any) -> Plan:
        """Shapes, sizes and frames of a step on such an input; opens the device.

        Runs one forward in evaluation mode without gradients.

        Args:
            example: positional inputs of the net.
            named: inputs of the net by name.
        """
        training = {module: module.training for module in self._net.modules()}
        self._forwards.planning = ran = PlanCall(self._wiring)
        try:
            self._net.eval()
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                self._net(*example, **named)
        finally:
            self._forwards.planning = None
            for module, mode in training.items():
                module.training = mode
        n_inputs, n_outputs, _ = ran.size(self._choices.layout)
        device = self._projector.source.require(n_inputs, n_outputs)
        self._forwards.marked = tuple(dict.fromkeys(ran.ran))
        encoder = self._projector.encoder
        return ran.plan(self._choices.layout, device.info, 1 if encoder is None else encoder.planes)

    def audit(self) -> Audit:
        """Where the gradient of every parameter comes from.

        Raises:
            FeedbackError: no training forward has run (uncompiled, in mode `dfa`) since the parameters that learn are
                those they are now.
        """
        reached = self._known_reached("the audit")
        return make_audit(self._net, reached, self._projector.source.name, self._choices.layout)

    def parameters(self, driven: Driven) -> list[nn.Parameter]:
        """The parameters that learn from feedback alone, or those whose gradient is exact, for an optimiser's groups.

        A parameter that both reach, round a point, is among the exact ones; one that nothing reaches is in neither.

        Args:
            driven: `feedback` or `exact`.

        Raises:
            FeedbackError: no training forward has run, as for `audit`.
        """
        if driven not in get_args(Driven):
            raise ValueError(f"driven must be one of {', '.join(get_args(Driven))}; got {driven!r}")
        reached = self._known_reached("parameters()")
        fed = frozenset().union(*reached.points.values())
        wanted = reached.exact.keys() if driven == "exact" else fed.difference(reached.exact)
        return [
            parameter for parameter in self._net.parameters() if id(parameter) in wanted and parameter.requires_grad
        ]

    def state_dict(self) -> dict[str, Any]:
        """Points, choices, encoder, and the position of encoder and device; plain values only.

        Raises:
            FeedbackError: micro-batches wait for their projection.
        """
        self._require_settled("state_dict()")
        return {**self._identity(), "mode": self._forwards.mode, **self._projector.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was saved.

        Raises:
            FeedbackError: it was saved with other points, choices or encoder, or micro-batches wait for their
                projection. Nothing was changed.
            optical_dfa.devices.FingerprintMismatch: it was saved with another device.
        """
        self._require_settled("load_state_dict()")
        for key, here in self._identity().items():
            if state[key] != here:
                raise FeedbackError(f"the saved feedback has {key} {state[key]!r}, this one {here!r}: attach it alike")
        self._projector.load_state_dict(state)
        self.mode = state["mode"]

    def detach(self) -> None:
        """Take the feedback off the net; the device stays open."""
        self._require_settled("detach() and close()")
        self._wiring.remove()

    def close(self) -> None:
        """`detach`, and close the device if `attach` opened it. The feedback of a copied net leaves it open."""
        self.detach()
        if self._owns_device:
            self._projector.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # ---- inside

    def _require_settled(self, what: str) -> None:
        waiting = 0 if self._forwards.deferral is None else self._forwards.deferral.waiting
        if waiting:
            raise FeedbackError(f"{what} while {waiting} micro-batches wait for their projection: call settle() first")

    def _known_reached(self, what: str) -> Reached:
        if self._forwards.reached is not None and not self._forwards.reached.covers(self._net):
            self._forwards.reached = None
        if self._forwards.reached is None:
            raise FeedbackError(f"{what} reads the graph of a training forward: run one (uncompiled, mode 'dfa') first")
        return self._forwards.reached

    def _identity(self) -> dict[str, Any]:
        encoder = self._projector.encoder
        ternarize = None if encoder is None else asdict(encoder)
        points = None if self._wiring.points is None else list(self._wiring.points)
        return {"points": points, **vars(self._choices), "ternarize": ternarize}

    def __getstate__(self) -> dict[str, Any]:
        self._require_settled("pickling a feedback")
        return vars(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """The feedback of a copied net, on the same device, which stays that of the original."""
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        for name, value in vars(self).items():
            setattr(twin, name, copy.deepcopy(value, memo))
        twin._owns_device = False
        return twin


def feedback_of(net: nn.Module) -> Feedback:
    """The feedback of an attached net, or of a copied or unpickled one.

    Raises:
        FeedbackError: it has none.
    """
    for wiring in wirings_of(net):
        if isinstance(wiring.host, Forwards):
            return wiring.host.feedback
    raise FeedbackError(f"{type(net).__name__} has no feedback: attach() to it first")
