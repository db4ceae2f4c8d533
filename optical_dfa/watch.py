"""Misuse that only a backward pass brings to light. Uncompiled passes only: compiled ones have no nodes to watch."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optical_dfa.audit_graph import node_name
from optical_dfa.errors import FeedbackError

VIEWS = frozenset(("Alias", "Permute", "Select", "Slice", "Squeeze", "T", "Transpose", "Unsqueeze", "View"))
"""Functions whose result shares the memory of their operand, by the name of the node."""


def watching() -> bool:
    """Whether the graph that is being recorded has nodes of its own."""
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """`function.apply`, which reads the signature of `forward` each time; only transforms need that.

    In the midst of a step, where no cache has the code, that is 120 of 290 µs of a point.
    """
    direct: Any = super(torch.autograd.Function, function) if watching() else function
    return direct.apply(*arguments)


class TapWatch:
    """Whether gradients that reached a net passed through its Tap."""

    def __init__(self) -> None:
        self.arrived = False
        """Gradients reached what the forward gave."""
        self.tapped = False
        """There is a Tap."""
        self.passed = False
        """They came through it."""

    def expect(self, tensor: Tensor) -> None:
        """Notice gradients that reach what made this tensor."""
        if tensor.grad_fn is not None:
            tensor.grad_fn.register_prehook(self._arrive)

    def tap(self, tapped: Tensor) -> None:
        """Notice gradients that reach the Tap."""
        assert tapped.grad_fn is not None
        self.tapped = True
        tapped.grad_fn.register_prehook(self._pass)

    @property
    def bypassed(self) -> bool:
        """Whether a backward pass went round the Tap."""
        return self.tapped and self.arrived and not self.passed

    def _arrive(self, _gradients: Any) -> None:
        self.arrived = True

    def _pass(self, _gradients: Any) -> None:
        self.passed = True


class Edits(NamedTuple):
    """Tells whether the output of a point was edited in place behind it, where its derivative is computed from it.

    Holds the memory of the output until the backward pass, as the graph does.
    """

    name: str
    """Of the point."""
    passed: Tensor
    """What the next block gets: shares its version counter."""
    version: int
    """Of the output when it left the point."""


def refuse_edits(points: Iterable[Edits]) -> None:
    """Raise if one of them was edited.

    Raises:
        FeedbackError: which PyTorch would raise without the name of the point.
    """
    for point in points:
        if point.passed._version != point.version:
            raise FeedbackError(
                f"the output of feedback point {point.name!r} was edited in place after the point, but its derivative "
                "is computed from it: use an operation that is not in place (no inplace=True, `h = h + …` for "
                "`h += …`) behind the point"
            )


def result_node(h: Tensor) -> Any:
    """The function that made h, or that of which h is a view, if its derivative is computed from h; else None."""
    node: Any = h.grad_fn
    if node is None or _keeps_result(type(node)):  # type: ignore[arg-type]
        return node
    while node is not None and h._is_view() and node_name(node) in VIEWS:
        node = node.next_functions[0][0]
    return node if node is not None and _keeps_result(type(node)) else None  # type: ignore[arg-type]


@lru_cache(512)
def _keeps_result(kind: type) -> bool:
    return hasattr(kind, "_saved_result")
