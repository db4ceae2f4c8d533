"""How feedback points share one projection of the error."""

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from optical_dfa.shapes import check_shapes, feature_dim, joined_shape, leading

Layout = Literal["shared", "independent"]

Shape = Sequence[int]


def outputs_needed(widths: Sequence[int], layout: Layout) -> int:
    """Device outputs that points of these widths need."""
    return max(widths) if layout == "shared" else sum(widths)


class Sharing(NamedTuple):
    """What each of some points gets of a projection."""

    shapes: Sequence[Shape]
    """Of the outputs of the points."""
    widths: Sequence[int]
    """Features of each."""
    layout: Layout
    """Whether they read the same outputs of the device."""
    n_outputs: int
    """Device outputs that they need."""
    alike: bool
    """Every point gets the projection as it is: samples are rows, and all outputs are its features."""

    @property
    def scale(self) -> float | None:
        """1/√features, where all points have the same number; else None.

        One for all multiplies the projection once, and no point needs a copy of its own: a step holds no more than
        backpropagation does (`benchmarks/step.py --rows memory`).
        """
        width = self.widths[0]
        return width**-0.5 if all(one == width for one in self.widths) else None

    def of(self, fields: Tensor, positions: Shape) -> list[Tensor]:
        """What each point gets, of its shape: views, where the error is not broadcast to several positions.

        Args:
            fields: (rows, n_outputs), one row for each error vector.
            positions: samples and positions of the error.
        """
        if self.alike:  # in the most common net without three views of a view
            return [fields] * len(self.shapes)
        found: list[Tensor] = []
        start = 0
        for shape, width in zip(self.shapes, self.widths, strict=True):
            of_point = fields if width == fields.shape[1] else fields[:, start : start + width]
            found.append(_of_point(of_point, positions, shape))
            start += width if self.layout == "independent" else 0
        return found


def sharing_of(
    errors: tuple[Shape, ...], shapes: tuple[Shape, ...], names: tuple[str, ...], layout: Layout, known: bool
) -> Sharing:
    """`sharing`; if `known`, looked up where it was asked for before. Not for compiled code."""
    if not known:
        return sharing(errors, shapes, names, layout)
    if torch._C._get_tracing_state() is not None:  # torch.jit.trace makes tensors of sizes
        errors, shapes = (tuple([tuple(map(int, shape)) for shape in some]) for some in (errors, shapes))
    try:
        return _known(errors, shapes, names, layout)
    except TypeError:  # sizes are symbols, which have no hash
        return sharing(errors, shapes, names, layout)


def sharing(errors: Sequence[Shape], shapes: Sequence[Shape], names: Sequence[str], layout: Layout) -> Sharing:
    """How points share the projection of an error.

    Args:
        errors: shapes of the outputs that carry it.
        shapes: of the outputs of the points.
        names: of the points.
        layout: whether they read the same outputs of the device.

    Raises:
        FeedbackShapeError: this error cannot feed these points.
    """
    error = joined_shape(errors)
    for shape, name in zip(shapes, names, strict=True):
        check_shapes(error, shape, name)
    widths = tuple([shape[feature_dim(shape)] for shape in shapes])
    n_outputs = outputs_needed(widths, layout)
    alike = len(error) == 2 and all(len(shape) == 2 and shape[1] == n_outputs for shape in shapes)
    return Sharing(shapes, widths, layout, n_outputs, alike)


_known = lru_cache(512)(sharing)


def _of_point(fields: Tensor, error_positions: Shape, shape: Shape) -> Tensor:
    """Feedback of one point as a view of the projection: one vector per position, or one broadcast to several."""
    width = fields.shape[1]
    extra = leading(shape)[len(error_positions) :]
    if extra:
        fields = fields * prod(extra) ** -0.5  # (rows, width) only: the positions are a view
    share = fields.reshape(*error_positions, *(1,) * len(extra), width).expand(*error_positions, *extra, width)
    return share.movedim(-1, feature_dim(shape))
