"""Laws of time: seconds of a pass as a sum of non-negative terms, fitted to what was measured. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from optical_dfa.estimate.size import AxisName, Size

Quantity = Literal["projection", "bp_backward", "dfa_backward"]
"""Digital projection; backward pass of backpropagation; that of DFA without the projection."""


def terms(quantity: Quantity, size: Size) -> dict[str, float]:
    """What the time of a pass is taken to be proportional to, term by term."""
    if quantity == "projection":
        return {
            "call": 1.0,
            "multiply-add": size.projection_macs,
            "output": size.batch * size.n_outputs,
            "matrix entry": size.n_classes * size.n_outputs,
        }
    return {
        "layer": len(size.hidden) + 1.0,
        "multiply-add": size.weight_macs + (size.error_macs if quantity == "bp_backward" else 0),
        "error feature": size.batch * size.n_classes,
        "weight": size.weights,
        "activation": size.activations,
    }


@dataclass(frozen=True)
class Law:
    """Seconds of one pass: the sum of coefficient · term. Holds along one axis, whose points it was fitted to."""

    axis: AxisName
    quantity: Quantity
    coefficients: dict[str, float]
    """Seconds of one unit of each term, ≥ 0; terms that help nothing are left out."""
    worst_error: float
    """Largest |law / measured - 1| of the points it was fitted to."""

    def seconds(self, size: Size) -> float:
        """Time of a pass of that size."""
        values = terms(self.quantity, size)
        return sum(coefficient * values[name] for name, coefficient in self.coefficients.items())


def fit(axis: AxisName, quantity: Quantity, sizes: Sequence[Size], seconds: Sequence[float]) -> Law:
    """The law nearest to measured times t: least Σ (law - t)² / t with non-negative coefficients.

    Between plain least squares, which look at the largest sizes alone, and relative ones, by which ten small sizes
    would decide what is extrapolated from the large end.

    Args:
        axis: along which the sizes differ.
        quantity: what was measured.
        sizes: at which sizes, one or more.
        seconds: how long it took, > 0.
    """
    values = [terms(quantity, size) for size in sizes]
    names = list(values[0])
    weight = np.sqrt(np.asarray(seconds, np.float64))
    design = np.array([[row[name] for name in names] for row in values]) / weight[:, None]
    scale = np.linalg.norm(design, axis=0)  # terms differ by ten orders of magnitude
    best: tuple[float, dict[str, float]] | None = None
    # the non-negative optimum is the plain one of some subset of the terms; fewer terms first, to win ties
    for count in range(1, 1 + min(len(names), len(sizes))):
        for subset in map(list, combinations(range(len(names)), count)):
            found = np.linalg.lstsq(design[:, subset] / scale[subset], weight, rcond=None)[0]
            if (found < 0).any():
                continue
            found = found / scale[subset]
            error = float(np.square(design[:, subset] @ found - weight).sum())
            if best is None or error < best[0] * (1 - 1e-9) - 1e-24 * max(seconds):
                chosen = [names[term] for term in subset]
                best = error, dict(zip(chosen, map(float, found), strict=True))
    assert best is not None  # one term alone is always non-negative
    law = Law(axis, quantity, best[1], 0.0)
    errors = [abs(law.seconds(size) / time - 1) for size, time in zip(sizes, seconds, strict=True)]
    return Law(axis, quantity, best[1], max(errors))
