"""Reads the results that `run_cell` makes. No torch: the command that waits for workers has no need of it."""

import math
from collections.abc import Mapping
from typing import Any


def number(value: Any) -> float:
    """A number of a result as a float: None is NaN."""
    return math.nan if value is None else float(value)


def series(result: Mapping[str, Any], name: str) -> list[float]:
    """One value of every epoch; NaN where it is missing."""
    return [number(epoch.get(name)) for epoch in result["epochs"]]
