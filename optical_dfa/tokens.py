"""Tokens: what stands for the output h of a feedback point until the Tap."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optical_dfa.audit_graph import node_name
from optical_dfa.gradient_memory import reaches_a_leaf
from optical_dfa.shapes import feature_dim
from optical_dfa.tap import apply
from optical_dfa.watch import EditGuard, watching

VIEWS = frozenset(("Alias", "Permute", "Select", "Slice", "Squeeze", "T", "Transpose", "Unsqueeze", "View"))
"""Functions whose result shares the memory of their operand, by the name of the node."""


class Branch(torch.autograd.Function):
    """h → token: h's shape and dtype, one element of storage. Backward: the token's gradient times the scale is h's.

    What arrives is a view of the projection, which other points view as well. It goes on as it is if there is nothing
    to multiply, unless `copied`.
    """

    @staticmethod
    def forward(h: Tensor, scale: float, copied: bool) -> Tensor:  # noqa: D102
        return h.new_empty(()).expand(h.shape)  # nobody reads it

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, bool], output: Tensor) -> None:  # noqa: D102
        _, ctx.scale, ctx.copied = inputs

    @staticmethod
    def backward(ctx: Any, feedback: Tensor) -> tuple[Tensor, None, None]:  # noqa: D102
        scale: float = ctx.scale
        return feedback * scale if ctx.copied or scale != 1 else feedback, None, None


class Token(NamedTuple):
    """One run of a feedback point, for the Tap."""

    name: str
    """Of the point."""
    tensor: Tensor
    """Has h's shape and dtype, and leads to h in the graph."""
    scale: float
    """What its gradient has to be multiplied by; `scaled` sees to that."""
    guard: EditGuard | None
    """None where h may be edited."""


def token_of(name: str, h: Tensor, passed: Tensor, scale: float | None) -> Token:
    """Token of the output h of a point.

    Where the graph keeps h in any case it is a view of h, which costs least. Elsewhere that would hold the memory of h
    until the Tap, and `Branch` makes one without.

    Args:
        name: of the point.
        h: its output.
        passed: h, detached, for the next block.
        scale: None: 1/√features.
    """
    if scale is None:
        shape = h.shape
        scale = shape[feature_dim(shape)] ** -0.5
    if not watching():
        return Token(name, apply(Branch, h, scale, False), 1.0, None)
    keeper = _keeper(h)
    if keeper is None:
        return Token(name, apply(Branch, h, 1.0, reaches_a_leaf(h)), scale, None)
    return Token(name, h.view_as(h), scale, EditGuard(name, passed, passed._version, keeper))


def scaled(tokens: Sequence[Token]) -> tuple[list[Tensor], float]:
    """The tensors of the tokens, and the scale that is left for the Tap to apply once for all of them.

    One that is left to it passes over the projection once, and a step holds no more than backpropagation does: 1.01 of
    it instead of 1.11, 8 layers of 1024, batch 8192.
    """
    scales = {token.scale for token in tokens}
    if len(scales) == 1:
        return [token.tensor for token in tokens], scales.pop()
    return [apply(Branch, token.tensor, token.scale, False) for token in tokens], 1.0


def _keeper(h: Tensor) -> Any:
    """The function whose result h is, or is a view of, if its derivative is computed from that; else None.

    None also if hooks for saved tensors, such as those of checkpointing, keep something else in its place.
    """
    node: Any = h.grad_fn
    if not _saves_result(type(node)):  # type: ignore[arg-type]
        while node is not None and h._is_view() and node_name(node) in VIEWS:
            node = node.next_functions[0][0]
        if not _saves_result(type(node)):  # type: ignore[arg-type]
            return None
    kept = getattr(node._raw_saved_result, "data", None)
    return node if isinstance(kept, Tensor) and torch._C._is_alias_of(kept, h) else None  # type: ignore[attr-defined]


@lru_cache(512)
def _saves_result(kind: Any) -> bool:
    return hasattr(kind, "_raw_saved_result")
