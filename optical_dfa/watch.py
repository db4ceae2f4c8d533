"""Misuse that only a backward pass brings to light. Uncompiled passes only: compiled ones have no nodes to watch."""

from typing import Any

import torch
from torch import Tensor

from optical_dfa.audit_graph import node_name
from optical_dfa.errors import FeedbackError

VIEWS = frozenset(("Alias", "Permute", "Select", "Slice", "Squeeze", "T", "Transpose", "Unsqueeze", "View"))
"""Functions whose result shares the memory of their operand, by the name of the node."""


def watching() -> bool:
    """Whether the graph that is being recorded has nodes of its own."""
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


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


def watch_edits(name: str, h: Tensor, passed: Tensor) -> None:
    """Name the point in the error of an in-place edit of `passed`, which shares its memory with `h`.

    Only where the edit would be an error: where the function that made h, or that of which h is a view, computes its
    derivative from h. What shares the version counter of h, and not its memory, tells whether it was edited.
    """
    node: Any = h.grad_fn
    while node is not None and h._is_view() and node_name(node) in VIEWS:
        node = node.next_functions[0][0]
    if node is None or not hasattr(type(node), "_saved_result"):
        return
    counter = passed.detach()
    counter.data = h.new_empty(0)
    version = counter._version

    def check(_gradients: Any) -> None:
        if counter._version != version:
            raise FeedbackError(
                f"the output of feedback point {name!r} was edited in place after the point, but its derivative is "
                "computed from it: use an operation that is not in place (no inplace=True, `h = h + …` for `h += …`) "
                "behind the point"
            )

    node.register_prehook(check)
