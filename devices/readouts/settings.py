"""Which readout a device uses, as data: the section `readout` of a preset."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from optical_dfa.devices.errors import InvalidConfig
from optical_dfa.devices.faults import Fault, listed, nearest, validation_faults
from optical_dfa.devices.readouts.anchored import DIM, Anchored, anchor_patterns, bright_fraction
from optical_dfa.devices.readouts.base import Bench
from optical_dfa.devices.readouts.maps import Calibration
from optical_dfa.devices.readouts.phase_stepping import PhaseStepping
from optical_dfa.emulator.checks import require


@dataclass(frozen=True)
class PhaseSteppingSettings:
    """Settings of `PhaseStepping`."""

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    kind: Literal["phase_stepping"] = "phase_stepping"
    steps: Literal[3, 4] = 4
    """Frames of a pattern."""
    calibration: Calibration = field(default_factory=Calibration)

    def __post_init__(self) -> None:
        require(self.steps in (3, 4), "steps", self.steps, "3 or 4")

    @property
    def output_map(self) -> str:
        """Output o is row o of T."""
        return "rows"

    @property
    def on_gpu(self) -> bool:
        """Whether CuPy images are read on the GPU."""
        return self.steps == 4 and self.calibration == Calibration()

    def size(self, n_inputs: int, n_outputs: int) -> tuple[int, int]:
        """Elements of a frame and camera pixels that a device of that size needs."""
        return n_inputs, -(-n_outputs // 2)

    def make(self, bench: Bench, n_inputs: int, n_outputs: int, reference_e: float, backend: str) -> PhaseStepping:
        """The readout; it may have an output more than asked for."""
        return PhaseStepping(bench, reference_e, backend, steps=self.steps, calibration=self.calibration)


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
    calibration: Calibration = field(default_factory=Calibration)

    def __post_init__(self) -> None:
        for name in ("n_anchors", "features_per_anchor", "anchor_frames"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "an int ≥ 1")
        require(0 < self.dim < 1, "dim", self.dim, "a number between 0 and 1")

    @property
    def output_map(self) -> str:
        """Which quadrature an output is depends on the anchors, and which pixel, on how many are dropped."""
        return f"anchored, {self.n_anchors} anchors of {self.features_per_anchor}, dim {self.dim!r}"

    on_gpu = False

    def size(self, n_inputs: int, n_outputs: int) -> tuple[int, int]:
        """Elements of a frame and camera pixels that a device of that size needs.

        So many pixels that too few bright ones among them are a 6 σ event.
        """
        bright = bright_fraction(self.n_anchors, self.dim)
        spare = 6 * math.sqrt((n_outputs + 36) * (1 - bright)) / bright + 12
        return n_inputs + self.n_anchors * self.features_per_anchor, math.ceil(n_outputs / bright + spare)

    def make(self, bench: Bench, n_inputs: int, n_outputs: int, reference_e: float, backend: str) -> Anchored:
        """The readout."""
        anchors = anchor_patterns(bench.info.n_frame_inputs, n_inputs, self.n_anchors, self.features_per_anchor)
        options: dict[str, Any] = {"dim": self.dim, "anchor_frames": self.anchor_frames}
        return Anchored(bench, n_inputs, anchors.astype(np.uint8), n_outputs, calibration=self.calibration, **options)


ReadoutSettings = PhaseSteppingSettings | AnchoredSettings

_KINDS: dict[str, type[ReadoutSettings]] = {"phase_stepping": PhaseSteppingSettings, "anchored": AnchoredSettings}


def readout_settings(values: Mapping[str, Any]) -> ReadoutSettings:
    """Settings of the values of a section; `kind` says which, and is `phase_stepping` if it is left out.

    Raises:
        InvalidConfig: unknown kind; unknown, mistyped or impossible values, all of them at once.
    """
    kind = values.get("kind", "phase_stepping")
    if kind not in _KINDS:
        message = f"must be one of {', '.join(_KINDS)}; got {kind!r}.{nearest(kind, _KINDS)}"
        raise InvalidConfig(f"readout.kind: {message}", [Fault(("readout", "kind"), message)])
    adapter: TypeAdapter[ReadoutSettings] = TypeAdapter(_KINDS[kind])
    try:
        return adapter.validate_json(json.dumps(values))  # as JSON: see `load_preset`
    except ValidationError as error:
        faults = [Fault(("readout", *f.path), f.message) for f in validation_faults(error, _KINDS[kind])]
        raise InvalidConfig(f"the readout is not valid:{listed(faults)}", faults) from None
