"""The bench of a digital twin, to be read by any readout."""

import math
from collections.abc import Mapping
from typing import Any

from optical_dfa.devices.errors import InvalidConfig
from optical_dfa.devices.faults import Fault
from optical_dfa.devices.presets import load_preset
from optical_dfa.emulator import EmulatedBench


def twin_bench(preset: str, seed: int = 0, overrides: Mapping[str, Any] | None = None) -> EmulatedBench:
    """The bench of a digital twin, of all inputs and pixels that were measured.

    `open_device("bench", bench=lambda: twin_bench("twin/preset.yaml"), …)` reads it as it reads the real one, gain
    calibration included; in a configuration, `bench: twin/preset.yaml` says the same.

    Args:
        preset: file of `optical-dfa twin`.
        seed: of the noise.
        overrides: values of the preset to change, as of `load_preset`.

    Raises:
        InvalidConfig: no twin, or one whose files cannot be read.
    """
    found = load_preset(preset, overrides)
    if found.measured is None:
        message = f"{preset}: names no measured light: give the preset.yaml that optical-dfa twin wrote"
        raise InvalidConfig(message, [Fault(("bench",), message)])
    light, _, _ = found.measured.load()
    return EmulatedBench(light.matrix.shape[1], math.prod(light.image_shape), seed, found.bench, measured=light)
