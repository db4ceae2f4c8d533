"""Everything that defines an emulated bench but its size and seed. Parts that have a default are off by default."""

import math
from dataclasses import dataclass
from typing import Literal

from optical_dfa.emulator.camera import Camera
from optical_dfa.emulator.checks import require
from optical_dfa.emulator.dmd import Dmd
from optical_dfa.emulator.laser import Laser
from optical_dfa.emulator.medium import Medium

ROI_COLUMNS = 2040
"""Widest region of interest of the camera, pixels."""


@dataclass(frozen=True)
class Photometry:
    """How much light there is."""

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    signal_e_per_feature: float
    """Mean electrons per pixel that one ON feature gives in one exposure of `exposure_us`."""
    reference_e: float
    """Mean electrons per pixel of the reference arm alone in one exposure, R²."""
    exposure_us: float
    """Exposure time, microseconds."""

    def __post_init__(self) -> None:
        for name in ("signal_e_per_feature", "reference_e", "exposure_us"):
            value = getattr(self, name)
            require(0 < value < math.inf, name, value, "a finite number > 0")


@dataclass(frozen=True)
class Apparatus:
    """Size, speed and power of the machine."""

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    dmd_mirrors: int
    """Mirrors of the DMD; a feature is shown on floor(mirrors / features) of them."""
    camera_pixels: int
    """Pixels of the camera."""
    min_frame_time_us: float
    """Shortest time from frame to frame, microseconds."""
    power_w: float
    """Electrical power of the whole machine, watts."""

    def __post_init__(self) -> None:
        for name in ("dmd_mirrors", "camera_pixels", "min_frame_time_us", "power_w"):
            value = getattr(self, name)
            require(0 < value < math.inf, name, value, "a finite number > 0")

    def frame_time_us(self, n_pixels: int, exposure_us: float) -> float:
        """Time from frame to frame, microseconds: max(minimum, max(readout, exposure) + 50).

        The rule, and the readout time of a row, are those of the vendor's software (lightonml 1.4.3).
        """
        readout_us = 2.6875 * math.ceil(n_pixels / ROI_COLUMNS) + 32.25
        return max(self.min_frame_time_us, max(readout_us, exposure_us) + 50.0)


@dataclass(frozen=True)
class Grain:
    """Size of the speckle on the camera."""

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    size_px: float = 1.0
    """Grain λz/D in pixels. 1: one mode a pixel. Above: the image is band-limited to |k| ≤ 1/(2 size). Below: a pixel
    sees 1/size² modes at once, a whole number of them, and the speckle's contrast is `size_px`."""
    pupil: Literal["circular", "square"] = "circular"
    """Shape of the aperture that limits the band."""

    def __post_init__(self) -> None:
        require(0 < self.size_px < math.inf, "size_px", self.size_px, "a finite number of pixels > 0")
        require(self.pupil in ("circular", "square"), "pupil", self.pupil, "circular or square")
        modes = 1 / self.size_px**2
        accepted = self.size_px >= 1 or abs(modes - round(modes)) < 1e-3 * modes
        require(accepted, "size_px", self.size_px, "1/√M with a whole number M of modes a pixel, or at least 1")

    @property
    def modes_per_pixel(self) -> int:
        """M, where a pixel sees several modes; 1 where it sees one or less."""
        return max(1, round(1 / self.size_px**2))


DMD_OFF, MEDIUM_OFF, LASER_OFF, GRAIN_OFF = Dmd(), Medium(), Laser(), Grain()


@dataclass(frozen=True)
class BenchParameters:
    """The parts of a bench, in the order in which one sets them up. Those with a default are off by it."""

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    photometry: Photometry
    camera: Camera
    apparatus: Apparatus
    dmd: Dmd = DMD_OFF
    medium: Medium = MEDIUM_OFF
    laser: Laser = LASER_OFF
    grain: Grain = GRAIN_OFF
