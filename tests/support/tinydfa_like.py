"""The usual way to do DFA with hooks, in a few lines: what the rows of the compatibility list are held against.

Written from a description of TinyDFA: layers that keep what they saw, a hook on the output that starts a backward pass
in each of them, and a feedback matrix drawn at the first forward. Its faults are those of the design.
"""

from typing import Any

import torch
from torch import Tensor, nn


class FeedbackLayer:
    """Behind a block: cuts the graph, and keeps the block's output for the feedback that is to come."""

    def __init__(self) -> None:
        self.kept: Tensor | None = None

    def __call__(self, _module: nn.Module, _args: Any, h: Tensor) -> Tensor:
        self.kept = h
        return h.detach().requires_grad_()


class TinyDFA(nn.Module):
    """A net whose named blocks get the projected error of the output."""

    def __init__(self, net: nn.Module, after: list[str]) -> None:
        super().__init__()
        self.net = net
        self.layers = [FeedbackLayer() for _ in after]
        self.matrix: Tensor | None = None
        for name, layer in zip(after, self.layers, strict=True):
            net.get_submodule(name).register_forward_hook(layer)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x)
        if self.matrix is None:
            widths = [layer.kept.shape[-1] for layer in self.layers if layer.kept is not None]
            self.matrix = torch.rand(max(widths), output.shape[-1]) * 2 - 1
            print(f"DFA: {len(widths)} layers, feedback {tuple(self.matrix.shape)}")
        if output.requires_grad:
            output.register_hook(self._send)  # type: ignore[no-untyped-call]
        return output

    def _send(self, error: Tensor) -> None:
        assert self.matrix is not None
        field = error @ self.matrix.T
        for layer in self.layers:
            assert layer.kept is not None
            width = layer.kept.shape[-1]
            torch.autograd.backward(layer.kept, field[:, :width] / width**0.5)
