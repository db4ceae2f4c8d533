"""Tokens: what stands for the output h of a feedback point until the Tap."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optical_dfa.audit_graph import node_name
from optical_dfa.errors import FeedbackError
from optical_dfa.gradient_memory import reaches_a_leaf
from optical_dfa.watch import apply, watching

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
    """One run of a feedback point, for the Tap. Tells, too, whether h was edited in place behind it.

    With a keeper it holds the memory of h, as the graph does.
    """

    name: str
    """Of the point."""
    tensor: Tensor
    """Has h's shape and dtype, and leads to h in the graph."""
    passed: Tensor | None = None
    """What the next block gets, which shares h's version counter."""
    version: int = 0
    """Of h when it left the point."""
    keeper: Any = None
    """The function that computes its derivative from h, and keeps it; None: there is none, and h may be edited."""

    def check(self, all_of_it: bool = False) -> None:
        """Raise if h was edited and a backward pass needs it.

        Args:
            all_of_it: the pass goes through all of the graph; False: the one that is running may not.

        Raises:
            FeedbackError: which PyTorch would raise without the name of the point.
        """
        if self.passed is None or self.passed._version == self.version:
            return
        if all_of_it or torch._C._will_engine_execute_node(self.keeper):
            raise FeedbackError(
                f"the output of feedback point {self.name!r} was edited in place after the point, but its derivative "
                "is computed from it: use an operation that is not in place (no inplace=True, `h = h + …` for "
                "`h += …`) behind the point"
            )


def token_of(name: str, h: Tensor, passed: Tensor) -> Token:
    """Token of the output h of a point.

    Where the graph keeps h in any case it is a view of h, which costs least. Elsewhere that would hold the memory of h
    until the Tap, and `Branch` makes one without.

    Args:
        name: of the point.
        h: its output.
        passed: h, detached, for the next block.
    """
    watched = watching()
    keeper = _keeper(h) if watched else None
    if keeper is None:
        copied = not watched or reaches_a_leaf(h)  # compiled code does not notice that gradients share their memory
        return Token(name, apply(watched, Branch, h, 1.0, copied))
    return Token(name, h[...], passed, passed._version, keeper)  # of all views, this one costs least


def scaled(tensors: Sequence[Tensor], widths: Sequence[int]) -> list[Tensor]:
    """The tensors of tokens, whose gradients are multiplied by 1/√width on their way."""
    watched, pairs = watching(), zip(tensors, widths, strict=True)
    return [apply(watched, Branch, tensor, width**-0.5, False) for tensor, width in pairs]


def _keeper(h: Tensor) -> Any:
    """The function whose result h is, or is a view of, if its derivative is computed from that; else None.

    None also if hooks for saved tensors, such as those of checkpointing, keep something else in its place.
    """
    node: Any = h.grad_fn
    saved = getattr(node, "_raw_saved_result", None)
    if saved is not None and getattr(saved, "unpack_hook", saved) is None:
        return node  # without hooks, the result that it saved is h
    if saved is None and h._is_view():
        while node is not None and node_name(node) in VIEWS:
            node = node.next_functions[0][0]
        saved = getattr(node, "_raw_saved_result", None)
    kept = getattr(saved, "data", None)
    return node if isinstance(kept, Tensor) and torch._C._is_alias_of(kept, h) else None  # type: ignore[attr-defined]
