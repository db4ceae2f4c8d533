"""Four-step phase stepping by its kernels alone, to see what the seam between bench and readout costs."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.hashing import derive_key
from optical_dfa.emulator.matrix import VARIANCE

if TYPE_CHECKING:
    from optical_dfa.emulator import EmulatedBench

Amplitude = npt.NDArray[np.float32]


def four_step_kernels(bench: "EmulatedBench", patterns: npt.NDArray[np.uint8]) -> Callable[[], Amplitude]:
    """What `PhaseStepping.read` computes, without frames, requests and checks: three kernels on arrays made beforehand.

    Args:
        bench: on Numba, as its photometry says.
        patterns: uint8 (patterns, inputs).

    Returns:
        A call that gives the amplitudes, (patterns, 2 · pixels); its noise has keys of its own.
    """
    from optical_dfa.devices.numba_readout import demodulate
    from optical_dfa.emulator.numba_camera import expose

    light, camera = bench.parameters.photometry, bench.parameters.camera
    n_patterns, n_pixels = len(patterns), math.prod(bench.info.image_shape)
    turns = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]] * n_patterns, np.float32)
    reference = turns * np.float32(light.reference_e**0.5)
    low, high = (half[:, 0] for half in derive_key(0, np.arange(4 * n_patterns, dtype=np.uint64)[:, None]))
    top = 2 ** (camera.adc_bits or 0) - 1
    constants = [camera.shot_noise, camera.read_noise_e**2, camera.full_well_e, camera.gain_dn_per_e, 0, top]
    settings = np.array(constants, np.float32)
    weights = np.full((4 * n_patterns, 2), math.sqrt(light.signal_e_per_feature / (2 * VARIANCE)), np.float32)
    shown = np.arange(4 * n_patterns) // 4
    images = np.empty((4 * n_patterns, n_pixels), camera.image_dtype)
    amplitude = np.empty((n_patterns, 2 * n_pixels), np.float32)
    scale = np.float32(1 / (4 * light.reference_e**0.5 * camera.gain_dn_per_e))

    def take(first_pattern: int, first_row: int, field: npt.NDArray[np.int32]) -> None:
        which = slice(4 * first_pattern, 4 * (first_pattern + len(field)))
        expose(
            *(field, None, shown[: 4 * len(field)], weights[which], reference[which], None, None),
            *(low[which], high[which], settings, None, None, None, first_row // 2, images[which]),
        )

    def call() -> Amplitude:
        bench.product.stream(patterns, take)
        demodulate(images, scale, top, amplitude)
        return amplitude

    return call
