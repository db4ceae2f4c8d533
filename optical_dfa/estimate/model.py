"""The modelled optical machine: frames, seconds and joules of a projection. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from optical_dfa.devices import DeviceInfo, EmulatedDevice, Preset, make_device
from optical_dfa.devices.base import expected_frames
from optical_dfa.devices.errors import InvalidConfig
from optical_dfa.emulator import Apparatus, BenchParameters

DEFAULT_PRESET = "phase-stepping"
"""Preset that stands for the optics where a configuration names a device that has none."""


@dataclass(frozen=True)
class Cost:
    """What the modelled machine spends."""

    frames: float
    """Frames displayed; an expectation, where a fraction of them is dark."""
    seconds: float
    joules: float


def projection_cost(
    apparatus: Apparatus,
    exposure_us: float,
    n_pixels: int,
    frames: float,
) -> Cost:
    """Cost of displaying frames one after the other: frames · frame time, and the machine's power over that time.

    Frame time: max(minimum, max(2.6875 µs · rows + 32.25 µs, exposure) + 50 µs), rows = ⌈pixels / 2040⌉, the rule of
    the vendor's software (lightonml 1.4.3), by `Apparatus.frame_time_us`. Nothing else is counted: no transfer to the
    machine, no latency, no encoding.

    Args:
        apparatus: speed and power of the machine.
        exposure_us: exposure time, microseconds.
        n_pixels: camera pixels read.
        frames: how many; of vectors, `device.info.frames(vectors, dark_fraction)`.
    """
    seconds = frames * apparatus.frame_time_us(n_pixels, exposure_us) * 1e-6
    return Cost(frames, seconds, seconds * apparatus.power_w)


def dark_fraction(vectors: npt.NDArray[np.int8]) -> float:
    """Fraction of the sides of ternary vectors, int8 (vectors, features), that have no feature ON; 0 of none."""
    sides = np.stack([(vectors > 0).any(axis=1), (vectors < 0).any(axis=1)])
    return float(1 - sides.mean()) if sides.size else 0.0


@dataclass(frozen=True)
class Sized:
    """The modelled machine at the size of a net."""

    preset: str
    n_inputs: int
    n_outputs: int
    n_pixels: int
    frames_per_vector: int
    """Most frames of one ternary vector."""
    frame_time_us: float
    power_w: float
    probe_frames: float = 0.0
    """Frames of a probe for each vector."""
    mark_frames: float = 0.0
    """Frames of marks for each other frame."""

    def frames(self, vectors: float, dark_fraction: float = 0.0) -> float:
        """Frames that so many vectors take; see `optical_dfa.devices.DeviceInfo.frames`."""
        each = (self.frames_per_vector, self.probe_frames, self.mark_frames)
        return expected_frames(*each, vectors, dark_fraction)


class Optics:
    """The optical machine that a configuration names, at any size.

    A device other than `emulator` has no optics to model: the preset `phase-stepping`, as it comes, stands in.

    Args:
        device: name and options of a device, without sizes.
        planes: vectors that are displayed for one error.

    Attributes:
        stands_in: whether the preset stands in for a device that has no optics.
    """

    def __init__(self, device: Mapping[str, Any], planes: int = 1) -> None:
        self._planes = planes
        options = {key: value for key, value in device.items() if key != "name"}
        self.stands_in = device["name"] != "emulator"
        self._options: dict[str, Any] = {"preset": DEFAULT_PRESET} if self.stands_in else options
        # read once: to load a preset takes ten times as long as to make a device of it
        sections = {section.name for section in fields(BenchParameters)}
        preset = self._device(1, 1).preset
        self._options = {key: value for key, value in self._options.items() if key not in sections}
        self._options["preset"] = preset
        self._known: dict[tuple[int, int], _Geometry] = {}

    def sized(self, n_inputs: int, n_outputs: int) -> Sized:
        """The machine for vectors of `n_inputs` features and `n_outputs` outputs.

        Raises:
            optical_dfa.devices.InvalidConfig: more than its mirrors or its camera hold.
        """
        geometry = self._geometry(n_inputs, n_outputs)
        info = geometry.info
        return Sized(
            preset=geometry.preset.name,
            n_inputs=n_inputs,
            n_outputs=n_outputs,
            n_pixels=info.n_pixels,
            frames_per_vector=info.frames_per_vector,
            frame_time_us=geometry.apparatus.frame_time_us(info.n_pixels, geometry.exposure_us),
            power_w=geometry.apparatus.power_w,
            probe_frames=info.probe_frames,
            mark_frames=info.mark_frames,
        )

    def cost(self, n_inputs: int, n_outputs: int, errors: float = 1.0, dark_fraction: float = 0.0) -> Cost:
        """Cost of projecting that many errors, `planes` vectors each; see `projection_cost` and `DeviceInfo.frames`.

        Raises:
            optical_dfa.devices.InvalidConfig: more than its mirrors or its camera hold.
            ValueError: `dark_fraction` is out of range.
        """
        geometry = self._geometry(n_inputs, n_outputs)
        frames = geometry.info.frames(errors * self._planes, dark_fraction)
        return projection_cost(geometry.apparatus, geometry.exposure_us, geometry.info.n_pixels, frames)

    def accepts(self, n_inputs: int, n_outputs: int) -> bool:
        """Whether the mirrors and the camera hold that much."""
        try:
            self._geometry(n_inputs, n_outputs)
        except InvalidConfig:
            return False
        return True

    def _geometry(self, n_inputs: int, n_outputs: int) -> "_Geometry":
        """What the device says of itself at that size: pixels and frames are the readout's business."""
        key = n_inputs, n_outputs
        if key not in self._known:
            device = self._device(n_inputs, n_outputs)
            self._known[key] = _Geometry(device.preset, device.info)
        return self._known[key]

    def _device(self, n_inputs: int, n_outputs: int) -> EmulatedDevice:
        device = make_device("emulator", **{**self._options, "n_inputs": n_inputs, "n_outputs": n_outputs})
        assert isinstance(device, EmulatedDevice)  # the name is reserved
        return device


class _Geometry(NamedTuple):
    preset: Preset
    info: DeviceInfo

    @property
    def apparatus(self) -> Apparatus:
        return self.preset.bench.apparatus

    @property
    def exposure_us(self) -> float:
        return self.preset.bench.photometry.exposure_us
