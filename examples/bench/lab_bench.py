"""A DMD, a medium and a camera as a bench: what `open_device("bench", bench=…)` takes. The drivers are parameters.

`dmd`: `shape`, `load(frames, period_us)`, `run()`; for instance an ALP of ALP4lib, SeqAlloc and SeqPut behind `load`.
`camera`: `shape`, `bits`, `set_exposure(us)`, `arm(count)`, `fetch(count)`; for instance a GenICam camera of
harvesters, triggered by the DMD, `ia.fetch(timeout=…)` behind `fetch`, so that a lost image becomes a TimeoutError.
`phase`: `load(radians)`, a table that the DMD's trigger steps through; None without a phase modulator.
`shutter`: of the reference arm, called with True or False; None without a reference arm.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator import BenchInfo, FrameStamp


class LabBench:
    def __init__(
        self, dmd: Any, camera: Any, phase: Any = None, shutter: Callable[[bool], None] | None = None, *,
        n_features: int, gain_dn_per_e: float, black_level_dn: float = 0.0, period_us: float = 500.0,
    ) -> None:  # fmt: skip
        self.dmd, self.camera, self.phase, self.shutter = dmd, camera, phase, shutter
        self.frame_time_us = period_us
        mirrors = np.arange(np.prod(dmd.shape)) * n_features // np.prod(dmd.shape)
        self.feature_of_mirror = mirrors.reshape(dmd.shape)  # each feature has as many mirrors as the next
        self.info = BenchInfo(
            n_frame_inputs=n_features, image_shape=camera.shape, adc_bits=camera.bits,
            saturation_dn=2**camera.bits - 1, gain_dn_per_e=gain_dn_per_e, black_level_dn=black_level_dn,
            has_reference=shutter is not None, has_phase_modulator=phase is not None,
            exposure_limits_us=(1.0, period_us - 50),
        )  # fmt: skip

    def configure(self, *, exposure_us: float, reference_e: float) -> None:
        self.camera.set_exposure(exposure_us)  # the level of the reference arm is set by hand here

    def expose(
        self, frames: npt.NDArray[np.uint8], *, phases: npt.NDArray[np.floating] | None = None, reference: bool = True,
        at: FrameStamp | None = None,
    ) -> npt.NDArray[Any]:  # fmt: skip
        if self.shutter is not None:
            self.shutter(reference)
        if self.phase is not None:
            self.phase.load(np.zeros(len(frames)) if phases is None else phases)
        self.dmd.load(frames[:, self.feature_of_mirror], self.frame_time_us)
        self.camera.arm(len(frames))
        self.dmd.run()
        return np.stack(self.camera.fetch(len(frames)))  # (frames, rows, columns), uint8 or uint16
