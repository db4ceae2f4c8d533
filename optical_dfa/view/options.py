"""Which bench to look at, and how large."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optical_dfa.devices import Preset, load_preset
from optical_dfa.emulator.parameters import Grain
from optical_dfa.run_errors import InputError

PIXELS = 130_560
"""About the pixels of an image, where the number of outputs is left open."""

LEAST_OUTPUTS = 200

_READ = ("phase_stepping", "off_axis")


@dataclass(frozen=True)
class Options:
    """What to look at."""

    preset: str | Preset
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Sections of the preset to change, as of `load_preset`."""
    n_inputs: int = 64
    n_on: int = 2
    """Features ON in a pattern."""
    n_outputs: int | None = None
    """None: those of an image of about `PIXELS` pixels."""
    seed: int = 0

    def check(self) -> Preset:
        """The preset with its overrides.

        Raises:
            InputError: sizes that do not fit together, or a readout that is not looked at.
            optical_dfa.devices.InvalidConfig: unknown preset, or values that it does not take.
        """
        preset = load_preset(self.preset, self.overrides)
        if preset.measured is not None:
            raise InputError(f"{preset.name}: a digital twin; bench-view draws a matrix of its own: see twin.png")
        if preset.readout.kind not in _READ:
            raise InputError(f"readout.kind {preset.readout.kind}: bench-view looks at {' and '.join(_READ)}")
        for name, value, least in (("--inputs", self.n_inputs, 2), ("--outputs", self.n_outputs, LEAST_OUTPUTS)):
            if value is not None and value < least:
                raise InputError(f"{name} {value}: must be {least} or more")
        if not 1 <= self.n_on <= self.n_inputs:
            raise InputError(f"--on {self.n_on}: must be from 1 to the number of inputs, {self.n_inputs}")
        if not 0 <= self.seed < 1 << 64:
            raise InputError(f"--seed {self.seed}: must be from 0 to 2^64 - 1")
        return preset

    def outputs_of(self, preset: Preset) -> int:
        """Outputs to read: as given, or two for each mode of an image of about `PIXELS` pixels."""
        if self.n_outputs is not None:
            return self.n_outputs
        pixels = min(PIXELS, preset.bench.apparatus.camera_pixels // 2)
        return max(LEAST_OUTPUTS, 2 * round(pixels * _modes_per_pixel(preset.bench.grain)))


def _modes_per_pixel(grain: Grain) -> float:
    """Modes that are read for each pixel: 1, or the part of the Fourier plane inside the pupil."""
    if grain.size_px <= 1:
        return 1.0
    return (math.pi / 4 if grain.pupil == "circular" else 1.0) / grain.size_px**2
