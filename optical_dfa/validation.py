"""`validate`: what of a net will not get feedback, and how to mend it, before anything is attached."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from optical_dfa.attachment import find_parts
from optical_dfa.audit_graph import leaves, node_name
from optical_dfa.calls import Call
from optical_dfa.errors import AttachError, FeedbackError, FeedbackShapeError
from optical_dfa.points import After, some
from optical_dfa.shapes import check_shapes, feature_dim, joined_shape
from optical_dfa.structures import Selector, map_tensors
from optical_dfa.wiring import Wiring

Severity = Literal["error", "warning", "note"]

REARRANGING = frozenset(("Addmm", "Bmm", "Mm", "Permute", "Transpose", "UnsafeView", "View"))
"""Functions behind which the dimensions of a tensor are other ones, by the name of the node."""


@dataclass(frozen=True)
class Finding:
    """One thing that stands in the way of feedback, or that is worth knowing."""

    code: str
    """What it is, in a word that stays: `no-gradient`, `bottleneck` …; docs/feedback.md lists them."""
    severity: Severity
    """`error`: attach or training would raise. `warning`: it trains, hardly as meant. `note`: it trains."""
    module: str
    """Module or parameter; empty: the net."""
    message: str
    remedy: str


@dataclass(frozen=True)
class Validation:
    """Findings of `validate`, the gravest first; `print` them."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing would raise: there may be warnings and notes."""
        return all(finding.severity != "error" for finding in self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"ok": self.ok, "findings": [asdict(finding) for finding in self.findings]}

    def __str__(self) -> str:
        if not self.findings:
            return "every parameter that learns gets feedback or its exact gradient"
        lines = []
        for one in self.findings:
            where = f"{one.module}: " if one.module else ""
            lines += [f"{one.severity:<8} {one.code:<22} {where}{one.message}", f"{'':<31} {one.remedy}"]
        return "\n".join(lines)


def validate(
    net: nn.Module,
    *,
    example: Any,
    after: After | None = None,
    error_at: str | None = None,
    output: Selector | Sequence[Selector] | None = None,
    derivative: bool = True,
) -> Validation:
    """Say what of a net would not get feedback if it were attached so, and how to mend it.

    Runs one forward, in the mode in which the net is, and leaves weights, buffers, gradients and random numbers as they
    were. Opens no device.

    Args:
        net: a net that is not attached.
        example: an input; a tuple of positional inputs; or a mapping of inputs by name.
        after: as for `attach`, like the arguments that follow.
        error_at: name of the module whose output carries the error.
        output: which tensor of that output.
        derivative: whether feedback is the gradient of a point's output.
    """
    try:
        points, error_module, selectors = find_parts(net, after, error_at, output, derivative)
    except AttachError as error:
        return Validation((Finding("attach", "error", "", str(error), "change the arguments of attach as it says"),))
    trace = _Trace()
    wiring = Wiring(trace, net, points, error_module, selectors, not derivative)
    positional, named = _arguments(example)
    try:
        with _left_alone(net), torch.enable_grad():
            net(*positional, **named)
    except FeedbackShapeError as error:
        return Validation((Finding("shapes", "error", "", str(error), "choose other points, output= or error_at="),))
    except FeedbackError as error:
        return Validation((Finding("output", "error", "", str(error), "see output=, error_at= and feedback_tap"),))
    finally:
        wiring.remove()
    findings = [*trace.findings, *trace.at_end()]
    if all(finding.severity != "error" for finding in findings):
        findings += _of_gradients(net, trace)
    grave = ("error", "warning", "note")
    return Validation(tuple(sorted(findings, key=lambda finding: grave.index(finding.severity))))


@dataclass
class _TraceCall(Call):
    trace: "_Trace" = field(kw_only=True)
    points: list[tuple[str, Tensor]] = field(default_factory=list)
    last: Tensor | None = None

    passed: list[tuple[str, Tensor]] = field(default_factory=list)
    """What the points passed on."""

    def end(self, output: Any) -> None:
        """What is wrong becomes findings."""
        returned: set[int] = set()

        def see(tensor: Tensor) -> Tensor:
            returned.add(id(tensor))
            return tensor

        map_tensors(output, see)
        for name, tensor in self.passed:
            if id(tensor) in returned and all(tensor is not one for one in self.trace.outputs):
                self.trace.add(
                    "output-cut-off", "note", name,
                    "is returned as well, behind the point, where it has no graph: a loss on it teaches nothing below",
                    "if there is one, mark the point with feedback_point, and return the tensor from before it",
                )  # fmt: skip

    def cut(self, name: str, h: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            self.trace.add(
                "point-without-gradient", "error", name, "runs without gradients inside a forward with gradients",
                "call checkpoint with use_reentrant=False; leave a frozen block out of after=",
            )  # fmt: skip
        self.points.append((name, h))
        if h.dim() == 3 and _of_convolution(h):
            self.trace.add(
                "channels-first", "warning", name,
                f"comes from a convolution over {h.shape[2]} positions, but of three dimensions the last is taken for "
                f"features: {h.shape[2]} features at {h.shape[1]} positions",
                "mark the point in the forward, on the transposed tensor: h = feedback_point(h.mT).mT",
            )  # fmt: skip
        self.last = h.detach()
        self.passed.append((name, self.last))
        return self.last

    def join(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        points, self.points = self.points, []
        shape = joined_shape([one.shape for one in outputs])
        if points and any(one is self.last for one in outputs):
            self.trace.add(
                "point-is-output", "error", points[-1][0],
                "gives the very output that carries the error, so no layer would get its exact gradient",
                "leave it out of after=",
            )  # fmt: skip
        for name, h in points:
            check_shapes(shape, h.shape, name)
            width, needed = h.shape[feature_dim(h.shape)], shape[feature_dim(shape)]
            if width < needed:
                self.trace.add(
                    "bottleneck", "warning", name,
                    f"has {width} features and the error {needed}: a layer narrower than the error hardly aligns",
                    "widen the layer, leave it out of after=, or take the error of a narrower layer with error_at=",
                )  # fmt: skip
        self.trace.outputs += outputs
        self.trace.points += points
        return outputs


class _Trace:
    """Host of the one forward: keeps what the points and the error are computed from."""

    feeding = True

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.points: list[tuple[str, Tensor]] = []
        self.outputs: list[Tensor] = []
        self.call: _TraceCall | None = None

    def open_call(self, wiring: Wiring) -> Call | None:
        self.call = _TraceCall(wiring, trace=self)
        return self.call

    def add(self, code: str, severity: Severity, module: str, message: str, remedy: str) -> None:
        finding = Finding(code, severity, module, message, remedy)
        if finding not in self.findings:
            self.findings.append(finding)

    def at_end(self) -> list[Finding]:
        """What the forward did with the points."""
        assert self.call is not None
        remedies = {
            "point-not-run": "name modules that every forward calls, or mark the ends of blocks with feedback_point",
            "error-not-run": "name a module that every forward calls with error_at=",
            "point-after-error": "leave them out of after=, or take the error further up",
        }
        return [
            Finding(fault.code, "error", ", ".join(fault.points), fault.message, remedies[fault.code])
            for fault in self.call.faults()
        ]


def _of_convolution(h: Tensor) -> bool:
    """Whether a convolution made h, up to functions that leave its dimensions in their order."""
    node: Any = h.grad_fn
    while node is not None and node_name(node) not in REARRANGING:
        if "Convolution" in node_name(node):
            return True
        node = node.next_functions[0][0] if node.next_functions else None
    return False


def _of_gradients(net: nn.Module, trace: _Trace) -> Iterator[Finding]:
    """What the graph says: who gets which gradient."""
    names = {id(parameter): name for name, parameter in net.named_parameters() if parameter.requires_grad}
    sizes = {id(parameter): parameter.ndim for parameter in net.parameters()}
    exact = leaves(trace.outputs) & names.keys()
    fed: dict[str, frozenset[int]] = {}
    last = trace.points[-1][1] if trace.points else None
    for name, h in trace.points:
        fed[name] = fed.get(name, frozenset()) | (leaves([h]) & names.keys())
    if last is not None and not exact:
        yield Finding(
            "no-exact-layer", "warning", "", "no parameter above the last point learns, so none gets an exact gradient",
            "leave the last point out of after=",
        )  # fmt: skip
    for name, ids in fed.items():
        if not ids:
            yield Finding(
                "nothing-to-learn", "warning", name, "no parameter below this point, down to the next, learns",
                "leave it out of after=, or unfreeze its block; feedback for it is projected and not used",
            )  # fmt: skip
        matrices = [names[one] for one in names if one in ids and sizes[one] > 1]
        if len(matrices) > 1:
            yield Finding(
                "backpropagated-inside", "note", name,
                f"{len(matrices)} weights of this block learn by backpropagation from its end: {some(matrices)}",
                "set points between them to have no weight transport",
            )  # fmt: skip
    round_points = [names[one] for one in names if one in exact and any(one in ids for ids in fed.values())]
    if round_points:
        yield Finding(
            "round-a-point", "note", some(round_points),
            "reached by the output past a point too: their gradient is feedback and backpropagation together",
            "set a point where the paths have joined, or on each of them",
        )  # fmt: skip
    reached = exact.union(*fed.values())
    for one, name in names.items():
        if one not in reached:
            yield Finding(
                "no-gradient", "warning", name, "learns, but neither feedback nor an exact gradient reaches it",
                "freeze it, or see that the forward uses it on the way to the error, without detach() or no_grad",
            )  # fmt: skip


def _arguments(example: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(example, Mapping):
        return (), example
    return (tuple(example) if isinstance(example, tuple) else (example,)), {}


@contextmanager
def _left_alone(net: nn.Module) -> Iterator[None]:
    """Buffers and random numbers afterwards are those of before."""
    buffers: Iterable[tuple[Tensor, Tensor]] = [(one, copy.deepcopy(one.detach())) for one in net.buffers()]
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
