"""A DMD and a camera without a laboratory: the emulated bench, taken apart into drivers as `lab_bench.py` wants them.

PYTHONPATH=examples/bench optical-dfa train examples/bench/train.yaml
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from lab_bench import LabBench

from optical_dfa.devices import load_preset
from optical_dfa.emulator import EmulatedBench

Images = npt.NDArray[Any]

FEATURES, PIXELS, DMD_SHAPE = 32, (8, 64), (48, 64)


class SimulatedPair:
    """The light between the two: what the DMD shows when it runs is what the camera sees."""

    def __init__(self, preset: str = "lab-bench", seed: int = 0) -> None:
        self.bench = EmulatedBench(FEATURES, int(np.prod(PIXELS)), seed, load_preset(preset).bench)
        self.frames = np.zeros((0, *DMD_SHAPE), np.uint8)
        self.phases: npt.NDArray[np.floating] | None = None
        self.reference = True
        self.images: list[Images] = []

    def flash(self) -> None:
        mirrors = DMD_SHAPE[0] * DMD_SHAPE[1] // FEATURES
        features = np.ascontiguousarray(self.frames.reshape(len(self.frames), -1)[:, ::mirrors])
        images = self.bench.expose(features, phases=self.phases, reference=self.reference)
        self.images = list(images.reshape(len(images), *PIXELS))


class SimulatedDmd:
    shape = DMD_SHAPE

    def __init__(self, pair: SimulatedPair) -> None:
        self.pair = pair

    def load(self, frames: npt.NDArray[np.uint8], period_us: float) -> None:
        self.pair.frames = frames

    def run(self) -> None:
        self.pair.flash()


class SimulatedCamera:
    shape = PIXELS
    bits = 10

    def __init__(self, pair: SimulatedPair) -> None:
        self.pair = pair

    def set_exposure(self, exposure_us: float) -> None:
        self.pair.bench.configure(exposure_us=exposure_us, reference_e=self.pair.bench.reference_e)

    def arm(self, count: int) -> None:
        self.pair.images = []

    def fetch(self, count: int) -> list[Images]:
        if len(self.pair.images) < count:
            raise TimeoutError(f"{count - len(self.pair.images)} of {count} images did not come")
        return self.pair.images[:count]


class SimulatedPhase:
    def __init__(self, pair: SimulatedPair) -> None:
        self.pair = pair

    def load(self, radians: npt.NDArray[np.floating]) -> None:
        self.pair.phases = radians


def open_bench() -> LabBench:
    """What the configuration names: `bench: simulated_pair:open_bench`."""
    pair = SimulatedPair()

    def shutter(is_open: bool) -> None:
        pair.reference = is_open

    parts = SimulatedDmd(pair), SimulatedCamera(pair), SimulatedPhase(pair), shutter
    camera = pair.bench.parameters.camera
    return LabBench(
        *parts, n_features=FEATURES, gain_dn_per_e=camera.gain_dn_per_e, black_level_dn=camera.black_level_dn
    )
