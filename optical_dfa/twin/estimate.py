"""A fitted value, and how sure it is."""

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["measured", "limit", "not told"]


@dataclass(frozen=True)
class Estimate:
    """One value of a bench."""

    name: str
    """As in a preset, for instance `camera.read_noise_e`, or of what no preset has."""
    kind: Kind
    """`measured`; `limit`: nothing of it was seen, or only that it is at least so much; `not told` by these frames."""
    value: float
    """NaN where it was not told."""
    low: float
    high: float
    """95 % interval; of a limit, where it may be."""
    why: str = ""
    """What it comes from, or why it was not told."""

    @property
    def error(self) -> float:
        """Standard error: a quarter of the interval."""
        return (self.high - self.low) / 4


def measured(name: str, value: float, error: float, why: str = "") -> Estimate:
    """A value with its standard error."""
    return Estimate(name, "measured", value, value - 2 * error, value + 2 * error, why)


def at_most(name: str, limit: float, why: str) -> Estimate:
    """Nothing was seen: the value is below a limit, with 95 %."""
    return Estimate(name, "limit", 0.0, 0.0, limit, why)


def at_least(name: str, limit: float, why: str) -> Estimate:
    """The value is above a limit, with 95 %; `inf` would do as well."""
    return Estimate(name, "limit", math.inf, limit, math.inf, why)


def not_told(name: str, why: str) -> Estimate:
    """These frames say nothing of it."""
    return Estimate(name, "not told", math.nan, math.nan, math.nan, why)
