"""Off-axis holography: one frame, the reference arm tilted, the field found at its carrier in the Fourier plane.

Leith and Upatnieks 1962; digital demodulation after Cuche, Marquet and Depeursinge, Applied Optics 39, 4070 (2000).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.readouts.base import Bench, Reading, count_saturated, mix_quadratures, real_type
from optical_dfa.devices.readouts.maps import Calibration, Maps, inverse, take_maps
from optical_dfa.emulator import FrameStamp
from optical_dfa.emulator.checks import require
from optical_dfa.emulator.pupil import Pupil

PATTERNS_AT_ONCE = 8
"""Patterns whose Fourier planes are held at once."""

Carrier = tuple[float, float]
"""(k_x, k_y) in cycles per pixel: x along the columns of the image, y along its rows."""


class OffAxis:
    """Complex field of every mode from one frame, in which the reference arm is a plane wave R·exp(2πi k·p).

    In the image |A|² + R² + A·R·exp(-2πi k·p) + conj(A)·R·exp(2πi k·p), the field is the band of radius k_c = 1/(2d) at
    -k of the Fourier plane. |A|² fills the radius 2 k_c: the carrier must be 3 k_c or more from the origin, so that no
    bin is shared, and the band must end at half a cycle per pixel. So an axial carrier needs a grain d > 4 pixels, a
    diagonal one d ≥ 3.2 pixels.

    Signal-to-noise: Is R² / (f (Is + R² + s² + q²/12 + dark)), f = `pupil.kept_fraction`, see `noise`. It counts the
    light of 1/f pixels for each mode.

    Args:
        bench: any bench with a tilted reference arm.
        reference_e: level of the reference arm as calibrated, electrons per pixel and exposure.
        pupil: of the images.
        carrier: (k_x, k_y) of the reference arm, cycles per pixel, on a bin of the Fourier plane; see
            `carrier_on_bin`.
        calibration: maps to take in `calibrate`.

    Raises:
        ValueError: no reference arm, or a carrier between bins, too near to the origin or too far from it.
    """

    outputs_per_mode = 2
    frames_per_pattern = 1

    def __init__(
        self,
        bench: Bench,
        reference_e: float,
        pupil: Pupil,
        carrier: Carrier,
        *,
        calibration: Calibration = Calibration(),  # noqa: B008  # frozen
    ) -> None:
        if not bench.info.has_reference:
            raise ValueError("off-axis readout needs a bench with a reference arm; this one has none: use anchors")
        shape = bench.info.image_shape
        require(pupil.image_shape == shape, "pupil.image_shape", pupil.image_shape, f"that of the images, {shape}")
        require(0 < reference_e < math.inf, "reference_e", reference_e, "a finite number > 0, electrons")
        self.n_modes = pupil.n_modes
        self._bin = _checked_bin(pupil, carrier)
        self._bench, self._pupil, self._calibration = bench, pupil, calibration
        self._reference_e = reference_e
        self._set_maps(Maps())

    @property
    def n_pattern_inputs(self) -> int:
        """Binary elements of a pattern: those of a frame."""
        return self._bench.info.n_frame_inputs

    @property
    def n_outputs(self) -> int:
        """Two quadratures of each mode: 2m and 2m+1."""
        return 2 * self.n_modes

    @property
    def mode_of_output(self) -> npt.NDArray[np.int64]:
        """See `Readout`."""
        return np.arange(self.n_outputs) // 2

    def mix(self, rows: npt.NDArray[Any], outputs: slice = slice(None)) -> npt.NDArray[Any]:
        """Output o is row o of T. See `Readout`."""
        return mix_quadratures(rows, outputs, self.n_outputs)

    def calibrate(self, at: FrameStamp) -> int:
        """Take the maps of `calibration`; returns the frames used."""
        maps, frames = take_maps(self._bench, self._calibration, at)
        self._set_maps(maps)
        return frames

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """The calibrated maps."""
        return self.maps.state_dict()

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over the maps of `state_dict`."""
        self._set_maps(Maps.from_state(state, self._pupil.n_pixels))

    def _set_maps(self, maps: Maps) -> None:
        self.maps = maps
        gain = maps.interference_gain(self._reference_e)
        flat = np.ones(self._pupil.n_pixels) if gain is None else inverse(gain)
        self._to_field = flat / (self._bench.info.gain_dn_per_e * math.sqrt(self._reference_e))
        reference_dn = (
            self._reference_e if maps.reference_e is None else maps.reference_e
        ) * self._bench.info.gain_dn_per_e
        self._offset_dn = np.broadcast_to(reference_dn + (0 if maps.dark_dn is None else maps.dark_dn), flat.shape)

    def read(self, patterns: npt.NDArray[np.uint8], at: FrameStamp) -> Reading:
        """Complex amplitude of each mode behind each binary pattern.

        Args:
            patterns: uint8 (patterns, n_frame_inputs), 0 or 1; each is shown in one frame.
            at: stamp of the first frame.
        """
        images = self._bench.expose(patterns, at=at)
        real = real_type(images)
        amplitude: npt.NDArray[Any] = np.empty((len(patterns), self.n_outputs), real)
        shape = self._pupil.image_shape
        offset, factor = (part.reshape(shape).astype(real) for part in (self._offset_dn, self._to_field))
        for first in range(0, len(patterns), PATTERNS_AT_ONCE):
            part = slice(first, first + PATTERNS_AT_ONCE)
            modes = self._pupil.to_modes((images[part] - offset) * factor, (-self._bin[0], -self._bin[1]))
            amplitude[part] = np.ascontiguousarray(modes).view(real)
        saturated = count_saturated(images, self._bench.info.saturation_dn)
        return Reading(amplitude, len(patterns), saturated, images.size)


def carrier_on_bin(pupil: Pupil, direction_deg: float = 45.0) -> Carrier:
    """The lowest carrier in that direction, on a bin of the Fourier plane, that a pupil can be read with.

    Args:
        pupil: of the images.
        direction_deg: angle from the columns' direction x towards the rows' y. 45°: the smallest grain.

    Raises:
        ValueError: no carrier fits: the grain is too small.
    """
    rows, columns = pupil.image_shape
    angle = math.radians(direction_deg)
    cosine, sine = math.cos(angle), math.sin(angle)
    reason = ""
    for step in range(max(rows, columns)):
        k = 3 * pupil.cutoff + step / max(rows, columns)
        carrier = (round(k * cosine * columns) / columns, round(k * sine * rows) / rows)
        try:
            _checked_bin(pupil, carrier)
        except ValueError as error:
            reason = str(error)
            if max(map(abs, carrier)) + pupil.cutoff > 0.5:
                break
        else:
            return carrier
    raise ValueError(f"no carrier at {direction_deg:g}° fits: {reason}")


def _checked_bin(pupil: Pupil, carrier: Carrier) -> tuple[int, int]:
    """Row and column of the Fourier plane of a carrier that keeps the field apart from everything else."""
    k_x, k_y = carrier
    rows, columns = pupil.image_shape
    place = round(k_y * rows), round(k_x * columns)
    if max(abs(place[0] - k_y * rows), abs(place[1] - k_x * columns)) > 1e-6:
        raise ValueError(
            f"carrier must lie on a bin of the Fourier plane, a whole number of periods in {columns} x {rows} pixels; "
            f"got ({k_x:g}, {k_y:g}): the nearest is ({place[1] / columns!r}, {place[0] / rows!r})"
        )
    limits = f"grain {pupil.grain_px:g} px, k_c = {pupil.cutoff:g}, carrier ({k_x:g}, {k_y:g}) cycles/pixel"
    if max(abs(k_x), abs(k_y)) + pupil.cutoff > 0.5 + 1e-12:
        raise ValueError(
            f"the band of the field must end at 0.5 cycles/pixel or before: |k_x| + k_c ≤ 0.5 and |k_y| + k_c ≤ 0.5; "
            f"got {limits}: tilt the reference less, or enlarge the grain (above 4 px for an axial carrier, 3.2 px "
            "for a diagonal one)"
        )
    if not _is_apart(pupil, place):
        raise ValueError(
            f"the carrier must be 3 k_c = {3 * pupil.cutoff:g} cycles/pixel or more from the origin, so that |A|² does "
            f"not reach the field; got {limits}: tilt the reference more, or enlarge the grain"
        )
    return place


def _is_apart(pupil: Pupil, place: tuple[int, int]) -> bool:
    """Whether the band at -carrier shares no bin with |A|² nor with the conjugate band."""
    rows, columns = pupil.image_shape
    plane = np.zeros(pupil.n_pixels)
    plane[pupil.bins] = 1
    inside = plane.reshape(rows, columns)
    # bins of |A|²: differences of two bins of the pupil, counted by an autocorrelation
    autocorrelation = np.fft.ifft2(np.abs(np.fft.fft2(inside)) ** 2).real > 0.5
    conjugate = np.roll(inside, place, (0, 1)) > 0  # the pupil is even: -bins are bins
    band = np.roll(inside, (-place[0], -place[1]), (0, 1)) > 0
    return not bool((band & (autocorrelation | conjugate)).any())
