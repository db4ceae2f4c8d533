"""From the field to camera images, on NumPy, or in one pass on Numba or on a GPU."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.camera import ALL_ALIKE, Camera, Image, PixelMaps, Real
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
    weights: npt.NDArray[np.float64]
    """(frames, 2) root electrons per unit of the field, and of the second field where there is one."""
    reference: npt.NDArray[np.float64]
    """(frames, 2) quadratures of the reference arm, root electrons."""
    noise_key: Key
    """Keys of the camera's noise, (frames, 1)."""

    def of_patterns(self, first: int, stop: int) -> tuple[slice, "Frames"]:
        """The frames that show patterns `first` … `stop` - 1, counted from `first`, and which of all they are."""
        found = slice(*np.searchsorted(self.pattern, (first, stop)))
        low, high = self.noise_key
        pattern = self.pattern[found] - first
        return found, Frames(pattern, self.weights[found], self.reference[found], (low[found], high[found]))


class Light(NamedTuple):
    """What the medium sends to neighbouring pixels, pattern by pattern."""

    field: npt.NDArray[np.int32] | npt.NDArray[np.float32]
    """(patterns, 2 · pixels), the two quadratures at each pixel."""
    second: npt.NDArray[np.int32] | npt.NDArray[np.float32] | None = None
    """The same for the other of two media that this one is a mixture of."""
    incoherent: npt.NDArray[np.float32] | None = None
    """(patterns, pixels), intensity that does not interfere, in units of the field squared."""


class Pixels(NamedTuple):
    """What differs from pixel to pixel of an image and stays."""

    wave: npt.NDArray[np.float32] | None = None
    """(2, pixels), real and imaginary part of the reference arm's profile; None: 1."""
    maps: PixelMaps = ALL_ALIKE


class Exposure(Protocol):
    """Optics and camera behind the medium."""

    backend: str

    def __call__(self, light: Light, frames: Frames, pixels: Pixels, first_pixel: int, images: Image) -> None:
        """Expose neighbouring pixels of some frames.

        Args:
            light: on these pixels.
            frames: what happens in each.
            pixels: of the whole image.
            first_pixel: number, in the image, of the first pixel.
            images: (frames, pixels of an image), of the camera's dtype, filled from `first_pixel` on.
        """


def make_exposure(camera: Camera, backend: str, threaded: bool, plain: bool) -> Exposure:
    """The faster way that can run here. Without a converter images are float64, which is NumPy's business.

    Args:
        camera: the camera.
        backend: `numpy` for NumPy; `cupy` for CuPy, which the caller has; anything else: Numba where it can run.
        threaded: the caller has many threads already.
        plain: one integer field, no pixel different from another: what CuPy can do.
    """
    if backend == "cupy" and camera.adc_bits is not None and plain:
        return CupyExposure(camera, camera.adc_bits)
    if backend == "numpy" or camera.adc_bits is None or why_unavailable(("fma",)) is not None:
        return NumpyExposure(camera)
    return NumbaExposure(camera, camera.adc_bits, 1 if threaded else n_threads())


class NumpyExposure:
    """One operation after the other, for blocks of frames."""

    backend = "numpy"

    def __init__(self, camera: Camera) -> None:
        self._camera = camera

    def __call__(self, light: Light, frames: Frames, pixels: Pixels, first_pixel: int, images: Image) -> None:
        """See `Exposure`."""
        n_pixels = light.field.shape[1] // 2
        part = slice(first_pixel, first_pixel + n_pixels)
        wave = None if pixels.wave is None else pixels.wave[:, part]
        low, high = frames.noise_key
        step = max(1, BLOCK_PIXELS // n_pixels)
        for first in range(0, len(frames.pattern), step):
            block = slice(first, first + step)
            shown = Frames(
                frames.pattern[block], frames.weights[block], frames.reference[block], (low[block], high[block])
            )
            images[block, part] = self._camera.digitise(
                self._intensity(light, shown, wave), shown.noise_key, first_pixel, pixels.maps
            )

    def _intensity(self, light: Light, frames: Frames, wave: npt.NDArray[np.float32] | None) -> Real:
        """Mean electrons |weights · fields + reference|² and what does not interfere, (frames, pixels)."""
        # float32 resolves 1e-7 of a mean that shot noise blurs by more than 1e-3; the ideal bench has no such excuse
        real: type[np.float32 | np.float64] = np.float64 if self._camera.adc_bits is None else np.float32
        total: npt.NDArray[Any] = np.zeros((len(frames.pattern), light.field.shape[1] // 2), real)
        weights, reference = frames.weights.astype(real), frames.reference.astype(real)
        for quadrature in (0, 1):
            amplitude: npt.NDArray[Any] = light.field[frames.pattern, quadrature::2].astype(real)
            amplitude *= weights[:, :1]
            if light.second is not None:
                amplitude += weights[:, 1:] * light.second[frames.pattern, quadrature::2].astype(real)
            if wave is None:
                amplitude += reference[:, quadrature, None]
            else:
                turned = (wave[0], -wave[1]) if quadrature == 0 else (wave[1], wave[0])
                amplitude += reference[:, :1] * turned[0] + reference[:, 1:] * turned[1]
            total += np.square(amplitude, out=amplitude)
        if light.incoherent is not None:
            total += weights[:, :1] ** 2 * light.incoherent[frames.pattern].astype(real)
        return total


class NumbaExposure:
    """One compiled pass over the pixels."""

    backend = "numba"

    def __init__(self, camera: Camera, adc_bits: int, threads: int) -> None:
        from optical_dfa.emulator import numba_camera

        self._kernel = numba_camera.expose
        self._constants = _constants(camera, adc_bits)
        self._poisson_below_e = (
            np.float32(camera.poisson_below_e) if camera.shot_noise and camera.poisson_below_e else None
        )
        self._threads = threads

    def __call__(self, light: Light, frames: Frames, pixels: Pixels, first_pixel: int, images: Image) -> None:
        """See `Exposure`."""
        low, high = (half[:, 0] for half in frames.noise_key)
        weights, reference = frames.weights.astype(np.float32), frames.reference.astype(np.float32)

        def expose(first: int, _: None = None) -> None:
            part = slice(first, first + step)
            self._kernel(
                *(light.field, light.second, frames.pattern[part], weights[part], reference[part]),
                *(pixels.wave, light.incoherent, low[part], high[part], self._constants),
                *(pixels.maps.gain, pixels.maps.dark_e, self._poisson_below_e, first_pixel, images[part]),
            )

        n_frames = len(frames.pattern)
        step = n_frames if self._threads == 1 else 1 + 2 * THREAD_PIXELS // light.field.shape[1]
        if step >= n_frames:
            expose(0)
        else:
            share(range(0, n_frames, step), self._threads, lambda: None, expose)


class CupyExposure:
    """One kernel over the pixels, with Numba's images, bit for bit. Fields and images are CuPy arrays."""

    backend = "cupy"

    def __init__(self, camera: Camera, adc_bits: int) -> None:
        constants = _constants(camera, adc_bits)
        self._constants = np.concatenate([constants[:4], constants[5:]])  # a plain camera has no black level

    def __call__(self, light: Light, frames: Frames, pixels: Pixels, first_pixel: int, images: Any) -> None:
        """See `Exposure`; one weight for all frames, and nothing in `pixels`."""
        import cupy

        if not len(frames.pattern):
            return
        words = np.empty((len(frames.pattern), 5), np.uint32)
        words[:, 0] = frames.pattern
        words[:, 1:3] = np.hstack(frames.noise_key)
        words[:, 3:] = frames.reference.astype(np.float32).view(np.uint32)
        constants = np.concatenate([frames.weights[0, :1].astype(np.float32), self._constants])
        kernels().expose(light.field, cupy.asarray(words), constants, first_pixel, images)


def _constants(camera: Camera, adc_bits: int) -> npt.NDArray[np.float32]:
    """Shot noise (1 or 0), variance of the read noise, full well, gain, black level, largest number."""
    limits = (camera.full_well_e, camera.gain_dn_per_e, camera.black_level_dn, 2**adc_bits - 1)
    return np.array([camera.shot_noise, camera.read_noise_e**2, *limits], np.float32)
