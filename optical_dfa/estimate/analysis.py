"""From what was measured to laws, curves and break-evens. No torch."""

from collections.abc import Sequence

import numpy as np

from optical_dfa.estimate.breakeven import faster_spans, largest_accepted
from optical_dfa.estimate.laws import Law, Quantity, fit
from optical_dfa.estimate.model import Optics
from optical_dfa.estimate.report import BreakEven, Case, Curves, Point, Reference
from optical_dfa.estimate.size import AXES, AxisName, Size

CURVE_POINTS = 60


Laws = dict[tuple[AxisName, Quantity], Law]


def fit_laws(base: Size, points: Sequence[Point]) -> Laws:
    """One law for each axis and quantity, fitted to the points on that axis."""
    laws: Laws = {}
    for axis in AXES:
        sizes = on_axis(axis, base, [point.size for point in points])
        chosen = [next(point for point in points if point.size == size).times for size in sizes]
        laws[axis, "projection"] = fit(axis, "projection", sizes, [times.projection for times in chosen])
        laws[axis, "bp_backward"] = fit(axis, "bp_backward", sizes, [times.bp_backward for times in chosen])
        laws[axis, "dfa_backward"] = fit(axis, "dfa_backward", sizes, [times.dfa_backward for times in chosen])
    return laws


class Comparison:
    """The modelled machine against this one, along every axis from one size.

    Args:
        size: the configured net.
        optics: the modelled machine.
        laws: of this machine's times.
        dark: case → fraction of dark sides.
        points: what was measured, for the ranges.
    """

    def __init__(
        self, size: Size, optics: Optics, laws: Laws, dark: dict[Case, float], points: Sequence[Point]
    ) -> None:
        self._size, self._optics, self._laws, self._dark, self._points = size, optics, laws, dark, points

    def break_even(self) -> list[BreakEven]:
        """Where the optics takes less time, for each axis, reference and case."""
        references: tuple[Reference, ...] = ("digital projection", "backward pass")
        return [
            self._break_even(axis, reference, case) for axis in AXES for reference in references for case in self._dark
        ]

    def curves(self, found: Sequence[BreakEven]) -> list[Curves]:
        """What to draw along each axis: as far as was measured and to the break-evens, and somewhat further."""
        return [self._curves(axis, [each for each in found if each.axis == axis]) for axis in AXES]

    def _break_even(self, axis: AxisName, reference: Reference, case: Case) -> BreakEven:
        at = AXES[axis].at

        def optical(value: int) -> float:
            size = at(self._size, value)
            return self._optical_dfa(axis, size, case) if reference == "backward pass" else self._optical(size, case)

        law = self._laws[axis, "bp_backward" if reference == "backward pass" else "projection"]
        limit = self._limit(axis)
        spans = faster_spans(optical, lambda value: law.seconds(at(self._size, value)), limit)
        return BreakEven(axis, reference, case, spans, limit, self._measured(axis)[-1])

    def _curves(self, axis: AxisName, found: Sequence[BreakEven]) -> Curves:
        limit, measured = found[0].limit, self._measured(axis)
        ends = [end for each in found for span in each.spans for end in span if 1 < end < limit]
        first = max(1, min(measured[0], min(ends, default=limit) // 3))
        last = min(limit, max(4 * measured[-1], 3 * max(ends, default=1)))
        values = sorted({round(value) for value in np.geomspace(first, last, CURVE_POINTS)})
        sizes = [AXES[axis].at(self._size, value) for value in values]
        return Curves(
            axis=axis,
            values=values,
            digital=[self._laws[axis, "projection"].seconds(size) for size in sizes],
            bp=[self._laws[axis, "bp_backward"].seconds(size) for size in sizes],
            optics={case: [self._optical(size, case) for size in sizes] for case in self._dark},
            optical_dfa={case: [self._optical_dfa(axis, size, case) for size in sizes] for case in self._dark},
        )

    def _optical(self, size: Size, case: Case) -> float:
        return self._optics.cost(size.n_classes, size.n_outputs, size.batch, self._dark[case]).seconds

    def _optical_dfa(self, axis: AxisName, size: Size, case: Case) -> float:
        return self._laws[axis, "dfa_backward"].seconds(size) + self._optical(size, case)

    def _limit(self, axis: AxisName) -> int:
        def accepts(value: int) -> bool:
            size = AXES[axis].at(self._size, value)
            return self._optics.accepts(size.n_classes, size.n_outputs)

        return largest_accepted(accepts, AXES[axis].limit)

    def _measured(self, axis: AxisName) -> list[int]:
        return sorted(AXES[axis].of(size) for size in on_axis(axis, self._size, [point.size for point in self._points]))


def on_axis(axis: AxisName, base: Size, sizes: Sequence[Size]) -> list[Size]:
    """Those of the sizes that the axis leads to from `base`, and `base` itself."""
    at, of = AXES[axis].at, AXES[axis].of
    return [size for size in sizes if size == base or size == at(base, of(size))]
