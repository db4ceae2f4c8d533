"""The emulated optical bench: binary DMD frames in, camera images out.

Light meets, in this order: the DMD (binary frames), the scattering medium (the exact product of `matrix`), the
reference arm (a plane wave of adjustable phase) and the camera. Grain is one speckle mode per pixel. `expose` is the
seam that lab-built benches implement too: what reads the hardware reads the emulator.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.arrays import is_cupy
from optical_dfa.emulator.camera import Camera, Image
from optical_dfa.emulator.checks import require
from optical_dfa.emulator.exposure import Frames, make_exposure
from optical_dfa.emulator.hashing import derive_key
from optical_dfa.emulator.matrix import VARIANCE
from optical_dfa.emulator.product import Backend, make_product

ROI_COLUMNS = 2040
"""Widest region of interest of the camera, pixels."""

_NOISE = 1  # separates the keys of camera noise from those of anything else that one seed will ever draw


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
class BenchParameters:
    """Everything that defines an emulated bench but its size and seed."""

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    photometry: Photometry
    camera: Camera
    apparatus: Apparatus


@dataclass(frozen=True)
class BenchInfo:
    """What a readout must know of a bench."""

    n_frame_inputs: int
    """Binary elements of a frame."""
    image_shape: tuple[int, int]
    """Rows and columns of an image, pixels."""
    adc_bits: int | None
    """Depth of the images; None: float64."""
    saturation_dn: float
    """Digital number of a saturated pixel; inf: none."""
    gain_dn_per_e: float
    """System gain of the camera, digital numbers per electron."""
    has_reference: bool
    has_phase_modulator: bool
    exposure_limits_us: tuple[float, float]


@dataclass(frozen=True)
class FrameStamp:
    """Which frames these are: noise depends on seed, stamp and pixel alone, so a repeated request is identical."""

    stream: int
    """Independent sequence of frames, 0 … 2^64-1; one for each client or rank."""
    first_frame: int
    """Number, in its stream, of the first frame of the request; the others follow."""


class EmulatedBench:
    """A DMD, a scattering medium, a reference arm and a camera, emulated frame by frame.

    Args:
        n_frame_inputs: features shown on the DMD.
        n_pixels: camera pixels needed; the image may hold a few more, to be a rectangle.
        seed: seed of the transmission matrix and of the noise.
        parameters: the physics.
        memory_budget_bytes: of the product, see `make_product`.
        backend: of the product; the camera too runs on Numba, where that can run, unless it is `numpy`. With `cupy`
            both are on the GPU, but for a camera without a converter: that one is NumPy's.

    Raises:
        ValueError: for sizes that the DMD or the camera cannot hold, or a backend that cannot run here.
    """

    def __init__(
        self,
        n_frame_inputs: int,
        n_pixels: int,
        seed: int,
        parameters: BenchParameters,
        memory_budget_bytes: int | None = None,
        backend: Backend = "auto",
    ) -> None:
        apparatus = parameters.apparatus
        mirrors, pixels = apparatus.dmd_mirrors, apparatus.camera_pixels
        require(
            1 <= n_frame_inputs <= mirrors, "inputs", n_frame_inputs, f"1 … {mirrors:,}, one DMD mirror or more each"
        )
        require(1 <= n_pixels <= pixels, "pixels", n_pixels, f"1 … {pixels:,}, the size of the camera")
        rows = math.ceil(n_pixels / ROI_COLUMNS)
        shape = (rows, math.ceil(n_pixels / rows))
        self.parameters = parameters
        self.seed = seed
        self.product = make_product(n_frame_inputs, 2 * shape[0] * shape[1], seed, memory_budget_bytes, backend)
        self.info = BenchInfo(
            n_frame_inputs=n_frame_inputs,
            image_shape=shape,
            adc_bits=parameters.camera.adc_bits,
            saturation_dn=parameters.camera.saturation_dn,
            gain_dn_per_e=parameters.camera.gain_dn_per_e,
            has_reference=True,
            has_phase_modulator=True,
            exposure_limits_us=(1.0, 1e6),
        )
        self.exposure = make_exposure(parameters.camera, backend, threaded=self.product.plan.backend == "numba")
        self._camera_on_gpu = self.exposure.backend == "cupy"
        self._next_frame = 0
        self.configure(exposure_us=parameters.photometry.exposure_us, reference_e=parameters.photometry.reference_e)

    def configure(self, *, exposure_us: float, reference_e: float) -> None:
        """Set the exposure time (microseconds) and the level of the reference arm (electrons per pixel and exposure).

        The signal grows in proportion to the exposure. The reference level is what reaches the camera in one exposure,
        whatever its length: its attenuator is set for it.
        """
        low, high = self.info.exposure_limits_us
        require(low <= exposure_us <= high, "exposure_us", exposure_us, f"from {low:g} to {high:g}")
        require(0 <= reference_e < math.inf, "reference_e", reference_e, "a finite number ≥ 0, electrons")
        self.exposure_us, self.reference_e = exposure_us, reference_e
        photometry = self.parameters.photometry
        signal_e = photometry.signal_e_per_feature * exposure_us / photometry.exposure_us
        # mean |field|² of one ON feature is twice the variance of an entry: two quadratures
        self._amplitude = math.sqrt(signal_e / (2 * VARIANCE))

    @property
    def frame_time_us(self) -> float:
        """Modelled time from frame to frame, microseconds."""
        rows, columns = self.info.image_shape
        return self.parameters.apparatus.frame_time_us(rows * columns, self.exposure_us)

    def expose(
        self,
        frames: npt.NDArray[np.uint8],
        *,
        phases: npt.NDArray[np.floating] | None = None,
        reference: bool = True,
        at: FrameStamp | None = None,
    ) -> Image:
        """Show binary frames and take one image of each.

        Args:
            frames: uint8 (frames, n_frame_inputs), 0 = OFF, 1 = ON. Equal neighbours share one propagation. A bench
                with its camera on a GPU also takes a CuPy array, and waits for its stream to see which are equal.
            phases: (frames,) phase of the reference arm, radians; None: all zero.
            reference: False blocks the reference arm.
            at: stream and number of the first frame; None: the frames follow those of the last such call, in stream 0.

        Returns:
            (frames, rows, columns) images, uint8 or uint16 by the depth of the converter, float64 without one. A CuPy
            array for CuPy frames.

        Raises:
            ValueError: for frames or phases of another shape, dtype or value.
        """
        self._check(frames, phases)
        if at is None:
            at = FrameStamp(0, self._next_frame)
            self._next_frame += len(frames)
        waves = self._reference(phases, len(frames)) if reference else np.zeros((len(frames), 2))
        if not self._camera_on_gpu:
            return self._take(frames, waves, at, np)
        import cupy

        with cupy.cuda.Device(self.product.device_id):  # type: ignore[union-attr]
            if is_cupy(frames):
                return self._take(frames, waves, at, cupy)
            images: Image = self._take(cupy.asarray(frames), waves, at, cupy).get()  # type: ignore[attr-defined]
            return images

    def _take(self, frames: Any, waves: npt.NDArray[np.float64], at: FrameStamp, arrays: Any) -> Image:
        """Images of checked frames. `arrays` is NumPy or CuPy, whose arrays the frames and the images are."""
        fresh = np.ones(len(frames), bool)
        if len(frames) > 1:
            changed = (frames[1:] != frames[:-1]).any(axis=1)
            fresh[1:] = changed.get() if self._camera_on_gpu else changed
        numbers = at.first_frame + np.arange(len(frames), dtype=np.uint64)[:, None]
        requested = Frames(
            pattern=np.cumsum(fresh) - 1,
            reference=waves,
            noise_key=derive_key(self.seed, _NOISE, at.stream, numbers),
        )
        rows, columns = self.info.image_shape
        images = arrays.empty((len(frames), rows * columns), self.parameters.camera.image_dtype)

        def take(first_pattern: int, first_row: int, field: Any) -> None:
            which, shown = requested.of_patterns(first_pattern, first_pattern + len(field))
            if is_cupy(field) and not self._camera_on_gpu:
                field = field.get()
            part = images[int(which.start) : int(which.stop)]
            self.exposure(field, shown, self._amplitude, first_row // 2, part)

        self.product.stream(frames[arrays.asarray(np.flatnonzero(fresh))], take)
        shaped: Image = images.reshape(len(frames), rows, columns)
        return shaped

    def _reference(self, phases: npt.NDArray[np.floating] | None, n_frames: int) -> npt.NDArray[np.float64]:
        """Quadratures of the reference arm in each frame, in root electrons."""
        angle = np.zeros(n_frames) if phases is None else np.asarray(phases, np.float64)
        # π/2 has no exact binary form: rounding at 1e-15 makes quarter turns exactly 0 or ±1
        return math.sqrt(self.reference_e) * np.round(np.stack([np.cos(angle), np.sin(angle)], axis=1), 15)

    def _check(self, frames: npt.NDArray[np.uint8], phases: npt.NDArray[np.floating] | None) -> None:
        n = self.info.n_frame_inputs
        kind = "CuPy " if is_cupy(frames) else ""
        known = isinstance(frames, np.ndarray) or (bool(kind) and self._camera_on_gpu)
        require(
            known and frames.dtype == np.uint8 and frames.ndim == 2 and frames.shape[1] == n,
            "frames",
            f"{kind}{getattr(frames, 'dtype', type(frames).__name__)} {getattr(frames, 'shape', '')}".strip(),
            f"a uint8 {'NumPy or CuPy ' if self._camera_on_gpu else ''}array of shape (frames, {n})",
        )
        require(not frames.size or int(frames.max()) <= 1, "frames", "larger values", "0 (OFF) or 1 (ON) everywhere")
        if phases is not None:
            require(
                isinstance(phases, np.ndarray) and phases.dtype.kind == "f" and phases.shape == (len(frames),),
                "phases",
                f"{getattr(phases, 'dtype', type(phases).__name__)} {getattr(phases, 'shape', '')}".strip(),
                f"a floating-point array of shape ({len(frames)},)",
            )
            require(bool(np.isfinite(phases).all()), "phases", "NaN or infinity", "finite, in radians")
