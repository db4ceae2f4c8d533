"""A look at a device now and then, while a net is trained on it."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.devices import ProjectionDevice
from optical_dfa.health.check import check, correlation, decibels, superposition_error

PAIRS = 4
"""Pairs of vectors of a look: 3 · 4 vectors, shown twice."""

LIT = 4


@dataclass(frozen=True)
class HealthSample:
    """What a look found; a row of `health.csv`."""

    epoch: int
    """From 1."""
    step: int
    """Finished steps of the epoch."""
    snr_db: float
    superposition_error: float
    saturated_fraction: float
    """Of the pixel readings of the look; 0 without a camera."""
    drift: float
    """Correlation of the fields with those of the first look, without the noise of either."""


class Monitor:
    """Shows the same vectors at every look.

    They are displayed like any others: the device moves on, and a run with a monitor is another run than one without.

    Args:
        device: open, linear, with 2 inputs or more.
    """

    def __init__(self, device: ProjectionDevice) -> None:
        self._device = device
        self._first: npt.NDArray[np.float32] | None = None
        self.samples: list[HealthSample] = []

    def look(self, epoch: int, step: int) -> HealthSample:
        """Show the vectors and compare.

        Raises:
            DeviceError: the device failed; nothing was changed.
        """
        found = check(self._device, pairs=PAIRS, lit=min(LIT, self._device.info.n_inputs))
        one, other = found.fields.astype(np.float64)
        usage = found.usage
        sample = HealthSample(
            epoch=epoch,
            step=step,
            snr_db=decibels(float((one * other).mean()), float(np.square(one - other).mean() / 2)),
            superposition_error=superposition_error(one, other),
            saturated_fraction=usage.saturated_pixels / usage.pixel_readings if usage.pixel_readings else 0.0,
            drift=1.0 if self._first is None else correlation(self._first.astype(np.float64), np.stack([one, other])),
        )
        if self._first is None:
            self._first = found.fields
        self.samples.append(sample)
        return sample

    def state_dict(self) -> dict[str, Any]:
        """The first fields, and the samples as plain values."""
        return {"first": self._first, "samples": [asdict(sample) for sample in self.samples]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on comparing with the look that `state_dict` knew."""
        self._first = None if state["first"] is None else np.asarray(state["first"], np.float32)
        self.samples = [HealthSample(**row) for row in state["samples"]]
