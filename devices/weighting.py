"""What the outputs of an emulated device are made of where light is uneven or a pixel sees several modes."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.presets import Preset
from optical_dfa.devices.readouts.settings import AnchoredSettings, OffAxisSettings
from optical_dfa.emulator import Dmd, MeasuredLight
from optical_dfa.emulator.checks import require


class Weighting:
    """How the light of a bench weights the rows and columns of T, as its readout reads it.

    Args:
        preset: bench and readout.
        image_shape: rows and columns of the image.
        measured: light that was measured, of a digital twin.

    Raises:
        ValueError: a bench that the readout cannot read.
    """

    def __init__(self, preset: Preset, image_shape: tuple[int, int], measured: MeasuredLight | None = None) -> None:
        _refuse_unreadable(preset)
        bench, maps = preset.bench, preset.readout.calibration
        # what a map was taken of, the readout divides by; otherwise it knows the mean level alone
        signal = None if maps.flat_frames else bench.laser.signal_profile(image_shape)
        wave = None if maps.reference_frames else bench.laser.reference_profile(image_shape)
        self.identity: dict[str, Any] = {}
        """What tells this weighting from another; empty where outputs are rows of T."""
        self._pixels: npt.NDArray[np.float64] | None = None
        if signal is not None or wave is not None:
            ones = np.ones(math.prod(image_shape))
            self._pixels = ones * (1 if signal is None else signal) * (1 if wave is None else wave[0])
            waists = (signal is not None and bench.laser.signal_waist, wave is not None and bench.laser.reference_waist)
            self.identity |= {"beams": repr(waists), "image_shape": repr(image_shape)}
        if bench.dmd.envelope_waist < math.inf:
            self.identity["envelope_waist"] = bench.dmd.envelope_waist
        if bench.grain.modes_per_pixel > 1:
            self.identity["modes_per_pixel"] = bench.grain.modes_per_pixel
        rms = 1.0 if self._pixels is None else math.sqrt(np.mean(np.square(self._pixels)))
        self.gain = rms * (1 - bench.dmd.leak) / math.sqrt(bench.grain.modes_per_pixel)
        """Field of an output, root mean square, over that of a mode: what OFF mirrors leak is missing from ON less OFF,
        a pixel of several modes sees their mean, and two beams brighter in the middle meet there."""
        self.always_lit = bool(bench.dmd.leak or bench.dmd.padding)
        """A pattern without an ON feature is not dark."""
        if measured is not None:
            self._of_measured(measured, preset)

    def _of_measured(self, measured: MeasuredLight, preset: Preset) -> None:
        """Unit gain on average over the outputs; the reference arm weights rows where no map was taken of it."""
        self.identity["output"] = "twin"
        pixels = measured.reference.astype(np.float64)
        self._pixels = np.ones_like(pixels) if preset.readout.calibration.reference_frames else pixels
        power = np.square(measured.matrix.astype(np.float64)).mean(axis=1).reshape(-1, 2).mean(axis=1)
        self.gain = math.sqrt(np.mean(power * np.square(self._pixels)))
        self.always_lit = bool(measured.background.any())

    def of_rows(self, rows: slice) -> npt.NDArray[np.float64] | float:
        """Weights of outputs, (outputs, 1)."""
        return 1.0 if self._pixels is None else np.repeat(self._pixels, 2)[rows, None]


def _refuse_unreadable(preset: Preset) -> None:
    bench, readout = preset.bench, preset.readout
    if isinstance(readout, AnchoredSettings):
        anchored = "for the anchored readout, or choose another"
        require(bench.grain.size_px == 1, "grain.size_px", bench.grain.size_px, f"1, one mode a pixel, {anchored}")
        require(bench.dmd == Dmd(), "dmd", bench.dmd, f"off {anchored}")
        waist = bench.laser.signal_waist
        require(waist == math.inf, "laser.signal_waist", waist, f".inf {anchored}")
    tilt = (bench.laser.tilt_x, bench.laser.tilt_y)
    level = f"0: the readout {readout.kind} reads a level reference arm, off_axis a tilted one"
    require(isinstance(readout, OffAxisSettings) or tilt == (0, 0), "laser.tilt_x, laser.tilt_y", tilt, level)
    if bench.grain.size_px > 1:
        maps = readout.calibration
        for name, frames in (("signal_waist", "flat_frames"), ("reference_waist", "reference_frames")):
            waist = getattr(bench.laser, name)
            even = waist == math.inf or getattr(maps, frames) > 0
            accepted = (
                f".inf where the grain is larger than a pixel, or set readout.calibration.{frames}: it mixes modes"
            )
            require(even, f"laser.{name}", waist, accepted)
