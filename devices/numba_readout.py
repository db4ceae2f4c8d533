"""Phase stepping on Numba: one pass over the images of each pattern."""

from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.numba_cache import compiled


@compiled
def demodulate(images: npt.NDArray[Any], scale: np.float32, saturation: int, amplitude: npt.NDArray[np.float32]) -> int:
    """Quadratures behind four images each, and how many readings were saturated.

    Args:
        images: uint8 or uint16 (4 · patterns, pixels), the reference a quarter turn further from one to the next.
        scale: root electrons per digital number of a difference.
        saturation: digital number from which a reading is saturated.
        amplitude: (patterns, 2 · pixels), filled.
    """
    saturated: Any = 0
    for pattern in range(len(amplitude)):
        zero, quarter, half, three_quarters = images[4 * pattern : 4 * pattern + 4]
        fields = amplitude[pattern]
        here = np.int32(0)
        for pixel in range(images.shape[1]):
            a, b = np.int32(zero[pixel]), np.int32(quarter[pixel])
            c, d = np.int32(half[pixel]), np.int32(three_quarters[pixel])
            fields[2 * pixel] = np.float32(np.int32(a - c)) * scale
            fields[2 * pixel + 1] = np.float32(np.int32(b - d)) * scale
            here += np.int32((a >= saturation) + (b >= saturation) + (c >= saturation) + (d >= saturation))
        saturated += here
    return saturated


@compiled
def demodulate_three(
    images: npt.NDArray[Any],
    real_scale: np.float32,
    imaginary_scale: np.float32,
    saturation: int,
    amplitude: npt.NDArray[np.float32],
) -> int:
    """Quadratures behind three images each, the reference a third of a turn further from one to the next.

    Args:
        images: uint8 or uint16 (3 · patterns, pixels).
        real_scale: root electrons per digital number of 2 I₀ - I₁ - I₂.
        imaginary_scale: root electrons per digital number of I₁ - I₂.
        saturation: digital number from which a reading is saturated.
        amplitude: (patterns, 2 · pixels), filled.

    Returns:
        How many readings were saturated.
    """
    saturated: Any = 0
    for pattern in range(len(amplitude)):
        zero, third, two_thirds = images[3 * pattern : 3 * pattern + 3]
        fields = amplitude[pattern]
        here = np.int32(0)
        for pixel in range(images.shape[1]):
            a, b, c = np.int32(zero[pixel]), np.int32(third[pixel]), np.int32(two_thirds[pixel])
            fields[2 * pixel] = np.float32(np.int32(np.int32(a - b) + np.int32(a - c))) * real_scale
            fields[2 * pixel + 1] = np.float32(np.int32(b - c)) * imaginary_scale
            here += np.int32((a >= saturation) + (b >= saturation) + (c >= saturation))
        saturated += here
    return saturated
