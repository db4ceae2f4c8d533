"""The size of a net and its batch: how many multiply-adds, and the axes along which it can grow. No torch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

AxisName = Literal["width", "depth", "batch", "classes"]


@dataclass(frozen=True)
class Size:
    """Linear layers with an activation after each but the last, and the vectors of one step."""

    n_features: int
    hidden: tuple[int, ...]
    n_classes: int
    """Features of the error: inputs of the device."""
    batch: int
    layout: Literal["shared", "independent"] = "shared"

    @cached_property
    def n_outputs(self) -> int:
        """Outputs of the device: the widest hidden layer, or all of them with the layout `independent`."""
        return max(self.hidden) if self.layout == "shared" else sum(self.hidden)

    @cached_property
    def weights(self) -> int:
        """Entries of all weight matrices."""
        return sum(n_in * n_out for n_in, n_out in pairwise([self.n_features, *self.hidden, self.n_classes]))

    @property
    def weight_macs(self) -> int:
        """Multiply-adds of the gradients of all weights in a step, and likewise of its forward pass."""
        return self.batch * self.weights

    @property
    def error_macs(self) -> int:
        """Multiply-adds that carry the error back through all layers but the first: what DFA spares."""
        return self.batch * (self.weights - self.n_features * self.hidden[0])

    @cached_property
    def activations(self) -> int:
        """Hidden activations of a step."""
        return self.batch * sum(self.hidden)

    @property
    def projection_macs(self) -> int:
        """Multiply-adds of the projection of a step, done digitally."""
        return self.batch * self.n_classes * self.n_outputs

    def __str__(self) -> str:
        return "-".join(map(str, [self.n_features, *self.hidden, self.n_classes])) + f", batch {self.batch}"


class Axis(NamedTuple):
    """A direction in which a net can grow."""

    label: str
    """What is counted, for tables and figures."""
    of: Callable[[Size], int]
    at: Callable[[Size, int], Size]
    """The size with another value on this axis, all else equal."""
    limit: int
    """Largest value that is looked at; the device may hold less."""


AXES: dict[AxisName, Axis] = {
    "width": Axis(
        "width of every hidden layer",
        lambda size: max(size.hidden),
        lambda size, value: replace(size, hidden=(value,) * len(size.hidden)),
        1 << 23,
    ),
    "depth": Axis(
        "hidden layers, each as wide as the widest",
        lambda size: len(size.hidden),
        lambda size, value: replace(size, hidden=(max(size.hidden),) * value),
        10_000,
    ),
    "batch": Axis("batch", lambda size: size.batch, lambda size, value: replace(size, batch=value), 1_000_000),
    "classes": Axis(
        "classes: features of the error",
        lambda size: size.n_classes,
        lambda size, value: replace(size, n_classes=value),
        1 << 21,
    ),
}
