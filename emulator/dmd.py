"""The micromirror device: contrast, mirrors left over, illumination."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.checks import require

ENVELOPE_STEPS = 63
"""The illumination of a feature is one of so many levels: frames stay integers, and their product with T exact. 2048
products of 127 and 63 stay below 2^24, up to where float32 counts exactly."""


@dataclass(frozen=True)
class Dmd:
    """A binary micromirror device and the beam on it. Defaults: off."""

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    contrast: float = math.inf
    """Intensity of an ON mirror over that of an OFF mirror; inf: OFF mirrors are dark."""
    padding: bool = False
    """Mirrors that are left over when every feature has its share are ON in every frame."""
    envelope_waist: float = math.inf
    """1/e² radius (intensity) of the Gaussian beam, in half sides of the DMD; inf: evenly lit."""

    def __post_init__(self) -> None:
        require(self.contrast > 1, "contrast", self.contrast, "a ratio > 1, or .inf")
        require(self.envelope_waist > 0, "envelope_waist", self.envelope_waist, "half sides > 0, or .inf")

    @property
    def leak(self) -> float:
        """Amplitude of an OFF mirror, that of an ON mirror being 1: κ."""
        return 1 / math.sqrt(self.contrast)

    def illumination(self, n_features: int) -> npt.NDArray[np.uint8] | None:
        """Amplitude on each feature, in units of 1/`ENVELOPE_STEPS` of the largest; None if all are alike.

        Features fill the DMD row by row, in as square a grid as their number allows; the beam is as oblong as the DMD.
        uint8 (n_features,), at most `ENVELOPE_STEPS`.
        """
        if self.envelope_waist == math.inf:
            return None
        rows = max(1, math.isqrt(n_features))
        columns = -(-n_features // rows)
        y, x = np.divmod(np.arange(n_features), columns)
        y, x = (2 * y + 1) / rows - 1, (2 * x + 1) / columns - 1
        square = (x**2 + y**2) / self.envelope_waist**2
        amplitude = np.exp(square.min() - square)
        levels: npt.NDArray[np.uint8] = np.rint(ENVELOPE_STEPS * amplitude).astype(np.uint8)
        return levels

    def padding_features(self, n_features: int, mirrors: int) -> float:
        """Mirrors ON in every frame, in units of those that show one feature; 0 without padding."""
        each = mirrors // n_features
        return (mirrors - n_features * each) / each if self.padding else 0.0
