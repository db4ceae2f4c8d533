"""From the integer field to camera images, on NumPy, or in one pass on Numba or on a GPU."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.camera import Camera, Image, Real
from optical_dfa.emulator.cupy_kernels import kernels
from optical_dfa.emulator.hashing import Key
from optical_dfa.emulator.numba_support import why_unavailable
from optical_dfa.emulator.threads import n_threads, share

BLOCK_PIXELS = 1 << 16
"""Pixel exposures computed at once by NumPy: a few float32 temporaries of this size stay in a core's L2 cache."""

THREAD_PIXELS = 1 << 17
"""Pixel exposures, about 0.2 ms, that are worth a thread."""


@dataclass(frozen=True)
class Frames:
    """What the bench does in each frame of a request."""

    pattern: npt.NDArray[np.int64]
    """(frames,) which propagation each shows; never decreasing."""
    reference: npt.NDArray[np.float64]
    """(frames, 2) quadratures of the reference arm, root electrons."""
    noise_key: Key
    """Keys of the camera's noise, (frames, 1)."""

    def of_patterns(self, first: int, stop: int) -> tuple[slice, "Frames"]:
        """The frames that show patterns `first` … `stop` - 1, counted from `first`, and which of all they are."""
        found = slice(*np.searchsorted(self.pattern, (first, stop)))
        low, high = self.noise_key
        return found, Frames(self.pattern[found] - first, self.reference[found], (low[found], high[found]))


class Exposure(Protocol):
    """Optics and camera behind the medium."""

    backend: str

    def __call__(
        self, field: npt.NDArray[np.int32], frames: Frames, amplitude: float, first_pixel: int, images: Image
    ) -> None:
        """Expose neighbouring pixels of some frames.

        Args:
            field: int32 (patterns, 2 · pixels), the two quadratures of each pixel's mode.
            frames: what happens in each.
            amplitude: root electrons per unit of the field.
            first_pixel: number, in the image, of the first pixel.
            images: (frames, pixels of an image), of the camera's dtype, filled from `first_pixel` on.
        """


def make_exposure(camera: Camera, backend: str, threaded: bool) -> Exposure:
    """The faster way that can run here. Without a converter images are float64, which is NumPy's business.

    Args:
        camera: the camera.
        backend: `numpy` for NumPy; `cupy` for CuPy, which the caller has; anything else: Numba where it can run.
        threaded: the caller has many threads already.
    """
    if backend == "cupy" and camera.adc_bits is not None:
        return CupyExposure(camera, camera.adc_bits)
    if backend == "numpy" or camera.adc_bits is None or why_unavailable(("fma",)) is not None:
        return NumpyExposure(camera)
    return NumbaExposure(camera, camera.adc_bits, 1 if threaded else n_threads())


class NumpyExposure:
    """One operation after the other, for blocks of frames."""

    backend = "numpy"

    def __init__(self, camera: Camera) -> None:
        self._camera = camera

    def __call__(
        self, field: npt.NDArray[np.int32], frames: Frames, amplitude: float, first_pixel: int, images: Image
    ) -> None:
        """See `Exposure`."""
        n_pixels = field.shape[1] // 2
        low, high = frames.noise_key
        step = max(1, BLOCK_PIXELS // n_pixels)
        for first in range(0, len(frames.pattern), step):
            block = slice(first, first + step)
            mean_e = self._intensity(field[frames.pattern[block]], frames.reference[block], amplitude)
            image = self._camera.expose(mean_e, (low[block], high[block]), first_pixel)
            images[block, first_pixel : first_pixel + n_pixels] = image

    def _intensity(self, field: npt.NDArray[np.int32], reference: npt.NDArray[np.float64], amplitude: float) -> Real:
        """Mean electrons |amplitude · field + reference|², (frames, pixels)."""
        # float32 resolves 1e-7 of a mean that shot noise blurs by more than 1e-3; the ideal bench has no such excuse
        real: type[np.float32 | np.float64] = np.float64 if self._camera.adc_bits is None else np.float32
        total: npt.NDArray[Any] = np.zeros((len(field), field.shape[1] // 2), real)
        for quadrature in (0, 1):
            wave: npt.NDArray[Any] = field[:, quadrature::2].astype(real)
            wave *= real(amplitude)
            wave += reference[:, quadrature, None].astype(real)
            total += np.square(wave, out=wave)
        return total


class NumbaExposure:
    """One compiled pass over the pixels."""

    backend = "numba"

    def __init__(self, camera: Camera, adc_bits: int, threads: int) -> None:
        from optical_dfa.emulator import numba_camera

        self._kernel = numba_camera.expose
        self._constants = _constants(camera, adc_bits)
        self._threads = threads

    def __call__(
        self, field: npt.NDArray[np.int32], frames: Frames, amplitude: float, first_pixel: int, images: Image
    ) -> None:
        """See `Exposure`."""
        low, high = (half[:, 0] for half in frames.noise_key)
        reference = frames.reference.astype(np.float32)

        def expose(first: int, _: None = None) -> None:
            part = slice(first, first + step)
            self._kernel(
                *(field, frames.pattern[part], np.float32(amplitude), reference[part], low[part], high[part]),
                *(self._constants, first_pixel, images[part]),
            )

        n_frames = len(frames.pattern)
        step = n_frames if self._threads == 1 else 1 + 2 * THREAD_PIXELS // field.shape[1]
        if step >= n_frames:
            expose(0)
        else:
            share(range(0, n_frames, step), self._threads, lambda: None, expose)


class CupyExposure:
    """One kernel over the pixels, with Numba's images, bit for bit. Fields and images are CuPy arrays."""

    backend = "cupy"

    def __init__(self, camera: Camera, adc_bits: int) -> None:
        self._constants = _constants(camera, adc_bits)

    def __call__(self, field: Any, frames: Frames, amplitude: float, first_pixel: int, images: Any) -> None:
        """See `Exposure`."""
        import cupy

        if not len(frames.pattern):
            return
        words = np.empty((len(frames.pattern), 5), np.uint32)
        words[:, 0] = frames.pattern
        words[:, 1:3] = np.hstack(frames.noise_key)
        words[:, 3:] = frames.reference.astype(np.float32).view(np.uint32)
        constants = np.concatenate([np.array([amplitude], np.float32), self._constants])
        kernels().expose(field, cupy.asarray(words), constants, first_pixel, images)


def _constants(camera: Camera, adc_bits: int) -> npt.NDArray[np.float32]:
    """Shot noise (1 or 0), variance of the read noise, full well, gain, largest number: what the kernels take."""
    limits = (camera.full_well_e, camera.gain_dn_per_e, 2**adc_bits - 1)
    return np.array([camera.shot_noise, camera.read_noise_e**2, *limits], np.float32)
