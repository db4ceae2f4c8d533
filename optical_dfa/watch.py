"""What only uncompiled code can do, whose graph has nodes: watch for misuse that a backward pass brings to light."""

from typing import Any

import torch
from torch import Tensor


def watching() -> bool:
    """Whether the graph that is being recorded has nodes of its own."""
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


def in_backward() -> bool:
    """Whether this thread is in the middle of a backward pass."""
    return bool(torch._C._current_graph_task_id() != -1)


def apply(watched: bool, function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """`function.apply`, which reads the signature of `forward` each time, slowly; only transforms need that.

    Args:
        watched: what `watching` says.
        function: whose `apply`.
        arguments: of it.
    """
    direct: Any = super(torch.autograd.Function, function) if watched else function
    return direct.apply(*arguments)


class TapWatch:
    """Whether gradients that reached a net passed through its Tap."""

    def __init__(self) -> None:
        self.arrived = False
        """Gradients reached what the forward gave."""
        self.tapped = False
        """There is a Tap."""
        self.passed = False
        """They came through it, says the Tap."""

    def expect(self, tensor: Tensor) -> None:
        """Notice gradients that go on through what made this tensor; not those that someone asked for, which end."""
        if tensor.grad_fn is not None:
            tensor.grad_fn.register_prehook(self._arrive)

    @property
    def bypassed(self) -> bool:
        """Whether a backward pass went round the Tap."""
        return self.tapped and self.arrived and not self.passed

    def _arrive(self, _gradients: Any) -> None:
        self.arrived = True
