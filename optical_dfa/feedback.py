"""The feedback of a net: hooks that insert the token tap, and what the user asks of them."""

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args
from weakref import WeakSet

import torch
from torch import Tensor, nn

from optical_dfa.audit import Audit, Reached, leaves, make_audit
from optical_dfa.devices import ProjectionDevice, open_device
from optical_dfa.encode import Ternarize
from optical_dfa.errors import FeedbackError
from optical_dfa.projection import NonFinite, Projector
from optical_dfa.tap import Branch, Layout, Tap, check_shapes, feature_dim, outputs_needed

Mode = Literal["dfa", "bp", "shallow"]


@dataclass
class _Call:
    """One running forward of an attached net."""

    feedback: "Feedback"
    tokens: list[tuple[str, Tensor]] = field(default_factory=list)
    """Tokens that wait for the next Tap, with the names of their points."""
    fired: set[str] = field(default_factory=set)
    last: Tensor | None = None
    """What the last point passed on."""
    tapped: bool = False


# Open calls of this thread, innermost last; None for a call that is not to be touched. Not on the Feedback: a shared
# list loses tokens across threads, replicas and exceptions (measured).
_open_calls = threading.local()


def _calls() -> list[_Call | None]:
    if not hasattr(_open_calls, "stack"):
        _open_calls.stack = []
    stack: list[_Call | None] = _open_calls.stack
    return stack


_attached: WeakSet[nn.Module] = WeakSet()


def is_point(module: nn.Module) -> bool:
    """Whether the module is a feedback point already."""
    return module in _attached


@dataclass(frozen=True)
class Plan:
    """What a training step will ask of the device; from `Feedback.plan`."""

    points: Mapping[str, tuple[int, ...]]
    """Shape of the output of each feedback point."""
    error_shape: tuple[int, ...]
    """Shape of the output that carries the error."""
    vectors_per_step: int
    max_frames_per_step: int
    """Frames if no half of a vector is dark, dark ones are skipped; with probes and marks, their mean number."""
    n_inputs: int
    n_outputs: int


class Feedback:
    """The feedback of one net. Made by `attach`.

    Attributes:
        points: names of the feedback points, in the order of `net.named_modules()`.
        mode: `dfa`, `bp` (plain backpropagation) or `shallow` (only what lies above the last point learns).
    """

    def __init__(
        self,
        net: nn.Module,
        points: Mapping[str, nn.Module],
        error_module: nn.Module,
        device: ProjectionDevice | Mapping[str, Any],
        encoder: Ternarize | None,
        layout: Layout,
        nonfinite: NonFinite,
    ) -> None:
        self.points = tuple(points)
        self._net, self._layout, self._mode = net, layout, "dfa"
        self._device_spec = device
        self._owns_device = not isinstance(device, ProjectionDevice)
        self._projector = Projector(self._make_device, encoder, nonfinite)
        self._reached: Reached | None = None
        self._closed = False
        self._planning: list[tuple[str, tuple[int, ...]]] | None = None
        # first, so that a pre-hook of the user that raises finds the call open that `_end` closes
        self._hooks = [net.register_forward_pre_hook(self._begin, prepend=True)]
        for name, module in points.items():
            self._hooks.append(module.register_forward_hook(_Point(self, name)))
            _attached.add(module)
        self._hooks.append(error_module.register_forward_hook(self._tap))
        self._hooks.append(net.register_forward_hook(self._end, always_call=True))
        self._modules = list(points.values())

    # ---- for the user

    @property
    def mode(self) -> Mode:
        """`dfa`, `bp` or `shallow`; applies to the forward passes that follow."""
        return self._mode  # type: ignore[return-value]

    @mode.setter
    def mode(self, mode: Mode) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}; got {mode!r}")
        self._mode = mode

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within the block, forward passes are plain: true backpropagation, input gradients, export."""
        mode, self._mode = self._mode, "bp"
        try:
            yield
        finally:
            self._mode = mode

    @property
    def device(self) -> ProjectionDevice:
        """The device that projects the error.

        Raises:
            FeedbackError: it is sized to the net at the first backward pass or by `plan`; neither has happened yet.
        """
        if self._projector.device is None:
            raise FeedbackError(
                "the device is sized to the net at the first backward pass: run one, or feedback.plan(example), before "
                "asking for it"
            )
        return self._projector.device

    @property
    def sample(self) -> Any:
        """Up to 256 of the most recently displayed vectors, NumPy (vectors, error features); None before the first."""
        return self._projector.sample

    @property
    def nonfinite_rows(self) -> int:
        """Error vectors that held NaN or infinity and were not displayed (with nonfinite="nan")."""
        return self._projector.nonfinite_rows

    def plan(self, *example: Any) -> Plan:
        """Shapes, sizes and frames of a step on such an input; opens the device.

        Runs one forward in evaluation mode without gradients.

        Args:
            example: positional inputs of the net.
        """
        training = {module: module.training for module in self._net.modules()}
        self._planning = []
        try:
            self._net.eval()
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                self._net(*example)
            ran = self._planning
        finally:
            self._planning = None
            for module, mode in training.items():
                module.training = mode
        error = dict(ran)[""]
        points = [(name, shape) for name, shape in ran if name]  # one that runs twice is here twice
        for name, shape in points:
            check_shapes(error, shape, name)
        rows, n_inputs = _rows(error), error[feature_dim(error)]
        n_outputs = outputs_needed([shape[feature_dim(shape)] for _, shape in points], self._layout)
        device = self._projector.require_device(n_inputs, n_outputs)
        return Plan(dict(points), error, rows, math.ceil(device.info.frames(rows)), n_inputs, n_outputs)

    def audit(self) -> Audit:
        """Where the gradient of every parameter comes from.

        Raises:
            FeedbackError: no training forward has run (uncompiled, in mode `dfa`) since the parameters that learn are
                those they are now.
        """
        if self._reached is not None and not self._reached.covers(self._net):
            self._reached = None
        if self._reached is None:
            raise FeedbackError(
                "the audit reads the graph of a training forward: run one (uncompiled, mode 'dfa') first"
            )
        return make_audit(self._net, self._reached)

    def state_dict(self) -> dict[str, Any]:
        """Points, layout, encoder, and the position of encoder and device; plain values only."""
        return {**self._identity(), "mode": self._mode, **self._projector.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was saved.

        Raises:
            FeedbackError: it was saved with other points, layout or encoder. Nothing was changed.
            optical_dfa.devices.FingerprintMismatch: it was saved with another device.
        """
        for key, here in self._identity().items():
            if state[key] != here:
                raise FeedbackError(f"the saved feedback has {key} {state[key]!r}, this one {here!r}: attach it alike")
        self._projector.load_state_dict(state)
        self.mode = state["mode"]

    def detach(self) -> None:
        """Take the feedback off the net; the device stays open."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        for module in self._modules:
            _attached.discard(module)
        self._modules.clear()

    def close(self) -> None:
        """`detach`, and close the device if `attach` opened it."""
        self.detach()
        self._closed = True
        if self._owns_device and self._projector.device is not None:
            self._projector.device.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __reduce_ex__(self, protocol: object) -> str:
        """Refuse copying and pickling: a device is one, and hooks of the copy would act on the original."""
        raise FeedbackError(
            "a net with feedback cannot be copied or pickled: save net.state_dict(), or detach() first and attach the "
            "copy"
        )

    # ---- hooks: they only insert Branch and Tap

    def _begin(self, _net: nn.Module, _args: Any) -> None:
        active = self._planning is not None or (self._mode != "bp" and torch.is_grad_enabled())
        _calls().append(_Call(self) if active else None)

    def _point(self, name: str, h: Any) -> Tensor | None:
        stack = _calls()
        if not stack:
            return self._recompute(name, h)
        call = stack[-1]
        if call is None or call.feedback is not self:
            return None
        _require_tensor(h, f"feedback point {name!r}")
        call.fired.add(name)
        if self._planning is not None:
            self._planning.append((name, tuple(h.shape)))
            return None
        if not torch.is_grad_enabled():
            raise FeedbackError(
                f"feedback point {name!r} ran without gradients inside a forward with gradients, so it would get none: "
                "call torch.utils.checkpoint.checkpoint with use_reentrant=False; leave the point out of after= if its "
                "block is meant to be frozen"
            )
        if self._mode == "dfa":
            call.tokens.append((name, Branch.apply(h)))  # type: ignore[no-untyped-call]
        call.last = h.detach()
        return call.last

    def _recompute(self, name: str, h: Any) -> Tensor | None:
        """A point outside any call: inert, unless checkpointing recomputes it inside a backward.

        The recomputed graph must equal the first one, so `Branch` is inserted again; its token is dropped, because the
        Tap holds that of the first forward.
        """
        if self._mode == "bp" or not torch.is_grad_enabled() or torch._C._current_graph_task_id() == -1:
            return None
        node = torch._C._current_autograd_node()
        if node is not None and "CheckpointFunction" in type(node).__name__:
            raise FeedbackError(
                f"re-entrant checkpointing around feedback point {name!r} would lose its gradient: "
                "call torch.utils.checkpoint.checkpoint with use_reentrant=False"
            )
        if self._mode == "dfa":
            Branch.apply(h)  # type: ignore[no-untyped-call]
        detached: Tensor = h.detach()
        return detached

    def _tap(self, _module: nn.Module, _args: Any, output: Any) -> Tensor | None:
        stack = _calls()
        call = stack[-1] if stack else None
        if call is None or call.feedback is not self:
            return None
        call.tapped = True
        tokens, call.tokens = call.tokens, []
        _require_tensor(output, "the output that carries the error (error_at)")
        if self._planning is not None:
            self._planning.append(("", tuple(output.shape)))
            return None
        if tokens and output is call.last:
            raise FeedbackError(
                f"feedback point {tokens[-1][0]!r} gives the very output that carries the error, so no layer would get "
                "its exact gradient: leave it out of after="
            )
        for name, token in tokens:
            check_shapes(output.shape, token.shape, name)
        if not any(token.requires_grad for _, token in tokens):  # all blocks are frozen: nothing to display
            return None
        if self._reached is None and not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()):
            trainable = frozenset(id(parameter) for parameter in self._net.parameters() if parameter.requires_grad)
            self._reached = Reached(leaves([output]), _leaves_by_name(tokens), trainable)
        tapped: Tensor = Tap.apply(  # type: ignore[no-untyped-call]
            output, self._projector.handle, self._layout, *(token for _, token in tokens)
        )
        return tapped

    def _end(self, _net: nn.Module, _args: Any, output: Any) -> None:
        call = _calls().pop()
        if call is None or output is None:  # None: the forward raised, and its own error is on the way
            return
        silent = [name for name in self.points if name not in call.fired]
        if silent:
            raise FeedbackError(
                f"feedback points {silent} did not run in this forward, so they would get no gradient: "
                "attach only to modules that every forward calls"
            )
        if not call.tapped:
            raise FeedbackError(
                "the module named by error_at did not run in this forward, so no point would get a gradient"
            )
        if call.tokens:
            names = [name for name, _ in call.tokens]
            raise FeedbackError(
                f"feedback points {names} ran after the module named by error_at and would get no gradient"
            )

    # ---- inside

    def _make_device(self, n_inputs: int, n_outputs: int) -> ProjectionDevice:
        if isinstance(self._device_spec, ProjectionDevice):
            return self._device_spec
        if self._closed:
            raise FeedbackError("the feedback is closed: run the backward pass before its close()")
        return open_device(**{"n_inputs": n_inputs, "n_outputs": n_outputs, **self._device_spec})

    def _identity(self) -> dict[str, Any]:
        encoder = self._projector.encoder
        ternarize = (
            None if encoder is None else {"threshold": encoder.threshold, "kind": encoder.kind, "seed": encoder.seed}
        )
        return {"points": list(self.points), "layout": self._layout, "ternarize": ternarize}


class _Point:
    """Forward hook of one feedback point."""

    def __init__(self, feedback: Feedback, name: str) -> None:
        self.feedback, self.name = feedback, name

    def __call__(self, _module: nn.Module, _args: Any, output: Any) -> Tensor | None:
        return self.feedback._point(self.name, output)


def _require_tensor(value: Any, what: str) -> None:
    if not isinstance(value, Tensor):
        raise FeedbackError(
            f"{what} gave a {type(value).__name__}; feedback needs a tensor: name a module that gives one"
        )


def _leaves_by_name(tokens: Sequence[tuple[str, Tensor]]) -> dict[str, frozenset[int]]:
    names = dict.fromkeys(name for name, _ in tokens)
    return {name: leaves([token for other, token in tokens if other == name]) for name in names}


def _rows(shape: Sequence[int]) -> int:
    return torch.Size(shape).numel() // shape[feature_dim(shape)]
