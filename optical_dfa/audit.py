"""Who gets which gradient, read from the autograd graph itself."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class AuditRow:
    """Where the gradient of one parameter comes from."""

    parameter: str
    shape: tuple[int, ...]
    source: str
    """`feedback`, `exact` (backpropagated from the output), `frozen` or `none`."""
    points: tuple[str, ...]
    """Feedback points that reach the parameter."""


@dataclass(frozen=True)
class Audit:
    """Where the gradient of every parameter comes from; `print` it.

    Inside a block, between two feedback points, gradients are backpropagated as usual: keep blocks at one layer each to
    have no weight transport at all.
    """

    rows: tuple[AuditRow, ...]

    def __str__(self) -> str:
        table = [("parameter", "shape", "gradient")]
        for row in self.rows:
            source = f"feedback at {', '.join(map(repr, row.points))}" if row.points else row.source
            if row.points and row.source == "exact":
                source += " and exact"
            table.append((row.parameter, " x ".join(map(str, row.shape)) or "scalar", source))
        widths = [max(len(line[column]) for line in table) for column in (0, 1)]
        lines = [f"{name:<{widths[0]}}  {shape:<{widths[1]}}  {source}" for name, shape, source in table]
        return "\n".join(lines)


@dataclass(frozen=True)
class Reached:
    """Parameters that gradients reach: from the output, and from each feedback point."""

    exact: frozenset[int]
    points: Mapping[str, frozenset[int]]
    trainable: frozenset[int]
    """Parameters that were not frozen when the graph was read."""

    def covers(self, net: nn.Module) -> bool:
        """Whether every parameter of `net` that is not frozen now was in the graph."""
        return all(id(parameter) in self.trainable for parameter in net.parameters() if parameter.requires_grad)


def leaves(tensors: Iterable[Tensor]) -> frozenset[int]:
    """Ids of the leaf tensors from which `tensors` were computed."""
    seen: set[Any] = set()
    found: set[int] = set()
    stack = [tensor.grad_fn for tensor in tensors]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            found.add(id(variable))
        stack.extend(next_node for next_node, _ in node.next_functions)
    return frozenset(found)


def make_audit(net: nn.Module, reached: Reached) -> Audit:
    """Table of the parameters of `net`."""
    rows = []
    for name, parameter in net.named_parameters():
        points = tuple(point for point, ids in reached.points.items() if id(parameter) in ids)
        if not parameter.requires_grad:
            source = "frozen"
        elif id(parameter) in reached.exact:
            source = "exact"
        else:
            source = "feedback" if points else "none"
        rows.append(AuditRow(name, tuple(parameter.shape), source, points))
    return Audit(tuple(rows))
