"""The token tap: Direct Feedback Alignment as plain autograd.

A block's output h leaves a *token* behind, which has its shape and leads to it in the graph. The next block gets
`h.detach()`. `Tap` joins the net's output with the tokens; its backward projects the error once and hands each token
its share, the gradient of the block. Nothing is computed and thrown away.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from optical_dfa.errors import FeedbackError
from optical_dfa.projection import project
from optical_dfa.shapes import feature_dim
from optical_dfa.sharing import Sharing
from optical_dfa.tokens import Token
from optical_dfa.watch import TapWatch, watching


class FirstOrder(torch.autograd.Function):
    """(fields, errors) → fields, of which no derivative with respect to the errors can be had."""

    @staticmethod
    def forward(ctx: Any, fields: Tensor, errors: Tensor) -> Tensor:  # noqa: D102
        return fields.view_as(fields)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[None, None]:  # noqa: D102
        raise FeedbackError(
            "a second derivative was asked for (create_graph=True, a gradient penalty) through the projected error, "
            "which has none: compute that term within feedback.paused(), by true backpropagation"
        )


class Tap(torch.autograd.Function):
    """(outputs, tokens) → outputs. Backward: the errors go on unchanged; their projection goes to the tokens.

    The errors of several outputs are joined along the features: one vector a sample and position. The projection is
    multiplied by `scale`. Edits of the points are refused before anything is displayed. `watch` learns that gradients
    came.
    """

    @staticmethod
    def forward(  # noqa: D102
        handle: int,
        sharing: Sharing,
        scale: float,
        tokens: Sequence[Token],
        watch: TapWatch | None,
        n_outputs: int,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        return tuple(output.detach() for output in tensors[:n_outputs])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: D102
        ctx.handle, ctx.sharing, ctx.scale, ctx.tokens, ctx.watch = inputs[:5]

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        if ctx.watch is not None:
            ctx.watch.passed = True
        for token in ctx.tokens:
            token.check()
        if ctx.tokens and not torch._C._autograd._get_current_graph_task_keep_graph():
            ctx.tokens = ()  # the graph lets go of what they hold, too
        rows = joined(errors)
        flat = rows if rows.dim() == 2 else rows.reshape(-1, rows.shape[-1])
        fields = project(flat, ctx.handle, ctx.sharing.n_outputs, ctx.scale)
        if torch.is_grad_enabled() and rows.requires_grad and watching():
            fields = FirstOrder.apply(fields, rows)  # type: ignore[no-untyped-call]
        return (None, None, None, None, None, None, *errors, *ctx.sharing.of(fields, rows.shape[:-1]))


class DeferredTap(torch.autograd.Function):
    """outputs → outputs, cut off from their graph. Backward: hands the errors over, and ends there."""

    @staticmethod
    def forward(  # noqa: D102
        arrive: Callable[[Sequence[Tensor]], None], watch: TapWatch | None, *outputs: Tensor
    ) -> tuple[Tensor, ...]:
        return tuple(output.detach() for output in outputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: D102
        ctx.arrive, ctx.watch, ctx.n_outputs = *inputs[:2], len(output)

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> tuple[None, ...]:  # noqa: D102
        if ctx.watch is not None:
            ctx.watch.passed = True
        ctx.arrive(errors)
        n_outputs: int = ctx.n_outputs
        return (None,) * (2 + n_outputs)


def joined(errors: Sequence[Tensor]) -> Tensor:
    """Errors of several outputs side by side: (samples and positions …, features)."""
    if len(errors) == 1 and errors[0].dim() < 3:
        return errors[0]
    parts = [error if error.dim() < 3 else error.movedim(feature_dim(error.shape), -1) for error in errors]
    return torch.cat(parts, -1)
