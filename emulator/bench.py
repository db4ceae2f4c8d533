"""The emulated optical bench: binary DMD frames in, camera images out.

Light meets, in this order: the DMD (binary frames), the scattering medium (the exact product of `matrix`), the
reference arm (a plane wave of adjustable phase) and the camera. `expose` is the seam that lab-built benches implement
too: what reads the hardware reads the emulator.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.arrays import is_cupy, on_host
from optical_dfa.emulator.camera import Image
from optical_dfa.emulator.checks import require
from optical_dfa.emulator.dmd import Dmd
from optical_dfa.emulator.exposure import Frames, Light, Pixels, make_exposure
from optical_dfa.emulator.hashing import derive_key
from optical_dfa.emulator.laser import Laser
from optical_dfa.emulator.measured import MeasuredLight, MeasuredProduct
from optical_dfa.emulator.parameters import ROI_COLUMNS, BenchParameters, Grain
from optical_dfa.emulator.product import Backend, Product
from optical_dfa.emulator.propagation import Propagation
from optical_dfa.emulator.pupil import smallest_shape

_NOISE = 1  # separates the keys of camera noise from those of anything else that one seed will ever draw


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
    black_level_dn: float = 0.0
    """Digital number of a dark pixel."""
    grain_px: float = 1.0
    """Speckle grain λz/D in pixels; 1 or less: every pixel is a mode of its own, or a fixed mean of several."""
    pupil: Literal["circular", "square"] = "circular"
    """Shape of the aperture that limits the speckle's band, for a grain above 1."""
    carrier: tuple[float, float] | None = None
    """(k_x, k_y) of a tilted reference arm, cycles per pixel, a whole number of fringes over the image; None: level."""


@dataclass(frozen=True)
class FrameStamp:
    """Which frames these are: noise depends on seed, stamp and pixel alone, so a repeated request is identical."""

    stream: int
    """Independent sequence of frames, 0 … 2^64-1; one for each client or rank."""
    first_frame: int
    """Number, in its stream, of the first frame of the request; the others follow."""
    time_s: float | None = None
    """Modelled time at which the first frame begins, seconds ≥ 0; None: frames follow each other without a pause, frame
    0 of the stream begins at time 0."""


class EmulatedBench:
    """A DMD, a scattering medium, a reference arm and a camera, emulated frame by frame.

    Args:
        n_frame_inputs: features shown on the DMD.
        n_modes: speckle modes needed; the image may hold a few more, to be a rectangle. Unless the grain is larger than
            a pixel, a pixel is needed for each.
        seed: seed of the transmission matrix and of the noise.
        parameters: the physics.
        memory_budget_bytes: of the product, see `make_product`.
        backend: of the product; the camera too runs on Numba, where that can run, unless it is `numpy`. With `cupy`
            both are on the GPU; a camera without a converter, and one behind more than the medium's matrix, are on the
            CPU.
        measured: light that was measured on another bench, in place of the matrix of the seed: a digital twin. What it
            holds already, DMD, beams and grain, is off in the parameters.

    Raises:
        ValueError: for sizes that the DMD, the camera or the measured light cannot hold, or a backend that cannot run
            here.
    """

    def __init__(
        self,
        n_frame_inputs: int,
        n_modes: int,
        seed: int,
        parameters: BenchParameters,
        memory_budget_bytes: int | None = None,
        backend: Backend = "auto",
        measured: MeasuredLight | None = None,
    ) -> None:
        apparatus, camera, grain, laser = parameters.apparatus, parameters.camera, parameters.grain, parameters.laser
        mirrors, pixels = apparatus.dmd_mirrors, apparatus.camera_pixels
        require(
            1 <= n_frame_inputs <= mirrors, "inputs", n_frame_inputs, f"1 … {mirrors:,}, one DMD mirror or more each"
        )
        require(1 <= n_modes <= pixels, "pixels", n_modes, f"1 … {pixels:,}, the size of the camera")
        if measured is not None:
            _check_measured(measured, n_modes, parameters, backend)
            shape = measured.image_shape
        elif grain.size_px > 1:
            shape = smallest_shape(n_modes, grain.size_px, grain.pupil)
            require(
                math.prod(shape) <= pixels,
                "pixels",
                math.prod(shape),
                f"at most {pixels:,}: fewer outputs, finer grain",
            )
        else:
            rows = math.ceil(n_modes / ROI_COLUMNS)
            shape = (rows, math.ceil(n_modes / rows))
        fringes = (round(laser.tilt_x * shape[1]) / shape[1], round(laser.tilt_y * shape[0]) / shape[0])
        self._laser = replace(laser, tilt_x=fringes[0], tilt_y=fringes[1])
        self.parameters = parameters
        self.seed = seed
        self._measured = measured
        self.propagation = Propagation(n_frame_inputs, shape, seed, parameters, memory_budget_bytes, backend, measured)
        self.info = BenchInfo(
            n_frame_inputs=n_frame_inputs,
            image_shape=shape,
            adc_bits=camera.adc_bits,
            saturation_dn=camera.saturation_dn,
            gain_dn_per_e=camera.gain_dn_per_e,
            has_reference=True,
            has_phase_modulator=True,
            exposure_limits_us=(1.0, 1e6),
            black_level_dn=camera.black_level_dn,
            grain_px=grain.size_px,
            pupil=grain.pupil,
            carrier=fringes if any(fringes) else None,
        )
        plain = self.propagation.plain and parameters.medium.frozen and not laser.intensity_noise
        plain = plain and camera.uniform and not camera.black_level_dn and not camera.poisson_below_e
        plain = plain and self._laser.reference_profile(shape) is None
        threaded = self.product.plan.backend == "numba" and not self.propagation.whole
        self.exposure = make_exposure(camera, backend, threaded, plain)
        self._camera_on_gpu = self.propagation.keep_on_gpu = self.exposure.backend == "cupy"
        self._next_frame = 0
        self.configure(exposure_us=parameters.photometry.exposure_us, reference_e=parameters.photometry.reference_e)

    @property
    def product(self) -> Product | MeasuredProduct:
        """The product with the medium's first matrix."""
        return self.propagation.product

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
        self._amplitude = math.sqrt(signal_e) * self.propagation.feature_amplitude
        shape = self.info.image_shape
        camera = self.parameters.camera
        maps = camera.maps(self.seed, math.prod(shape), exposure_us)
        wave = self._laser.reference_profile(shape, camera.real_type)
        if self._measured is not None:
            level = self._measured.reference
            wave = np.stack([level, np.zeros_like(level)]).astype(camera.real_type)
            dark_e = np.zeros((2, math.prod(shape)), np.float32) if maps.dark_e is None else maps.dark_e
            dark_e[1] += self._measured.dark_dn / np.float32(camera.gain_dn_per_e)
            maps = maps._replace(dark_e=dark_e)
        self.pixels = Pixels(wave, maps)

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
        setting = self.setting(phases, at.first_frame + np.arange(len(frames), dtype=np.uint64), reference, at)
        if not self._camera_on_gpu:
            return self._take(frames, setting, at, np)
        import cupy

        with cupy.cuda.Device(self.product.device_id):  # type: ignore[union-attr]
            if is_cupy(frames):
                return self._take(frames, setting, at, cupy)
            images: Image = self._take(cupy.asarray(frames), setting, at, cupy).get()  # type: ignore[attr-defined]
            return images

    def _take(self, frames: Any, setting: "Setting", at: FrameStamp, arrays: Any) -> Image:
        """Images of checked frames. `arrays` is NumPy or CuPy, whose arrays the frames and the images are."""
        rows, columns = self.info.image_shape
        images = arrays.empty((len(frames), rows * columns), self.parameters.camera.image_dtype)
        for medium in np.unique(setting.medium):  # frames in time order: those of one medium are neighbours
            first, stop = np.searchsorted(setting.medium, (medium, medium + 1))
            part = slice(int(first), int(stop))
            stamp = replace(at, first_frame=at.first_frame + part.start)
            patterns = self._patterns(frames[part], setting.turn is not None)
            self._take_of_medium(int(medium), frames[part], patterns, setting.part(part), stamp, images[part], arrays)
        shaped: Image = images.reshape(len(frames), rows, columns)
        camera = self.parameters.camera
        if camera.dropped_frames:
            numbers = at.first_frame + np.arange(len(frames), dtype=np.uint64)
            shaped = shaped[arrays.asarray(camera.arriving(self.seed, at.stream, numbers))]
        return shaped

    def _patterns(self, frames: Any, drifting: bool) -> npt.NDArray[np.int64]:
        """Which propagation each frame shows, from 0 on: equal neighbours share one."""
        fresh = np.zeros(len(frames), np.int64)
        if drifting and self.propagation.mixes:
            fresh[1:] = 1
        elif len(frames) > 1:
            fresh[1:] = on_host((frames[1:] != frames[:-1]).any(axis=1))
        return np.cumsum(fresh)

    def _take_of_medium(
        self,
        medium: int,
        frames: Any,
        patterns: npt.NDArray[np.int64],
        setting: "Setting",
        at: FrameStamp,
        images: Any,
        arrays: Any,
    ) -> None:
        """Fill images of neighbouring frames, the medium standing at one matrix or between it and the next."""
        numbers = at.first_frame + np.arange(len(frames), dtype=np.uint64)[:, None]
        requested = Frames(
            pattern=patterns,
            weights=setting.weights,
            reference=setting.reference,
            noise_key=derive_key(self.seed, _NOISE, at.stream, numbers),
        )

        def take(first_pattern: int, first_pixel: int, light: Light) -> None:
            which, shown = requested.of_patterns(first_pattern, first_pattern + len(light.field))
            part = images[int(which.start) : int(which.stop)]
            self.exposure(light, shown, self.pixels, first_pixel, part)

        which = np.unique(patterns, return_index=True)[1]
        chosen = frames[arrays.asarray(which)]
        turn = None if setting.turn is None else setting.turn[which]
        self.propagation.stream(chosen, medium, turn, take)

    def setting(
        self,
        phases: npt.NDArray[np.floating] | None,
        numbers: npt.NDArray[np.uint64],
        reference: bool,
        at: FrameStamp,
    ) -> "Setting":
        """What laser, medium and reference arm do in the frames of these increasing numbers, of a request at `at`."""
        require(at.time_s is None or 0 <= at.time_s < math.inf, "time_s", at.time_s, "a finite number ≥ 0, seconds")
        medium, frame_time_s = self.parameters.medium, self.frame_time_us * 1e-6
        n_frames = len(numbers)
        power = np.sqrt(self._laser.power(self.seed, at.stream, numbers))
        # from the number of each frame, not from that of the first: the same to the bit in any split of a request
        since = numbers if at.time_s is None else numbers - at.first_frame
        time_s = (at.time_s or 0.0) + since.astype(np.float64) * frame_time_s
        number, turn = medium.mixture(time_s)
        amplitude = self._amplitude * power
        weights = np.stack([amplitude, np.zeros(n_frames)], axis=1)
        if not medium.frozen and not self.propagation.mixes:
            weights = amplitude[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        angle = np.zeros(n_frames) if phases is None else np.asarray(phases, np.float64)
        angle = angle * (1 + self._laser.phase_step_error)
        drift = medium.phase_rad(self.seed, at.stream, numbers, time_s)
        # π/2 has no exact binary form: rounding at 1e-15 makes quarter turns exactly 0 or ±1
        wave = np.round(np.stack([np.cos(angle - drift), np.sin(angle - drift)], axis=1), 15)
        level = math.sqrt(self.reference_e * (1 + self._laser.reference_error)) if reference else 0.0
        return Setting(number, None if medium.frozen else turn, weights, level * power[:, None] * wave)

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


def _check_measured(measured: MeasuredLight, n_modes: int, parameters: BenchParameters, backend: Backend) -> None:
    """Refuse parameters that say again what measured light says."""
    pixels = math.prod(measured.image_shape)
    require(n_modes <= pixels, "pixels", n_modes, f"at most {pixels:,}, those that were measured")
    require(backend != "cupy", "backend", backend, "auto, numpy or numba for measured light, which is on the CPU")
    held = "off: measured light holds it already"
    require(parameters.dmd == Dmd(), "dmd", parameters.dmd, held)
    require(parameters.grain == Grain(), "grain", parameters.grain, held)
    off = Laser()
    for name in ("tilt_x", "tilt_y", "signal_waist", "reference_waist"):
        value = getattr(parameters.laser, name)
        require(value == getattr(off, name), f"laser.{name}", value, held)


@dataclass(frozen=True)
class Setting:
    """What happens in each frame of a request."""

    medium: npt.NDArray[np.int64]
    """(frames,) number of the matrix that the medium comes from; never decreasing."""
    turn: npt.NDArray[np.float64] | None
    """(frames,) angle by which it has turned towards the next; None: it stands."""
    weights: npt.NDArray[np.float64]
    reference: npt.NDArray[np.float64]
    """These two: see `Frames`."""

    def part(self, frames: slice) -> "Setting":
        """That of some of the frames."""
        turn = None if self.turn is None else self.turn[frames]
        return Setting(self.medium[frames], turn, self.weights[frames], self.reference[frames])
