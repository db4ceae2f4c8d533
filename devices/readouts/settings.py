"""Which readout a device uses, as data: the section `readout` of a preset."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from optical_dfa.devices.errors import InvalidConfig
from optical_dfa.devices.faults import Fault, listed, nearest, validation_faults
from optical_dfa.devices.readouts.anchored import DIM, Anchored, anchor_patterns, bright_fraction
from optical_dfa.devices.readouts.base import Bench
from optical_dfa.devices.readouts.maps import Calibration
from optical_dfa.devices.readouts.off_axis import OffAxis, fitting_image
from optical_dfa.devices.readouts.phase_stepping import PhaseStepping
from optical_dfa.emulator import BenchParameters
from optical_dfa.emulator.checks import require
from optical_dfa.emulator.pupil import Pupil


@dataclass(frozen=True)
class PhaseSteppingSettings:
    """Settings of `PhaseStepping`."""

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    kind: Literal["phase_stepping"] = "phase_stepping"
    steps: Literal[3, 4] = 4
    """Frames of a pattern."""
    probe_every: int = 0
    """Vectors from probe to probe, which `tracking` follows the piston phase by; 0: no probe."""
    sync_every: int = 0
    """Frames from mark to mark, which `SyncedBench` finds dropped frames by; 0: no marks."""
    calibration: Calibration = field(default_factory=Calibration)

    def __post_init__(self) -> None:
        require(self.steps in (3, 4), "steps", self.steps, "3 or 4")
        _check_counts(self, "probe_every", "sync_every")

    @property
    def output_map(self) -> str:
        """Output o is row o of T."""
        return "rows"

    @property
    def on_gpu(self) -> bool:
        """Whether CuPy images are read on the GPU."""
        return self == PhaseSteppingSettings()

    def fit(self, bench: BenchParameters, n_inputs: int, n_outputs: int) -> tuple[int, int, BenchParameters]:
        """See `ReadoutSettings`."""
        return n_inputs, -(-n_outputs // 2), bench

    def make(self, bench: Bench, n_inputs: int, n_outputs: int, reference_e: float, backend: str) -> PhaseStepping:
        """See `ReadoutSettings`. It may have more outputs than asked for."""
        pupil = _pupil(bench) if bench.info.grain_px > 1 else None
        return PhaseStepping(bench, reference_e, backend, steps=self.steps, calibration=self.calibration, pupil=pupil)


@dataclass(frozen=True)
class OffAxisSettings:
    """Settings of `OffAxis`."""

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    kind: Literal["off_axis"] = "off_axis"
    direction_deg: float = 45.0
    """Direction in which the reference arm is tilted, from the rows of the image towards its columns: by how much
    follows from the grain and the image. 45: the finest grain."""
    probe_every: int = 0
    """Vectors from probe to probe, which `tracking` follows the piston phase by; 0: no probe."""
    sync_every: int = 0
    """Frames from mark to mark, which `SyncedBench` finds dropped frames by; 0: no marks."""
    calibration: Calibration = field(default_factory=Calibration)

    def __post_init__(self) -> None:
        _check_counts(self, "probe_every", "sync_every")
        require(math.isfinite(self.direction_deg), "direction_deg", self.direction_deg, "a finite number, degrees")

    @property
    def output_map(self) -> str:
        """Output o is row o of T."""
        return "rows"

    on_gpu = False

    def fit(self, bench: BenchParameters, n_inputs: int, n_outputs: int) -> tuple[int, int, BenchParameters]:
        """See `ReadoutSettings`. Tilts the reference arm by the lowest carrier."""
        tilt = (bench.laser.tilt_x, bench.laser.tilt_y)
        accepted = "0: the off-axis readout tilts the reference arm itself, towards readout.direction_deg"
        require(tilt == (0, 0), "laser.tilt_x, laser.tilt_y", tilt, accepted)
        grain, pixels, n_modes = bench.grain, bench.apparatus.camera_pixels, -(-n_outputs // 2)
        require(n_modes <= pixels, "modes", n_modes, f"at most {pixels:,}, the pixels of the camera")
        n_modes, carrier = fitting_image(n_modes, grain.size_px, grain.pupil, self.direction_deg)
        return n_inputs, n_modes, replace(bench, laser=replace(bench.laser, tilt_x=carrier[0], tilt_y=carrier[1]))

    def make(self, bench: Bench, n_inputs: int, n_outputs: int, reference_e: float, backend: str) -> OffAxis:
        """See `ReadoutSettings`. It may have more outputs than asked for."""
        carrier = bench.info.carrier
        if carrier is None:
            raise ValueError("off-axis readout needs a tilted reference arm; that of this bench is level")
        return OffAxis(bench, reference_e, _pupil(bench), carrier, calibration=self.calibration)


def _check_counts(settings: object, *names: str) -> None:
    for name in names:
        require(getattr(settings, name) >= 0, name, getattr(settings, name), "an int ≥ 0; 0: never")


def _pupil(bench: Bench) -> Pupil:
    return Pupil(bench.info.image_shape, bench.info.grain_px, bench.info.pupil)


@dataclass(frozen=True)
class AnchoredSettings:
    """Settings of `Anchored`."""

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    kind: Literal["anchored"] = "anchored"
    n_anchors: int = 2
    """Anchors; each takes a frame of every pattern."""
    features_per_anchor: int = 6
    """Elements ON in an anchor: that many times the mean signal of one is the mean I_r."""
    dim: float = DIM
    """Pixels whose brightest anchor is dimmer than this part of the mean are dropped."""
    anchor_frames: int = 64
    """Frames that I_r of each anchor is averaged over when the device is opened."""
    sync_every: int = 0
    """Frames from mark to mark, which `SyncedBench` finds dropped frames by; 0: no marks."""
    calibration: Calibration = field(default_factory=Calibration)

    def __post_init__(self) -> None:
        for name in ("n_anchors", "features_per_anchor", "anchor_frames"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "an int ≥ 1")
        require(0 < self.dim < 1, "dim", self.dim, "a number between 0 and 1")
        _check_counts(self, "sync_every")

    @property
    def output_map(self) -> str:
        """Which quadrature an output is depends on the anchors, and which pixel, on how many are dropped."""
        return f"anchored, {self.n_anchors} anchors of {self.features_per_anchor}, dim {self.dim!r}"

    on_gpu = False
    probe_every = 0  # the light of the anchors takes the same way: a common phase cancels

    def fit(self, bench: BenchParameters, n_inputs: int, n_outputs: int) -> tuple[int, int, BenchParameters]:
        """See `ReadoutSettings`. So many pixels that too few bright ones among them are a 6 σ event."""
        bright = bright_fraction(self.n_anchors, self.dim)
        spare = 6 * math.sqrt((n_outputs + 36) * (1 - bright)) / bright + 12
        return n_inputs + self.n_anchors * self.features_per_anchor, math.ceil(n_outputs / bright + spare), bench

    def make(self, bench: Bench, n_inputs: int, n_outputs: int, reference_e: float, backend: str) -> Anchored:
        """See `ReadoutSettings`."""
        anchors = anchor_patterns(bench.info.n_frame_inputs, n_inputs, self.n_anchors, self.features_per_anchor)
        options: dict[str, Any] = {"dim": self.dim, "anchor_frames": self.anchor_frames}
        return Anchored(bench, n_inputs, anchors.astype(np.uint8), n_outputs, calibration=self.calibration, **options)


ReadoutSettings = PhaseSteppingSettings | OffAxisSettings | AnchoredSettings
"""Settings of a readout. All have:

    fit(bench, n_inputs, n_outputs)   elements of a frame and speckle modes that a device of that size needs, and the
                                      parameters of the bench as this readout sets it up
    make(bench, …)                    the readout of such a bench
"""

_KINDS: dict[str, type[ReadoutSettings]] = {
    "phase_stepping": PhaseSteppingSettings,
    "off_axis": OffAxisSettings,
    "anchored": AnchoredSettings,
}


def readout_settings(values: Mapping[str, Any]) -> ReadoutSettings:
    """Settings of the values of a section; `kind` says which, and is `phase_stepping` if it is left out.

    Raises:
        InvalidConfig: unknown kind; unknown, mistyped or impossible values, all of them at once.
    """
    kind = values.get("kind", "phase_stepping")
    if kind not in _KINDS:
        message = f"must be one of {', '.join(_KINDS)}; got {kind!r}.{nearest(kind, _KINDS)}"
        raise InvalidConfig(f"readout.kind: {message}", [Fault(("readout", "kind"), message)])
    if kind == "anchored" and "probe_every" in values:
        message = "not of the anchored readout: a phase that all light shares cancels there, leave it out"
        raise InvalidConfig(f"readout.probe_every: {message}", [Fault(("readout", "probe_every"), message)])
    adapter: TypeAdapter[ReadoutSettings] = TypeAdapter(_KINDS[kind])
    try:
        return adapter.validate_json(json.dumps(values))  # as JSON: see `load_preset`
    except ValidationError as error:
        faults = [Fault(("readout", *f.path), f.message) for f in validation_faults(error, _KINDS[kind])]
        raise InvalidConfig(f"the readout is not valid:{listed(faults)}", faults) from None
