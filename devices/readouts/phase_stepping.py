"""Phase stepping: three or four frames of one pattern, the phase of the reference arm stepped between them."""

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.readouts.base import Bench, Reading, count_saturated, real_type
from optical_dfa.devices.readouts.maps import Calibration, Maps, inverse
from optical_dfa.devices.readouts.modes import ModeReadout
from optical_dfa.emulator import FrameStamp
from optical_dfa.emulator.arrays import is_cupy
from optical_dfa.emulator.checks import require
from optical_dfa.emulator.cupy_kernels import kernels
from optical_dfa.emulator.numba_support import why_unavailable
from optical_dfa.emulator.pupil import Pupil
from optical_dfa.emulator.threads import n_threads, share

THREAD_PIXELS = 1 << 18
"""Pixels of patterns, about 0.15 ms, that are worth a thread."""


class PhaseStepping(ModeReadout):
    """Complex field at every pixel from N = 3 or 4 frames, the reference stepped by 2π/N.

    With φ_k = 2πk/N, A = Σ_k I_k exp(iφ_k) / (N R):

        four steps     A = [(I₀ - I₂) + i (I₁ - I₃)] / (4R)
        three steps    A = [(2 I₀ - I₁ - I₂) + i √3 (I₁ - I₂)] / (6R)

    Signal-to-noise of one binary pattern: N Is R² / (Is + R² + s² + q²/12 + dark), see `noise`. Black level and fixed
    pattern cancel in the differences.

    Args:
        bench: any bench with a reference arm and a phase modulator.
        reference_e: level of the reference arm as calibrated, electrons per pixel and exposure.
        backend: `numpy`, or anything else for Numba where it can run; the amplitudes are the same to the bit.
        steps: 3 or 4.
        calibration: maps to take in `calibrate`.
        pupil: where the speckle grain is larger than a pixel: the outputs are then those of its modes, not of the
            pixels, and the noise is lower by `pupil.kept_fraction`. None: one mode per pixel.
    """

    def __init__(
        self,
        bench: Bench,
        reference_e: float,
        backend: str = "auto",
        *,
        steps: Literal[3, 4] = 4,
        calibration: Calibration = Calibration(),  # noqa: B008  # frozen
        pupil: Pupil | None = None,
    ) -> None:
        if not (bench.info.has_reference and bench.info.has_phase_modulator):
            raise ValueError(
                "phase stepping needs a bench with a reference arm and a phase modulator; this one has not both"
            )
        require(steps in (3, 4), "steps", steps, "3 or 4")
        self.steps, self._pupil = steps, pupil
        super().__init__(bench, reference_e, pupil, calibration)
        self._scale = 1 / (steps * math.sqrt(reference_e) * bench.info.gain_dn_per_e)
        self._compiled = backend != "numpy" and why_unavailable(()) is None
        self._phases = np.arange(steps) * (2 * math.pi / steps)

    @property
    def frames_per_pattern(self) -> int:
        """One frame for each step."""
        return self.steps

    def _set_maps(self, maps: Maps) -> None:
        super()._set_maps(maps)
        gain = maps.interference_gain(self._reference_e)
        self._correction = None if gain is None else np.repeat(inverse(gain), 2)

    def read(self, patterns: npt.NDArray[np.uint8], at: FrameStamp) -> Reading:
        """Complex amplitude behind each binary pattern.

        Args:
            patterns: uint8 (patterns, n_frame_inputs), 0 or 1; each is shown in `steps` frames. A CuPy array for a
                bench that takes one and gives CuPy images: the amplitude is then a CuPy array too. Four steps without
                maps and pupil are demodulated on the GPU, all else on the CPU.
            at: stamp of the first frame.
        """
        frames = patterns.repeat(self.steps, axis=0)
        images = self._bench.expose(frames, phases=np.tile(self._phases, len(patterns)), at=at)
        pixels = math.prod(images.shape[1:])
        if not is_cupy(images):
            amplitude, saturated = self._amplitude(images)
        elif self.steps == 4 and self._correction is None and self._pupil is None:
            flat = images.reshape(len(frames), pixels)
            amplitude, saturated = kernels().demodulate(flat, self._scale, self._limit())
        else:
            import cupy

            amplitude, saturated = self._amplitude(images.get())  # type: ignore[attr-defined]
            amplitude = cupy.asarray(amplitude)
        return Reading(amplitude, len(frames), saturated, images.size)

    def _amplitude(self, images: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], int]:
        """Outputs (patterns, n_outputs) of images (steps · patterns, rows, columns), and saturated readings."""
        n_patterns, pixels = len(images) // self.steps, math.prod(images.shape[1:])
        amplitude: npt.NDArray[Any] = np.empty((n_patterns, 2 * pixels), real_type(images))
        saturated = self._demodulate(images.reshape(len(images), pixels), amplitude)
        if self._correction is not None:
            amplitude *= self._correction.astype(amplitude.dtype)
        if self._pupil is not None:
            field = amplitude.view(np.result_type(amplitude.dtype, np.complex64))
            modes = self._pupil.to_modes(field.reshape(n_patterns, *images.shape[1:]))
            amplitude = np.ascontiguousarray(modes).view(amplitude.dtype)
        return amplitude, saturated

    def _limit(self) -> int:
        """Digital number from which on a pixel is saturated; readings are whole numbers below 2^16."""
        return math.ceil(min(self._bench.info.saturation_dn, 1 << 16))

    def _demodulate(self, images: npt.NDArray[Any], amplitude: npt.NDArray[Any]) -> int:
        """Fill `amplitude` (patterns, 2 · pixels) from images (steps · patterns, pixels); count saturated readings."""
        if self._compiled and images.dtype in (np.uint8, np.uint16):
            return _demodulate_compiled(images, self.steps, self._scale, self._limit(), amplitude)
        step = images.reshape(len(amplitude), self.steps, -1)
        exact = amplitude.dtype.type  # holds differences of readings exactly
        zero, one, two = (step[:, number] for number in range(3))
        if self.steps == 4:
            real = np.subtract(zero, two, dtype=exact)
            imaginary = np.subtract(one, step[:, 3], dtype=exact)
            amplitude[:, 0::2] = real * exact(self._scale)
            amplitude[:, 1::2] = imaginary * exact(self._scale)
        else:
            real = np.subtract(zero, one, dtype=exact) + np.subtract(zero, two, dtype=exact)
            imaginary = np.subtract(one, two, dtype=exact)
            amplitude[:, 0::2] = real * exact(self._scale / 2)
            amplitude[:, 1::2] = imaginary * exact(self._scale * math.sqrt(3) / 2)
        return count_saturated(images, self._bench.info.saturation_dn)


def _demodulate_compiled(
    images: npt.NDArray[Any], steps: int, scale: float, limit: int, amplitude: npt.NDArray[np.float32]
) -> int:
    from optical_dfa.devices import numba_readout

    saturated: list[int] = []

    def work(first: int, _: None) -> None:
        part, frames = amplitude[first : first + step], images[steps * first : steps * (first + step)]
        if steps == 4:
            saturated.append(numba_readout.demodulate(frames, np.float32(scale), limit, part))
        else:
            scales = np.float32(scale / 2), np.float32(scale * math.sqrt(3) / 2)
            saturated.append(numba_readout.demodulate_three(frames, *scales, limit, part))

    step = 1 + THREAD_PIXELS // images.shape[1]
    share(range(0, len(amplitude), step), n_threads(), lambda: None, work)
    return sum(saturated)
