"""Who gets which gradient: the audit of an attached net, for people and for machines."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from optical_dfa.audit_graph import Reached

Source = Literal["feedback", "backpropagated", "exact", "frozen", "none"]

SOURCES: Mapping[Source, str] = {
    "feedback": "feedback, no weight in between",
    "backpropagated": "feedback, backpropagated inside a block",
    "exact": "exact, from the output",
    "frozen": "frozen",
    "none": "none",
}
"""What a gradient can come from, in words."""


@dataclass(frozen=True)
class AuditRow:
    """Where the gradient of one parameter comes from."""

    parameter: str
    shape: tuple[int, ...]
    source: Source
    """`feedback`; `backpropagated`: feedback that passes through weights on its way, weight transport inside a block;
    `exact`: backpropagated from the output; `frozen`; `none`: no gradient at all."""
    points: tuple[str, ...] = ()
    """Feedback points that reach the parameter; for an exact one, those that reach it besides."""
    through: tuple[str, ...] = ()
    """Parameters that the feedback passes through."""
    exact_through: tuple[str, ...] = ()
    """Parameters that the exact gradient passes through."""

    @property
    def n_values(self) -> int:
        """Entries of the parameter."""
        n = 1
        for side in self.shape:
            n *= side
        return n


@dataclass(frozen=True)
class Audit:
    """Where the gradient of every parameter comes from; `print` it.

    Inside a block, between two feedback points, gradients are backpropagated as usual: keep blocks at one layer each to
    have no weight transport at all.
    """

    rows: tuple[AuditRow, ...]
    """One for each parameter, in the order of `net.named_parameters()`."""
    points: tuple[str, ...] = ()
    """Feedback points, in the order in which they ran."""
    error_through: tuple[str, ...] = ()
    """Parameters above the module that carries the error: the error of every point passes through them."""
    net: str = ""
    """Class of the net."""
    kinds: Mapping[str, str] | None = None
    """Classes of the modules that hold parameters and of the feedback points, by name."""
    device: str = ""
    """Name of the device."""
    layout: str = ""
    """`shared` or `independent`."""
    unseen: int = 0
    """Operations that kept their operands elsewhere (checkpointing, offloading), so that frozen weights in them were
    not seen."""

    def totals(self) -> dict[Source, tuple[int, int]]:
        """Parameter tensors and their entries, by source."""
        return {
            source: (len(rows), sum(row.n_values for row in rows))
            for source in SOURCES
            for rows in [[row for row in self.rows if row.source == source]]
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything, in plain dicts and lists."""
        values = json.loads(json.dumps(asdict(self)))
        totals = {source: {"tensors": tensors, "values": n} for source, (tensors, n) in self.totals().items()}
        parameters = values.pop("rows")
        return {"format": 1, **values, "totals": totals, "parameters": parameters}

    def to_json(self) -> str:
        """Everything, as JSON text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def draw(self, path: str | Path) -> None:
        """Draw the net with its feedback arrows; needs the extra `plot`.

        Args:
            path: file to write, `.svg`, `.png` or `.pdf`.

        Raises:
            optical_dfa.run_errors.MissingExtra: matplotlib is not installed.
            ValueError: another suffix.
        """
        from optical_dfa.audit_figure import draw_audit  # matplotlib is optional

        draw_audit(self, Path(path))

    def __str__(self) -> str:
        from optical_dfa.audit_table import to_text

        return to_text(self)


def make_audit(net: nn.Module, reached: Reached, device: str, layout: str) -> Audit:
    """What the graph says of the parameters of `net`."""
    names = {id(parameter): name for name, parameter in net.named_parameters()}

    def named(keys: frozenset[int]) -> tuple[str, ...]:
        return tuple(name for key, name in names.items() if key in keys)

    rows = []
    for name, parameter in net.named_parameters():
        key, shape = id(parameter), tuple(parameter.shape)
        points = tuple(point for point, passed in reached.points.items() if key in passed)
        through = named(frozenset().union(*(reached.points[point][key] for point in points)))
        if not parameter.requires_grad:
            rows.append(AuditRow(name, shape, "frozen"))
        elif key in reached.exact:
            rows.append(AuditRow(name, shape, "exact", points, through, named(reached.exact[key])))
        elif points:
            rows.append(AuditRow(name, shape, "backpropagated" if through else "feedback", points, through))
        else:
            rows.append(AuditRow(name, shape, "none"))
    owners = {name.rpartition(".")[0] for name in names.values()} | set(reached.points)
    kinds = {name: type(module).__name__ for name, module in net.named_modules() if name in owners}
    return Audit(
        rows=tuple(rows),
        points=tuple(reached.points),
        error_through=named(reached.error),
        net=type(net).__name__,
        kinds=kinds,
        device=device,
        layout=layout,
        unseen=reached.unseen,
    )
