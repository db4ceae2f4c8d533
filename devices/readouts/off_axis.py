"""Off-axis holography: one frame, the reference arm tilted, the field found at its carrier in the Fourier plane.

Leith and Upatnieks 1962; digital demodulation after Cuche, Marquet and Depeursinge, Applied Optics 39, 4070 (2000).
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.readouts.base import Bench, Reading, count_saturated, real_type
from optical_dfa.devices.readouts.maps import Calibration, Maps, inverse
from optical_dfa.devices.readouts.modes import ModeReadout
from optical_dfa.emulator import FrameStamp
from optical_dfa.emulator.checks import require
from optical_dfa.emulator.pupil import Pupil, PupilShape, smallest_shape

PATTERNS_AT_ONCE = 8
"""Patterns whose Fourier planes are held at once."""

IMAGES_TRIED = 32
"""Images tried, each with a ring of modes or 2 % of them more, until a carrier fits between the bins of one."""

Carrier = tuple[float, float]
"""(k_x, k_y) in cycles per pixel: x along the columns of the image, y along its rows."""


class OffAxis(ModeReadout):
    """Complex field of every mode from one frame, in which the reference arm is a plane wave R·exp(2πi k·p).

    In the image |A|² + R² + A·R·exp(-2πi k·p) + conj(A)·R·exp(2πi k·p), the field is the band of radius k_c = 1/(2d) at
    -k of the Fourier plane. |A|² fills the radius 2 k_c: the carrier must be 3 k_c or more from the origin, so that no
    bin is shared, and the band must end at half a cycle per pixel. So an axial carrier needs a grain d > 4 pixels, a
    diagonal one d ≥ 3.13 pixels.

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
        super().__init__(bench, reference_e, pupil, calibration)
        self._pupil, self._bin = pupil, _checked_bin(pupil, carrier)

    def _set_maps(self, maps: Maps) -> None:
        super()._set_maps(maps)
        gain = maps.interference_gain(self._reference_e)
        flat = np.ones(self.n_pixels) if gain is None else inverse(gain)
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


def least_grain_px(pupil: PupilShape, direction_deg: float) -> float:
    """Grain from which on a carrier fits in that direction, were the bins infinitely fine.

    A carrier of 3 k_c, k_c = 1/(2d), whose band ends at half a cycle per pixel: d = 1 + 3·max(|cos|, |sin|). With a
    square pupil |A|² fills a square, and it is 4 in every direction.
    """
    angle = math.radians(direction_deg)
    return 4.0 if pupil == "square" else 1 + 3 * max(abs(math.cos(angle)), abs(math.sin(angle)))


def fitting_image(n_modes: int, grain_px: float, pupil: PupilShape, direction_deg: float) -> tuple[int, Carrier]:
    """How many modes to ask `smallest_shape` for, so that a carrier fits, and that carrier.

    Bins of a small image are coarse, so that the smallest one for the modes may have none to put a carrier on.

    Args:
        n_modes: modes needed, at least.
        grain_px: speckle grain in pixels.
        pupil: its shape.
        direction_deg: as of `carrier_on_bin`.

    Raises:
        ValueError: the grain is too small for a carrier in that direction.
    """
    least = least_grain_px(pupil, direction_deg)
    accepted = f"{math.ceil(100 * least) / 100:g} pixels or more for an off-axis carrier at {direction_deg:g}°"
    if pupil == "circular" and least > 3.13:
        accepted += ", 3.13 or more at 45° (readout.direction_deg)"
    require(grain_px >= least, "grain.size_px", grain_px, accepted)
    reason = ""
    for _ in range(IMAGES_TRIED):
        optics = Pupil(smallest_shape(n_modes, grain_px, pupil), grain_px, pupil)
        try:
            return n_modes, carrier_on_bin(optics, direction_deg)
        except ValueError as error:
            reason = str(error)
        n_modes = max(optics.n_modes + 1, round(1.02 * optics.n_modes))
    raise ValueError(f"{reason}; tried images of up to {optics.image_shape[0]} x {optics.image_shape[1]} pixels")


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
            f"got {limits}: tilt the reference less, or enlarge the grain (above 4 px for an axial carrier, 3.13 px "
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
    at_row, at_column = _signed(pupil.bins // columns, rows), _signed(pupil.bins % columns, columns)
    # the pupil is even and has no holes: in each row it is the columns up to its reach
    top = int(at_row.max())
    reach = np.zeros(2 * top + 1, np.int64)
    np.maximum.at(reach, at_row + top, at_column)
    # bins of |A|² are differences of two bins of the pupil; in a row, up to the reaches of the widest pair
    widest = [max(reach[s:] + reach[s:][::-1]) for s in range(2 * top + 1)]
    on_intensity = _within(at_row - place[0], at_column - place[1], np.asarray(widest))
    from_conjugate = _signed(at_row - 2 * place[0], rows), _signed(at_column - 2 * place[1], columns)
    return not bool((on_intensity | _within(*from_conjugate, reach[top:])).any())


def _signed(bins: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int64]:
    """Bins of n modulo n, as numbers around 0."""
    return (bins + n // 2) % n - n // 2


def _within(
    row: npt.NDArray[np.int64], column: npt.NDArray[np.int64], reach: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Whether bins lie in a set that holds, in the row r or -r, the columns up to `reach[r]` on both sides."""
    inside = np.abs(row) < len(reach)
    found: npt.NDArray[np.bool_] = inside & (np.abs(column) <= reach[np.where(inside, np.abs(row), 0)])
    return found
