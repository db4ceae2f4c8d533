"""From camera images to fields: the code that reads the emulated bench and a real one alike."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator import BenchInfo, FrameStamp
from optical_dfa.emulator.arrays import is_cupy
from optical_dfa.emulator.cupy_kernels import kernels
from optical_dfa.emulator.numba_support import why_unavailable
from optical_dfa.emulator.threads import n_threads, share

THREAD_PIXELS = 1 << 18
"""Pixels of patterns, about 0.15 ms, that are worth a thread."""


class Bench(Protocol):
    """A DMD, a medium and a camera, emulated or real."""

    @property
    def info(self) -> BenchInfo:
        """What a readout must know of the bench."""

    @property
    def frame_time_us(self) -> float:
        """Time from frame to frame, microseconds."""

    def configure(self, *, exposure_us: float, reference_e: float) -> None:
        """Set exposure time (microseconds) and reference level (electrons per pixel and exposure)."""

    def expose(
        self,
        frames: npt.NDArray[np.uint8],
        *,
        phases: npt.NDArray[np.floating] | None = None,
        reference: bool = True,
        at: FrameStamp | None = None,
    ) -> npt.NDArray[Any]:
        """Show binary frames (frames, n_frame_inputs), one reference phase (radians) each.

        Returns images (frames, rows, columns).
        """


@dataclass(frozen=True)
class Reading:
    """What a readout made of some patterns."""

    amplitude: npt.NDArray[np.float32]
    """(patterns, 2 · pixels) in root electrons; 2p and 2p+1 are the quadratures at pixel p."""
    frames: int
    saturated_pixels: int
    pixel_readings: int


class PhaseStepping:
    """Four-step phase stepping: A = [(I₀ - I₂) + i (I₁ - I₃)] / (4R), the reference stepped by quarter turns.

    Signal-to-noise of one binary pattern: 4 Is R² / (Is + R² + s² + q²/12), with Is the mean signal, R² the reference,
    s the read noise and q the electrons per digital number.

    Args:
        bench: any bench with a reference arm and a phase modulator.
        reference_e: level of the reference arm as calibrated, electrons per pixel and exposure.
        backend: `numpy`, or anything else for Numba where it can run; the amplitudes are the same to the bit.
    """

    steps = 4

    def __init__(self, bench: Bench, reference_e: float, backend: str = "auto") -> None:
        if not (bench.info.has_reference and bench.info.has_phase_modulator):
            raise ValueError(
                "phase stepping needs a bench with a reference arm and a phase modulator; this one has not both"
            )
        self._bench = bench
        self._scale = 1 / (4 * math.sqrt(reference_e) * bench.info.gain_dn_per_e)
        self._compiled = backend != "numpy" and why_unavailable(()) is None
        self._phases = np.arange(4) * (math.pi / 2)

    def read(self, patterns: npt.NDArray[np.uint8], at: FrameStamp) -> Reading:
        """Complex amplitude behind each binary pattern.

        Args:
            patterns: uint8 (patterns, n_frame_inputs), 0 or 1; each is shown in four frames. A CuPy array for a bench
                that takes one and gives CuPy images: the amplitude is then a CuPy array too.
            at: stamp of the first frame.
        """
        frames = patterns.repeat(self.steps, axis=0)
        images = self._bench.expose(frames, phases=np.tile(self._phases, len(patterns)), at=at)
        pixels = math.prod(images.shape[1:])
        if is_cupy(images):
            on_gpu, saturated = kernels().demodulate(images.reshape(len(frames), pixels), self._scale, self._limit())
            return Reading(on_gpu, len(frames), saturated, images.size)
        amplitude = np.empty((len(patterns), 2 * pixels), np.float32)
        saturated = self._demodulate(images.reshape(len(frames), pixels), amplitude)
        return Reading(amplitude, len(frames), saturated, images.size)

    def _limit(self) -> int:
        """Digital number from which on a pixel is saturated; readings are whole numbers below 2^16."""
        return math.ceil(min(self._bench.info.saturation_dn, 1 << 16))

    def _demodulate(self, images: npt.NDArray[Any], amplitude: npt.NDArray[np.float32]) -> int:
        """Fill `amplitude` (patterns, 2 · pixels) from images (4 · patterns, pixels); count saturated readings."""
        if self._compiled and images.dtype in (np.uint8, np.uint16):
            return _demodulate_compiled(images, self._scale, self._limit(), amplitude)
        saturation = self._bench.info.saturation_dn
        step = images.reshape(len(amplitude), self.steps, -1)
        # differences of images in a type that holds them exactly; in float64 without a converter
        exact = np.float64 if images.dtype == np.float64 else np.float32
        for quadrature in (0, 1):
            difference = np.subtract(step[:, quadrature], step[:, quadrature + 2], dtype=exact)
            amplitude[:, quadrature::2] = difference * exact(self._scale)
        return int(np.count_nonzero(images >= saturation)) if saturation < math.inf else 0


def _demodulate_compiled(images: npt.NDArray[Any], scale: float, limit: int, amplitude: npt.NDArray[np.float32]) -> int:
    from optical_dfa.devices.numba_readout import demodulate

    saturated: list[int] = []

    def work(first: int, _: None) -> None:
        part = slice(first, first + step)
        frames = slice(4 * first, 4 * (first + step))
        saturated.append(demodulate(images[frames], np.float32(scale), limit, amplitude[part]))

    step = 1 + THREAD_PIXELS // images.shape[1]
    share(range(0, len(amplitude), step), n_threads(), lambda: None, work)
    return sum(saturated)
