"""`attach`: Direct Feedback Alignment for a net that is otherwise left as it is."""

import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args
from weakref import WeakSet

import torch
from torch import Tensor, nn

from optical_dfa.audit import Audit, Reached, leaves, make_audit
from optical_dfa.devices import ProjectionDevice, check_device_config, open_device
from optical_dfa.encode import Ternarize
from optical_dfa.errors import AttachError, FeedbackError
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
"""Modules that are a feedback point already."""


@dataclass(frozen=True)
class Plan:
    """What a training step will ask of the device; from `Feedback.plan`."""

    points: Mapping[str, tuple[int, ...]]
    """Shape of the output of each feedback point."""
    error_shape: tuple[int, ...]
    """Shape of the output that carries the error."""
    vectors_per_step: int
    max_frames_per_step: int
    """Frames if no half of a vector is dark; dark ones are skipped."""
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
            with torch.no_grad():
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
        return Plan(dict(points), error, rows, rows * device.info.frames_per_vector, n_inputs, n_outputs)

    def audit(self) -> Audit:
        """Where the gradient of every parameter comes from.

        Raises:
            FeedbackError: no training forward has run yet (uncompiled, in mode `dfa`).
        """
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
        detached: Tensor = h.detach()
        return detached

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
        if not tokens:
            return None
        for name, token in tokens:
            check_shapes(output.shape, token.shape, name)
        if self._reached is None and not torch.compiler.is_compiling():
            self._reached = Reached(leaves([output]), _leaves_by_name(tokens))
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


def attach(
    net: nn.Module,
    *,
    after: type[nn.Module] | tuple[type[nn.Module], ...] | Sequence[str],
    device: str | Mapping[str, Any] | ProjectionDevice = "emulator",
    ternarize: Ternarize | None = Ternarize(),  # noqa: B008  # frozen
    layout: Layout = "shared",
    error_at: str | None = None,
    nonfinite: NonFinite = "raise",
) -> Feedback:
    """Train a net by Direct Feedback Alignment: its blocks get the projected error of the output instead of gradients.

    Write the training loop as always. Attach before wrapping (compile, DDP, FSDP).

    Args:
        net: any module whose forward returns one tensor (else: `error_at`). What lies above the last feedback point gets
            its exact gradient; each block between two points is driven by the feedback at its end.
        after: where blocks end: a module class, or a tuple of them, for every such module of the net; or module names.
            A point's features are its last dimension (dimension 1 of 4- and 5-dimensional tensors).
        device: name of a device or a mapping of `name` and options (then it is sized to the net at the first backward or
            by `Feedback.plan`, opened, and closed by `Feedback.close`); or an open device of your own.
        ternarize: encoder of the error; None sends the real error, float32, to a device that accepts it.
        layout: `shared`: every point reads the same outputs of the device, as in the papers; `independent`: its own.
            The scale of the feedback is 1/√(features of the point).
        error_at: name of the module whose output carries the error; None: the net's output.
        nonfinite: `raise` at NaN or infinity in the error; or `nan`: do not display the sample, give it NaN feedback so
            that a GradScaler skips the step, and count it.

    Returns:
        The `Feedback`: keep it, and `close` it.

    Raises:
        AttachError: the net cannot be attached as asked.
        optical_dfa.devices.DeviceError: unknown device or options.
    """
    if layout not in get_args(Layout):
        raise AttachError(f"layout must be one of {', '.join(get_args(Layout))}; got {layout!r}")
    if nonfinite not in get_args(NonFinite):
        raise AttachError(f"nonfinite must be one of {', '.join(get_args(NonFinite))}; got {nonfinite!r}")
    _refuse_wrapped(net)
    modules = dict(net.named_modules())
    points = _find_points(modules, after)
    if error_at is not None and error_at not in modules:
        raise AttachError(f"error_at={error_at!r} is not a module of the net; its modules: {_some(modules)}")
    if error_at in points:
        raise AttachError(f"{error_at!r} cannot both carry the error and be a feedback point: leave it out of after=")
    spec = _check_device(device, ternarize)
    _reset_compiler()
    return Feedback(net, points, modules[error_at or ""], spec, ternarize, layout, nonfinite)


def _find_points(
    modules: Mapping[str, nn.Module], after: type[nn.Module] | tuple[type[nn.Module], ...] | Sequence[str]
) -> dict[str, nn.Module]:
    if isinstance(after, str):
        raise AttachError(
            f"after={after!r} must be a list of names, a module class or a tuple of them: write [{after!r}]"
        )
    if not isinstance(after, type | Iterable):
        raise AttachError(f"after={after!r} must be a list of names, a module class or a tuple of them")
    wanted = (after,) if isinstance(after, type) else tuple(after)
    if wanted and all(isinstance(kind, type) for kind in wanted):
        points = {name: module for name, module in modules.items() if name and isinstance(module, wanted)}  # type: ignore[arg-type]
        if not points:
            raise AttachError(f"after={after!r}: the net has no such module; its modules: {_some(modules)}")
    else:
        unknown = [name for name in wanted if name not in modules or not name]
        if unknown or not wanted:
            raise AttachError(f"after={list(wanted)!r}: no modules {unknown}; the net's modules: {_some(modules)}")
        points = {name: module for name, module in modules.items() if name in wanted}
    for name, module in points.items():
        if module in _attached:
            raise AttachError(f"module {name!r} has feedback already: close() the other feedback first")
    return points


def _check_device(
    device: str | Mapping[str, Any] | ProjectionDevice, ternarize: Ternarize | None
) -> ProjectionDevice | Mapping[str, Any]:
    spec = {"name": device} if isinstance(device, str) else device
    if isinstance(spec, ProjectionDevice):
        info = spec.info
    elif isinstance(spec, Mapping) and isinstance(spec.get("name"), str):
        info = check_device_config(**spec)
    else:
        raise AttachError(f"device={device!r} must be a name, an open device, or a mapping with a 'name'")
    if not info.linear:
        raise AttachError(f"device {info.name!r} is not linear: feedback needs one that is")
    if ternarize is None and not info.accepts_real:
        raise AttachError(f"device {info.name!r} takes ternary vectors only: give ternarize=Ternarize()")
    return spec


def _refuse_wrapped(net: nn.Module) -> None:
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    if isinstance(net, wrappers) or hasattr(net, "_orig_mod") or hasattr(net, "_fsdp_wrapped_module"):
        raise AttachError(f"{type(net).__name__} wraps the net: attach to the net itself first, and wrap it afterwards")


def _reset_compiler() -> None:
    """A net compiled before it was attached would go on without feedback (measured): forget compiled code."""
    import torch._dynamo  # noqa: PLC0415  # costs a second; torch's optimisers import it anyway

    if torch._dynamo.convert_frame.output_codes.seen:  # the public counters of frames miss fullgraph=True
        warnings.warn("attach resets torch.compile: code compiled so far knows nothing of the feedback", stacklevel=3)
        torch._dynamo.reset()


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


def _some(modules: Mapping[str, nn.Module]) -> str:
    names = [name for name in modules if name]
    return ", ".join(map(repr, names[:20])) + (" …" if len(names) > 20 else "")
