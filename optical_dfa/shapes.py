"""Shapes of errors and points: which dimension holds the features, and what may feed what."""

from collections.abc import Sequence

from optical_dfa.errors import FeedbackShapeError


def feature_dim(shape: Sequence[int]) -> int:
    """Dimension that holds the features: 1 for images and volumes (4 or 5 dimensions), else the last."""
    return 1 if len(shape) in (4, 5) else len(shape) - 1


def leading(shape: Sequence[int]) -> tuple[int, ...]:
    """The other dimensions: sample and position."""
    dim = feature_dim(shape)
    return (*shape[:dim], *shape[dim + 1 :])


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
    if len(error) == len(point) == 2 and error[0] == point[0]:
        return  # the usual case, told at once: this runs in each step
    error_positions, point_positions = leading(error), leading(point)
    if point_positions[: len(error_positions)] != error_positions:
        raise FeedbackShapeError(
            f"feedback point {name!r} has shape {tuple(point)}, the error {tuple(error)}: their samples and positions, "
            f"{point_positions} and {error_positions}, must be equal, or those of the error the first of the point's. "
            "Choose another point, or name the module whose output carries the error with error_at="
        )
