"""What an emulated device knows of itself, to be set beside what was fitted to its frames."""

import math
from collections.abc import Mapping
from typing import Any

from optical_dfa.twin.fit import Twin


def known_values(twin: Twin) -> dict[str, float]:
    """True values by the names of the estimates; none, of a device that is not emulated."""
    spec: Mapping[str, Any] = twin.seen.source.settings
    if twin.seen.source.device != "emulator" or "photometry" not in spec:
        return {}
    leak = 1 - 1 / math.sqrt(float(spec["dmd"]["contrast"]))
    known: dict[str, Any] = {
        f"{section}.{name}": value
        for section in ("camera", "dmd", "medium", "laser")
        for name, value in spec[section].items()
    }
    known["photometry.signal_e_per_feature"] = spec["photometry"]["signal_e_per_feature"] * leak**2
    known["photometry.reference_e"] = spec["photometry"]["reference_e"] * (1 + spec["laser"]["reference_error"])
    known["contrast of the interferometer"] = min(1.0, float(spec["grain"]["size_px"]))
    names = {estimate.name for estimate in twin.estimates}
    return {name: float(value) for name, value in known.items() if name in names and value is not None}
