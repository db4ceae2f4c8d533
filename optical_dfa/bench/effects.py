"""Effects of the bench that are switched on one at a time, to see what each costs."""

from collections.abc import Mapping
from typing import Any

Sections = Mapping[str, Mapping[str, Any]]
"""Sections of a preset and the values to change."""

NONE = "nothing more"
DRIFT = "decorrelation"
POISSON = "exact Poisson noise below 20 electrons"

GRAINS: Mapping[str, Sections] = {
    "grain 0.5 px": {"grain": {"size_px": 0.5}},
    "grain 2.2 px": {"grain": {"size_px": 2.2}},
}
"""More modes, or more pixels, for each output."""

SMALL: Mapping[str, Sections] = {
    "DMD contrast": {"dmd": {"contrast": 1000.0}},
    "DMD padding": {"dmd": {"padding": True}},
    "beam on the DMD": {"dmd": {"envelope_waist": 2.0}},
    "beams on the camera": {"laser": {"signal_waist": 1.5, "reference_waist": 1.5}},
    "piston phase and vibration": {"medium": {"piston_walk_rad": 0.02, "vibration_rad": 0.01}},
    "laser noise and reference errors": {
        "laser": {"intensity_noise": 0.002, "reference_error": 0.01, "phase_step_error": 0.005}
    },
    "dark current, black level, quantum efficiency": {
        "camera": {"dark_current_e_per_s": 125.0, "black_level_dn": 8.0, "quantum_efficiency": 0.6}
    },
    "maps of the pixels, dead and hot ones": {
        "camera": {"prnu": 0.008, "dsnu_e": 3.0, "dead_pixels": 1e-3, "hot_pixels": 1e-4, "hot_e_per_s": 1e5}
    },
}
"""Effects that should cost little."""


def _together(effects: Mapping[str, Sections]) -> dict[str, dict[str, Any]]:
    joined: dict[str, dict[str, Any]] = {}
    for sections in effects.values():
        for section, values in sections.items():
            joined.setdefault(section, {}).update(values)
    return joined


ALL = "all of these"

EFFECTS: Mapping[str, Sections] = {
    NONE: {},
    DRIFT: {"medium": {"decorrelation_tau_s": 1e4}},
    POISSON: {"camera": {"poisson_below_e": 20.0}},
    **GRAINS,
    **SMALL,
    ALL: _together(SMALL),
}
"""By name."""
