"""The token tap: Direct Feedback Alignment as plain autograd.

A block's output passes through `Branch`, which returns a *token*: h's shape and dtype, one element of storage. The
next block gets `h.detach()`. `Tap` joins the net's output with the tokens; its backward projects the error once and
hands each token its share, which `Branch` passes on to the block. Nothing is computed and thrown away.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from optical_dfa.errors import FeedbackError, FeedbackShapeError
from optical_dfa.projection import project
from optical_dfa.watch import watching

Layout = Literal["shared", "independent"]


def feature_dim(shape: Sequence[int]) -> int:
    """Dimension that holds the features: 1 for images and volumes (4 or 5 dimensions), else the last."""
    return 1 if len(shape) in (4, 5) else len(shape) - 1


def leading(shape: Sequence[int]) -> tuple[int, ...]:
    """The other dimensions: sample and position."""
    dim = feature_dim(shape)
    return (*shape[:dim], *shape[dim + 1 :])


def outputs_needed(widths: Sequence[int], layout: Layout) -> int:
    """Device outputs that points of these widths need."""
    return max(widths) if layout == "shared" else sum(widths)


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """`function.apply`, which reads the signature of `forward` each time; only transforms need that.

    In the midst of a step, where no cache has the code, that is 120 of 290 µs of a point.
    """
    direct: Any = super(torch.autograd.Function, function) if watching() else function
    return direct.apply(*arguments)


class Branch(torch.autograd.Function):
    """h → token. Backward: the token's feedback times the scale is h's gradient.

    What arrives is a view of the projection, which other points view as well. It goes on as it is if there is nothing
    to multiply, unless `copied`.
    """

    @staticmethod
    def forward(h: Tensor, scale: float | None, copied: bool) -> Tensor:  # noqa: D102
        return h.new_empty(()).expand(h.shape)  # nobody reads it

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float | None, bool], output: Tensor) -> None:  # noqa: D102
        _, scale, ctx.copied = inputs
        ctx.scale = output.shape[feature_dim(output.shape)] ** -0.5 if scale is None else scale

    @staticmethod
    def backward(ctx: Any, feedback: Tensor) -> tuple[Tensor, None, None]:  # noqa: D102
        scale: float = ctx.scale
        return feedback * scale if ctx.copied or scale != 1 else feedback, None, None


def common_scale(tokens: Sequence[Tensor]) -> float:
    """Take their scale off the Branches if it is one for all, for the Tap to apply once; 1 if it stays with them.

    A Branch that has none to apply hands on a view: a step then holds no more than backpropagation does (1.01 of it
    instead of 1.11, 8 layers of 1024, batch 8192), and passes over the projection once instead of once for each point.
    In compiled code the compiler sees to that.
    """
    if torch.compiler.is_compiling():
        return 1.0
    nodes = [token.grad_fn for token in tokens if token.grad_fn is not None]
    if any(type(node).__name__ != "BranchBackward" for node in nodes):
        return 1.0
    scales = {node.scale for node in nodes}  # type: ignore[attr-defined]
    if len(scales) != 1:
        return 1.0
    for node in nodes:
        node.scale = 1.0  # type: ignore[attr-defined]
    return float(scales.pop())


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
    multiplied by `scale`, what `common_scale` took off the tokens.
    """

    @staticmethod
    def forward(handle: int, layout: Layout, scale: float, n_outputs: int, *tensors: Tensor) -> tuple[Tensor, ...]:  # noqa: D102
        return tuple(output.detach() for output in tensors[:n_outputs])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: D102
        ctx.handle, ctx.layout, ctx.scale, n_outputs, *tensors = inputs
        ctx.shapes = [tuple(token.shape) for token in tensors[n_outputs:]]

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        rows = joined(errors)
        widths = [shape[feature_dim(shape)] for shape in ctx.shapes]
        fields = project(rows.reshape(-1, rows.shape[-1]), ctx.handle, outputs_needed(widths, ctx.layout))
        if watching() and torch.is_grad_enabled() and rows.requires_grad:
            fields = FirstOrder.apply(fields, rows)  # type: ignore[no-untyped-call]
        if ctx.scale != 1:
            fields = fields * ctx.scale
        return (None, None, None, None, *errors, *shares(fields, rows.shape[:-1], ctx.shapes, widths, ctx.layout))


class DeferredTap(torch.autograd.Function):
    """outputs → outputs, cut off from their graph. Backward: hands the errors over, and ends there."""

    @staticmethod
    def forward(arrive: Callable[[Sequence[Tensor]], None], *outputs: Tensor) -> tuple[Tensor, ...]:  # noqa: D102
        return tuple(output.detach() for output in outputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: D102
        ctx.arrive, ctx.n_outputs = inputs[0], len(output)

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> tuple[None, ...]:  # noqa: D102
        ctx.arrive(errors)
        n_outputs: int = ctx.n_outputs
        return (None,) * (1 + n_outputs)


def joined(errors: Sequence[Tensor]) -> Tensor:
    """Errors of several outputs side by side: (samples and positions …, features)."""
    parts = [error.movedim(feature_dim(error.shape), -1) for error in errors]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def shares(
    fields: Tensor, positions: Sequence[int], shapes: Sequence[Sequence[int]], widths: Sequence[int], layout: Layout
) -> list[Tensor]:
    """What each of the tokens gets of a projection (rows, outputs), of its shape.

    Args:
        fields: one row for each error vector.
        positions: samples and positions of the error.
        shapes: of the tokens.
        widths: their features.
        layout: whether they read the same outputs.
    """
    found: list[Tensor] = []
    start = 0
    for shape, width in zip(shapes, widths, strict=True):
        found.append(_share(fields[:, start : start + width], positions, shape))
        start += width if layout == "independent" else 0
    return found


def joined_shape(shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Shape of the error of several outputs, joined along the features.

    Raises:
        FeedbackShapeError: their samples and positions differ.
    """
    first = tuple(shapes[0])
    if len(shapes) == 1:
        return first
    if any(len(shape) != len(first) or leading(shape) != leading(first) for shape in shapes):
        raise FeedbackShapeError(
            f"the outputs that carry the error have shapes {', '.join(str(tuple(shape)) for shape in shapes)}: their "
            "samples and positions must be equal, because their errors are joined along the features. Choose one of "
            "them with output=, or reshape them in the forward and mark them with feedback_tap"
        )
    dim = feature_dim(first)
    return (*first[:dim], sum(shape[dim] for shape in shapes), *first[dim + 1 :])


def check_shapes(error: Sequence[int], point: Sequence[int], name: str) -> None:
    """Refuse a point that an error of that shape cannot feed.

    Raises:
        FeedbackShapeError: naming the point and both shapes.
    """
    if not error or len(error) == 1 < len(point):
        raise FeedbackShapeError(
            f"feedback point {name!r} has shape {tuple(point)}, the error {tuple(error)}: its samples and its features "
            "cannot be told apart. Name the module whose output is (samples, features) with error_at="
        )
    error_positions, point_positions = leading(error), leading(point)
    if point_positions[: len(error_positions)] != error_positions:
        raise FeedbackShapeError(
            f"feedback point {name!r} has shape {tuple(point)}, the error {tuple(error)}: their samples and positions, "
            f"{point_positions} and {error_positions}, must be equal, or those of the error the first of the point's. "
            "Choose another point, or name the module whose output carries the error with error_at="
        )


def _share(fields: Tensor, error_positions: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Feedback of one point as a view of the projection: one vector per position, or one broadcast to several."""
    extra = leading(shape)[len(error_positions) :]
    width = fields.shape[1]
    if extra:
        fields = fields * prod(extra) ** -0.5  # (rows, width) only: the positions are a view
    share = fields.reshape(*error_positions, *(1,) * len(extra), width).expand(*error_positions, *extra, width)
    return share.movedim(-1, feature_dim(shape))
