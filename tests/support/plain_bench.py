"""A bench in plain float64, which shares no code with the emulator: what a readout is told, it must see here."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator import BenchInfo, FrameStamp

Complex = npt.NDArray[np.complex128]
Float = npt.NDArray[np.float64]


def gaussian_fields(shape: tuple[int, ...], mean_e: float, seed: int) -> Complex:
    """Complex Gaussian amplitudes of that mean intensity."""
    real, imaginary = np.random.default_rng(seed).standard_normal((2, *shape)) * math.sqrt(mean_e / 2)
    return np.asarray(real + 1j * imaginary)


def image_of_modes(modes: Complex, shape: tuple[int, int], grain_px: float, circular: bool) -> Complex:
    """Σ_m mode_m exp(2πi k_m·p) / √M over the plane waves inside the pupil, by matrix products.

    Modes in the order of the Fourier plane, row by row: frequencies 0 … and then the negative ones.
    """
    rows, columns = shape
    k_y, k_x = np.meshgrid(np.fft.fftfreq(rows), np.fft.fftfreq(columns), indexing="ij")
    limit = 1 / (2 * grain_px) + 1e-9
    inside = (np.hypot(k_y, k_x) <= limit) if circular else (np.maximum(abs(k_y), abs(k_x)) <= limit)
    plane = np.zeros((len(modes), rows, columns), complex)
    plane[:, inside] = modes
    waves_y = np.exp(2j * np.pi * np.outer(np.arange(rows), np.fft.fftfreq(rows)))
    waves_x = np.exp(2j * np.pi * np.outer(np.arange(columns), np.fft.fftfreq(columns)))
    return np.asarray(waves_y @ plane @ waves_x.T / math.sqrt(inside.sum()))


@dataclass
class PlainBench:
    """D = clip(round(K · responsivity · |√envelope · A x + R|² + noise + black)).

    Shot noise is Poisson, read noise Gaussian; both are off by default.
    """

    columns: Complex
    """(n_frame_inputs, rows, columns of an image) field of each element at each pixel, root electrons."""
    reference: Complex | float | None = None
    """R with its tilt, root electrons; None: no reference arm."""
    gain_dn_per_e: float = 1.0
    bits: int | None = None
    full_well_e: float = math.inf
    read_noise_e: float = 0.0
    shot: bool = False
    responsivity: Float | float = 1.0
    envelope: Float | float = 1.0
    black_dn: Float | float = 0.0
    seed: int = 0
    has_phase_modulator: bool = True
    frame_time_us: float = 500.0
    stamps: list[tuple[int, int]] = field(default_factory=list)
    """First frame and number of frames of every request."""

    def __post_init__(self) -> None:
        n, rows, columns = self.columns.shape
        top = math.inf if self.bits is None else 2**self.bits - 1
        self.info = BenchInfo(
            n_frame_inputs=n, image_shape=(rows, columns), adc_bits=self.bits,
            saturation_dn=min(top, self.full_well_e * self.gain_dn_per_e), gain_dn_per_e=self.gain_dn_per_e,
            has_reference=self.reference is not None, has_phase_modulator=self.has_phase_modulator,
            exposure_limits_us=(1.0, 1e6),
        )  # fmt: skip
        self._noise = np.random.default_rng(self.seed)

    def configure(self, *, exposure_us: float, reference_e: float) -> None: ...

    def expose(
        self,
        frames: npt.NDArray[np.uint8],
        *,
        phases: npt.NDArray[np.floating] | None = None,
        reference: bool = True,
        at: FrameStamp | None = None,
    ) -> npt.NDArray[Any]:
        if at is not None:
            self.stamps.append((at.first_frame, len(frames)))
        light = np.tensordot(frames.astype(float), self.columns, 1) * np.sqrt(self.envelope)
        if reference:
            assert self.reference is not None
            turns = np.zeros(len(frames)) if phases is None else phases
            light = light + np.exp(1j * turns)[:, None, None] * self.reference
        electrons = self.responsivity * np.abs(light) ** 2
        if self.shot:
            electrons = self._noise.poisson(electrons).astype(float)
        if self.read_noise_e:
            electrons = electrons + self.read_noise_e * self._noise.standard_normal(electrons.shape)
        numbers = np.minimum(electrons, self.full_well_e) * self.gain_dn_per_e + self.black_dn
        if self.bits is None:
            return np.asarray(numbers)
        return np.asarray(
            np.clip(np.rint(numbers), 0, 2**self.bits - 1).astype(np.uint8 if self.bits == 8 else np.uint16)
        )


def tilted(shape: tuple[int, int], reference_e: float, carrier: tuple[float, float]) -> Complex:
    """The plane wave R exp(2πi (k_x x + k_y y)) of a tilted reference arm."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.asarray(math.sqrt(reference_e) * np.exp(2j * np.pi * (carrier[0] * x + carrier[1] * y)))
