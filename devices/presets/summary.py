"""A bench in words: what is on, with units."""

import dataclasses
import math
from typing import Any

from optical_dfa.devices.readouts.maps import Calibration
from optical_dfa.devices.readouts.settings import PhaseSteppingSettings, ReadoutSettings
from optical_dfa.emulator import BenchParameters

_UNITS = (
    ("signal_e_per_feature", "e-/px/exposure"),
    ("reference_e", "e-/px/exposure"),
    ("gain_dn_per_e", "DN/e-"),
    ("_e_per_s", "e-/s"),
    ("_e", "e-"),
    ("_dn", "DN"),
    ("_us", "us"),
    ("_s", "s"),
    ("_w", "W"),
    ("_rad", "rad"),
    ("_px", "px"),
    ("_deg", "deg"),
    ("_bits", "bits"),
    ("tilt_x", "cycles/px"),
    ("tilt_y", "cycles/px"),
    ("envelope_waist", "half sides of the DMD"),
    ("_waist", "half widths of the image"),
    ("quantum_efficiency", "e-/photon"),
    ("probe_every", "vectors"),
    ("sync_every", "frames"),
)
"""How a value's name ends, and what it is measured in; the first that fits. Others are ratios, counts and choices."""

_OFF: dict[str, Any] = {
    "camera.shot_noise": False,
    "camera.read_noise_e": 0.0,
    "camera.full_well_e": math.inf,
    "camera.adc_bits": None,
}
"""Off values that are no defaults."""


def unit(name: str) -> str:
    """Unit of the value of that name, or nothing."""
    return next((unit for end, unit in _UNITS if name.endswith(end)), "")


def summary(bench: BenchParameters, readout: ReadoutSettings) -> str:
    """One line for each value that is on: `camera.read_noise_e   13 e-`. What is off is not mentioned.

    Of the readout: nothing if it is four-step phase stepping and no more, otherwise its kind and values, and of probe,
    marks and calibrations what is taken.
    """
    shown = []
    for section, part in dataclasses.asdict(bench).items():
        kind = type(getattr(bench, section))
        defaults = {f"{section}.{f.name}": f.default for f in dataclasses.fields(kind)}
        values = {f"{section}.{name}": value for name, value in part.items()}
        on = {name: value for name, value in values.items() if value != _OFF.get(name, defaults[name])}
        shown += [(name, f"{_text(value)} {unit(name)}".strip()) for name, value in on.items()]
    if readout != PhaseSteppingSettings():
        chosen = dataclasses.asdict(readout)
        maps = chosen.pop("calibration")
        taken = {f"calibration.{name}": frames for name, frames in maps.items() if readout.calibration != Calibration()}
        on = {name: value for name, value in chosen.items() if value or not name.endswith("_every")}
        values = {f"readout.{name}": value for name, value in {**on, **taken}.items()}
        shown += [(name, f"{_text(value)} {unit(name)}".strip()) for name, value in values.items()]
    width = max(len(name) for name, _ in shown)
    return "\n".join(f"{name:{width}}  {value}" for name, value in shown)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "on"
    return f"{value:,.10g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
