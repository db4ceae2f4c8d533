"""What feedback was given, beside what it should have been: at the points, in the projection, in the weights."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from optical_dfa.alignment.capture import Run
from optical_dfa.alignment.formulas import (
    Rows,
    Sums,
    exact_fields,
    expected_cosine,
    mean_cosine,
    product_sums,
    sample_sums,
    top_sums,
)
from optical_dfa.alignment.report import PointAlignment, ProjectionAlignment
from optical_dfa.projection import Projection
from optical_dfa.shapes import feature_dim, leading

if TYPE_CHECKING:
    from optical_dfa.feedback import Feedback


class Given:
    """What the training step gave: gradients at the points, and the projection."""

    def __init__(self) -> None:
        self.shapes: dict[Run, tuple[int, ...]] = {}
        self.deltas: dict[Run, Tensor] = {}
        self.projections: list[Projection] = []

    def delta(self, run: Run, gradient: Tensor) -> None:
        """Keep what came to a point."""
        self.deltas[run] = gradient

    def project(self, projection: Projection) -> None:
        """Keep the projection."""
        self.projections.append(projection)

    @property
    def projection(self) -> Projection | None:
        """The projection of the step; None if there were several, which share out the points in a way of their own."""
        return self.projections[0] if len(self.projections) == 1 else None


def matrix_rows(projection: Projection) -> Rows | None:
    """Rows of the matrix of the device; None if it is not known."""
    device = projection.device
    if device.effective_matrix(slice(0, 1)) is None:
        return None
    return lambda rows: torch.from_numpy(device.effective_matrix(rows))


def fields_of(projection: Projection) -> tuple[Tensor, Tensor] | None:
    """T t and T e, float32 (rows, outputs), of what was displayed and of the error; None if T is not known."""
    rows, n_outputs = matrix_rows(projection), projection.field.shape[1]
    if rows is None:
        return None
    ternary, exact = (exact_fields(rows, n_outputs, one.float()) for one in (projection.encoded, projection.error))
    return ternary, exact


def projection_alignment(given: Given) -> ProjectionAlignment | None:
    """Ternarisation and noise apart; None without exactly one projection by a known matrix."""
    projection = given.projection
    fields = None if projection is None else fields_of(projection)
    if projection is None or fields is None:
        return None
    ternary, exact = fields
    signal = float(ternary.double().square().sum())
    noise = 0.0 if projection.device.info.exact else float((projection.field.double() - ternary).square().sum())
    snr_db = 10 * math.log10(signal / noise) if signal and noise else (math.inf if signal else math.nan)
    optical, ternary = projection.combine(projection.field), projection.combine(ternary)
    return ProjectionAlignment(
        ternary=mean_cosine(sample_sums(ternary, exact)),
        noise=mean_cosine(sample_sums(optical, ternary)),
        expected_noise=expected_cosine(snr_db),
        optical=mean_cosine(sample_sums(optical, exact)),
        snr_db=snr_db,
        dark=float((projection.encoded == 0).all(1).double().mean()),
    )


class Signals:
    """The feedback of every point beside the true gradient at its output, as it comes in the second backward pass."""

    def __init__(self, given: Given, feedback: "Feedback") -> None:
        self._given = given
        self._starts: dict[Run, int] = {}
        start = 0
        for run, shape in given.shapes.items():
            self._starts[run] = start
            start += shape[feature_dim(shape)] if feedback._choices.layout == "independent" else 0
        self._fields: list[Tensor] = []
        if given.projection is not None:
            optical_and_ternary = (given.projection.field, *(fields_of(given.projection) or ()))
            self._fields = [given.projection.combine(field) for field in optical_and_ternary[:2]]
            self._fields += optical_and_ternary[2:]
        self._sums: dict[Run, list[Tensor]] = {}

    def compare(self, run: Run, true: Tensor) -> None:
        """Compare with the gradient that came to a point's output."""
        shape = self._given.shapes.get(run)
        if shape is not None:
            start = self._starts[run]
            width = shape[feature_dim(shape)]
            self._sums[run] = [_cosine_sums(field[:, start : start + width], true) for field in self._fields]

    def points(self, deltas: Mapping[Run, Tensor]) -> dict[str, PointAlignment]:
        """By point; the runs of one that ran several times are samples of it."""
        found = {}
        for name in dict.fromkeys(run.point for run in self._given.shapes):
            runs = [run for run in self._given.shapes if run.point == name]
            delta = [deltas[run] for run in runs if run in deltas]
            signals = [self._sums[run] for run in runs if run in self._sums]
            kinds = [mean_cosine(torch.cat(list(kind), 1)) for kind in zip(*signals, strict=True)]
            optical, ternary, exact = [*kinds, None, None, None][:3]
            found[name] = PointAlignment(
                delta=mean_cosine(torch.cat(delta, 1)) if delta else math.nan,
                optical=math.nan if optical is None else optical,
                ternary=ternary,
                exact=exact,
            )
        return found


def _cosine_sums(field: Tensor, true: Tensor) -> Tensor:
    """Sums, sample by sample, of the share of a point and the gradient at its output.

    A row of the field is an error vector; it belongs to one position of the point, or to all those behind its own.
    """
    features_last = true.movedim(feature_dim(true.shape), -1)
    positions = leading(true.shape)
    per_row = features_last.reshape(len(field), -1, field.shape[1])  # (rows, positions that share one, features)
    shared = field[:, None].expand_as(per_row)
    sums = sample_sums(shared, per_row)
    return sums.reshape(3, positions[0], -1).sum(2) if positions else sums


def weight_sums(feedback: "Feedback", net: nn.Module, given: Given) -> dict[str, Sums]:
    """Sums of each weight that alone lies between two points, or alone above the last, with its feedback matrices."""
    projection = given.projection
    rows = None if projection is None else matrix_rows(projection)
    runs = list(given.shapes)
    if projection is None or rows is None or any(run.number for run in runs) or not runs:
        return {}
    n_classes = projection.error.shape[1]
    widths = {run: shape[feature_dim(shape)] for run, shape in given.shapes.items()}
    matrices: dict[Run, Rows] = {}
    scale = feedback._choices.scale
    start = 0
    for run, width in widths.items():
        matrices[run] = _shifted(rows, start, width**-0.5 if scale is None else scale)
        start += width if feedback._choices.layout == "independent" else 0
    audit = feedback.audit()
    found = {}
    for lower, upper in zip(runs, [*runs[1:], None], strict=True):
        if upper is None:
            names = [
                row.parameter for row in audit.rows if row.source == "exact" and not (row.points or row.exact_through)
            ]
            shape: Sequence[int] = (n_classes, widths[lower])
        else:
            names = [row.parameter for row in audit.rows if row.source == "feedback" and row.points == (upper.point,)]
            shape = (widths[upper], widths[lower])
        weights = {name: net.get_parameter(name) for name in names if tuple(net.get_parameter(name).shape) == shape}
        if len(weights) != 1:
            continue
        ((name, weight),) = weights.items()
        if upper is None:
            found[name] = top_sums(weight, matrices[lower], n_classes)
        else:
            found[name] = product_sums(weight, matrices[upper], matrices[lower], n_classes)
    return found


def _shifted(rows: Rows, start: int, scale: float) -> Rows:
    return lambda wanted: scale * rows(slice(start + wanted.start, start + wanted.stop))
