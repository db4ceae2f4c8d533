"""Benches with single effects on, and their fields, recovered by four steps without a converter."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator import Apparatus, BenchParameters, Camera, EmulatedBench, FrameStamp, Photometry, reference
from optical_dfa.emulator.matrix import VARIANCE
from optical_dfa.emulator.product import Backend

NOISELESS = Camera(shot_noise=False, read_noise_e=0.0, full_well_e=math.inf, gain_dn_per_e=1.0, adc_bits=None)
NOISY = Camera(shot_noise=True, read_noise_e=13.0, full_well_e=10_000.0, gain_dn_per_e=0.4, adc_bits=12)
SIGNAL_E, REFERENCE_E, SEED = 30.0, 1500.0, 3

Fields = npt.NDArray[np.complex128]
Frames = npt.NDArray[np.uint8]


def make_bench(
    n_inputs: int,
    n_modes: int,
    *,
    backend: Backend = "auto",
    camera: Camera = NOISELESS,
    mirrors: int = 1_039_680,
    budget: int | None = None,
    **effects: Any,
) -> EmulatedBench:
    """A bench of 500 µs a frame with the sections `dmd`, `medium`, `laser` and `grain` as given."""
    parameters = BenchParameters(
        Photometry(signal_e_per_feature=SIGNAL_E, reference_e=REFERENCE_E, exposure_us=400.0),
        camera,
        Apparatus(dmd_mirrors=mirrors, camera_pixels=2_219_520, min_frame_time_us=500.0, power_w=30.0),
        **effects,
    )
    return EmulatedBench(n_inputs, n_modes, SEED, parameters, budget, backend)


def random_frames(count: int, n_inputs: int) -> Frames:
    return np.random.default_rng(count).integers(0, 2, (count, n_inputs), np.uint8)


def fields(bench: EmulatedBench, frames: Frames, time_s: float | None = None, stream: int = 0) -> Fields:
    """Root electrons (frames, pixels) by four steps of the reference, all of them at the same modelled time."""
    steps = []
    for k in range(4):
        phases = np.full(len(frames), k * np.pi / 2)
        if time_s is None:
            images = bench.expose(frames, phases=phases, at=FrameStamp(stream, 0))
        else:
            requests = [
                bench.expose(frames[i : i + 1], phases=phases[i : i + 1], at=FrameStamp(stream, i, time_s))
                for i in range(len(frames))
            ]
            images = np.concatenate(requests)
        steps.append(images.reshape(len(frames), -1))
    found = ((steps[0] - steps[2]) + 1j * (steps[1] - steps[3])) / (4 * math.sqrt(REFERENCE_E))
    return found.astype(np.complex128)


def transmission(n_inputs: int, n_modes: int) -> Fields:
    """What one ON feature gives, root electrons, complex128 (modes, n_inputs), from the definition of T."""
    rows = reference.matrix(SEED, 2 * n_modes, n_inputs).astype(np.float64)
    found = (rows[0::2] + 1j * rows[1::2]) * math.sqrt(SIGNAL_E / (2 * VARIANCE))
    return found.astype(np.complex128)
