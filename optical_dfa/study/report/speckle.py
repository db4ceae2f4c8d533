"""What the camera of a condition sees."""

from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.config import RunConfig
from optical_dfa.devices import load_preset
from optical_dfa.emulator import BenchParameters, EmulatedBench, FrameStamp

N_INPUTS, SIDE = 10, 48


def frame(config: RunConfig) -> tuple[npt.NDArray[np.float64], str]:
    """A camera frame of the bench that a configuration names, with one feature ON and the reference arm.

    Returns:
        float64 (48, 48), and its unit: DN, or e⁻ without a converter.
    """
    sections: dict[str, Any] = {
        section.name: config.device[section.name]
        for section in fields(BenchParameters)
        if section.name in config.device
    }
    bench_of = load_preset(config.device.get("preset", "phase-stepping"), sections).bench
    width = 2040  # the camera's full width, so that the frame has SIDE rows
    bench = EmulatedBench(N_INPUTS, SIDE * width, config.device.get("seed", 0), bench_of)
    pattern = np.zeros((1, N_INPUTS), np.uint8)
    pattern[0, 0] = 1
    image = np.asarray(bench.expose(pattern, at=FrameStamp(0, 0)))[0, :SIDE, :SIDE].astype(np.float64)
    return image, "DN" if bench_of.camera.adc_bits else "e⁻"
