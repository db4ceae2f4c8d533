"""What a training step will ask of the device, from one forward without gradients."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optical_dfa.calls import Call
from optical_dfa.devices import DeviceInfo
from optical_dfa.errors import FeedbackShapeError
from optical_dfa.shapes import check_shapes, feature_dim, joined_shape
from optical_dfa.sharing import Layout, outputs_needed


@dataclass(frozen=True)
class Plan:
    """What a training step will ask of the device; from `Feedback.plan`."""

    points: Mapping[str, tuple[int, ...]]
    """Shape of the output of each feedback point."""
    error_shape: tuple[int, ...]
    """Shape of the output that carries the error; of several, joined along the features."""
    vectors_per_step: int
    max_frames_per_step: int
    """Frames if no half of a vector is dark, dark ones are skipped; with probes and marks, their mean number."""
    n_inputs: int
    n_outputs: int


@dataclass
class PlanCall(Call):
    """One running forward of which only shapes are kept."""

    taps: list[tuple[tuple[int, ...], list[tuple[str, tuple[int, ...]]]]] = field(default_factory=list)
    """Shape of the error of each Tap, and its points with their shapes."""
    points: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)

    def cut(self, name: str, h: Tensor) -> Tensor:
        """Keep the shape."""
        self.points.append((name, tuple(h.shape)))
        return h

    def join(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Keep the shape, and check that it can feed the points."""
        points, self.points = self.points, []
        error_shape = joined_shape([output.shape for output in outputs])
        for name, shape in points:
            check_shapes(error_shape, shape, name)
        self.taps.append((error_shape, points))
        return outputs

    def size(self, layout: Layout) -> tuple[int, int, int]:
        """Inputs and outputs of the device, and errors of a step.

        Raises:
            FeedbackShapeError: the errors of several Taps have different numbers of features.
        """
        inputs = {error[feature_dim(error)] for error, points in self.taps if points}
        if len(inputs) > 1:
            raise FeedbackShapeError(
                f"the outputs that carry the error have {sorted(inputs)} features, but a device has one number of "
                "inputs: mark tensors of one width"
            )
        widths = [[shape[feature_dim(shape)] for _, shape in points] for _, points in self.taps if points]
        n_outputs = max(outputs_needed(one, layout) for one in widths)
        vectors = sum(torch.Size(error).numel() // error[feature_dim(error)] for error, points in self.taps if points)
        return inputs.pop(), n_outputs, vectors

    def plan(self, layout: Layout, info: DeviceInfo, planes: int) -> Plan:
        """The plan of a step whose errors take `planes` vectors each."""
        n_inputs, n_outputs, errors = self.size(layout)
        vectors = planes * errors
        points = dict(point for _, waiting in self.taps for point in waiting)
        return Plan(points, self.taps[-1][0], vectors, math.ceil(info.frames(vectors)), n_inputs, n_outputs)
