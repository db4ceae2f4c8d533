"""Misuse that only a backward pass brings to light. Uncompiled passes only: compiled ones have no nodes to watch."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from optical_dfa.errors import FeedbackError


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


class EditGuard(NamedTuple):
    """Tells whether the output of a point was edited in place behind it, though its derivative is computed from it.

    Holds the memory of the output until the backward pass, as the graph does.
    """

    name: str
    """Of the point."""
    passed: Tensor
    """What the next block gets, which shares its version counter."""
    version: int
    """Of the output when it left the point."""
    keeper: Any
    """The function that keeps it."""

    def check(self, all_of_it: bool = False) -> None:
        """Raise if it was edited and a backward pass needs it.

        Args:
            all_of_it: the pass goes through all of the graph; False: the one that is running may not.

        Raises:
            FeedbackError: which PyTorch would raise without the name of the point.
        """
        if self.passed._version == self.version:
            return
        if all_of_it or torch._C._will_engine_execute_node(self.keeper):
            raise FeedbackError(
                f"the output of feedback point {self.name!r} was edited in place after the point, but its derivative "
                "is computed from it: use an operation that is not in place (no inplace=True, `h = h + …` for "
                "`h += …`) behind the point"
            )
