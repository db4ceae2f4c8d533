"""`numpy_statistical` in one pass on Numba: exact field → mean electrons of every step → one normal number.

A plain loop that LLVM vectorises, of correctly rounded float32 operations, as in `numba_camera`: an output does not
depend on where its pixel lies in a block. Pixels with a frame outside the camera's linear range, which are few where
light is well set, are marked NaN by that loop and done one by one from the table.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.llvm_floats import fma, square_root
from optical_dfa.emulator.numba_cache import compiled, joined
from optical_dfa.emulator.numba_camera import _hash, _standard_normal
from optical_dfa.emulator.statistical_light import COUNT, Floats

Words = npt.NDArray[np.uint32]

_u, _f = np.uint32, np.float32
_ZERO, _ONE, _TWO, _NAN = _f(0), _f(1), _f(2), _f(np.nan)


@joined
def _mean_e(
    field: Any,
    second: Any,
    pixel: int,
    weight: np.float32,
    second_weight: np.float32,
    in_phase: np.float32,
    in_quadrature: np.float32,
    wave_re: Any,
    wave_im: Any,
    gain: Any,
    dark: Any,
) -> Any:
    """Mean electrons of a pixel in a frame."""
    re, im = in_phase, in_quadrature
    if wave_re is not None:
        re = fma(in_phase, wave_re[pixel], -(in_quadrature * wave_im[pixel]))
        im = fma(in_phase, wave_im[pixel], in_quadrature * wave_re[pixel])
    re = fma(_f(field[2 * pixel]), weight, re)
    im = fma(_f(field[2 * pixel + 1]), weight, im)
    if second is not None:
        re = fma(_f(second[2 * pixel]), second_weight, re)
        im = fma(_f(second[2 * pixel + 1]), second_weight, im)
    mean_e = fma(re, re, im * im)
    if gain is not None:
        mean_e = mean_e * gain[pixel]
    if dark is not None:
        mean_e = mean_e + dark[pixel]
    return mean_e


@joined
def _steps(weights: Floats, reference: Floats, first: int, sign: np.float32) -> Any:
    """Weights and reference of four frames, as scalars: the loop over pixels must not read arrays that it might write.

    For each frame: weight of the first and of the second field, and the two quadratures of the reference.
    """
    return (
        (weights[first, 0] * sign, weights[first, 1] * sign, reference[first, 0], reference[first, 1]),
        (weights[first + 1, 0] * sign, weights[first + 1, 1] * sign, reference[first + 1, 0], reference[first + 1, 1]),
        (weights[first + 2, 0] * sign, weights[first + 2, 1] * sign, reference[first + 2, 0], reference[first + 2, 1]),
        (weights[first + 3, 0] * sign, weights[first + 3, 1] * sign, reference[first + 3, 0], reference[first + 3, 1]),
    )


@joined
def _pattern(field: Any, second: Any, pixel: int, steps: Any, wave_re: Any, wave_im: Any, gain: Any, dark: Any) -> Any:
    """Differences and sums of the mean electrons of opposite steps, and the smallest and largest of the four."""
    first, quarter, half, last = steps
    w, x, p, q = first
    a = _mean_e(field, second, pixel, w, x, p, q, wave_re, wave_im, gain, dark)
    w, x, p, q = quarter
    b = _mean_e(field, second, pixel, w, x, p, q, wave_re, wave_im, gain, dark)
    w, x, p, q = half
    c = _mean_e(field, second, pixel, w, x, p, q, wave_re, wave_im, gain, dark)
    w, x, p, q = last
    d = _mean_e(field, second, pixel, w, x, p, q, wave_re, wave_im, gain, dark)
    even_low, even_high = a if a < c else c, c if a < c else a
    odd_low, odd_high = b if b < d else d, d if b < d else b
    lowest = even_low if even_low < odd_low else odd_low
    highest = even_high if even_high > odd_high else odd_high
    return a - c, a + c, b - d, b + d, lowest, highest


@joined
def _normals(at: int, low: np.uint32, high: np.uint32) -> Any:
    """The two normal numbers of a pixel of the image: their counters are its outputs."""
    first = _u(_u(at) << _u(1))
    z = _standard_normal(_hash(first, low, high))
    return z, _standard_normal(_hash(_u(first | _u(1)), low, high))


@compiled
def _fill_sides(
    field: npt.NDArray[np.int32],
    n_rows: int,
    split: Floats,
    known: npt.NDArray[np.int32],
    half: np.float32,
    low: np.uint32,
    high: np.uint32,
    lit: Any,
    always: Any,
    beam: Any,
    first_row: int,
    first: Floats,
    other: Floats,
) -> None:
    """Fields of the first and of the second pattern of a vector, on `n_rows` / 2 pixels.

    S is `known`, unless that is empty.
    """
    sign, on_difference, on_lit, spread = split
    for row in range(n_rows):
        difference = _f(field[row])
        total = on_difference * difference
        if lit is not None:
            total = fma(on_lit, lit[row], total)
        first[row] = total
    if len(known) > 0:
        for row in range(n_rows):
            first[row] = _f(known[row])
    elif spread > _ZERO:
        for row in range(n_rows):
            z = _standard_normal(_hash(_u(_u(first_row) + _u(row)), low, high))
            first[row] = fma(spread, z, first[row])
    for row in range(n_rows):
        difference, total = sign * _f(field[row]), first[row]
        plus, minus = half * (total + difference), half * (total - difference)
        if always is not None:
            plus, minus = plus + always[row], minus + always[row]
        first[row], other[row] = plus, minus
    if beam is not None:
        for row in range(n_rows):
            first[row], other[row] = first[row] * beam[row // 2], other[row] * beam[row // 2]


@joined
def _look_up(table: Floats, constants: Floats, mean_e: np.float32) -> Any:
    """Mean, variance and probability of saturation of a frame, between two points of the table."""
    last = _f(table.size // 4 - 1)
    place = (mean_e - constants[7]) * constants[8]
    place = place if place > _ZERO else _ZERO
    place = place if place < last else last
    whole = np.uint32(place)
    point = np.uint64(whole if _f(whole) < last else whole - np.uint32(1)) * np.uint64(4)
    part = place - _f(np.uint32(point // np.uint64(4)))
    a, b, c = table[point], table[point + np.uint64(1)], table[point + np.uint64(2)]
    above = point + np.uint64(4)
    mean = fma(part, table[above] - a, a)
    variance = fma(part, table[above + np.uint64(1)] - b, b)
    return mean, variance, fma(part, table[above + np.uint64(2)] - c, c)


@joined
def _pattern_from_table(
    field: Any, second: Any, pixel: Any, steps: Any, wave_re: Any, wave_im: Any, gain: Any, dark: Any,
    constants: Floats, table: Floats,
) -> Any:  # fmt: skip
    """Means and variances of the differences of opposite steps, and saturated readings expected of all four."""
    first, quarter, half, last = steps
    w, x, p, q = first
    a, v, s = _look_up(table, constants, _mean_e(field, second, pixel, w, x, p, q, wave_re, wave_im, gain, dark))
    w, x, p, q = half
    c, u, t = _look_up(table, constants, _mean_e(field, second, pixel, w, x, p, q, wave_re, wave_im, gain, dark))
    re, re_variance, saturated = a - c, v + u, s + t
    w, x, p, q = quarter
    b, v, s = _look_up(table, constants, _mean_e(field, second, pixel, w, x, p, q, wave_re, wave_im, gain, dark))
    w, x, p, q = last
    d, u, t = _look_up(table, constants, _mean_e(field, second, pixel, w, x, p, q, wave_re, wave_im, gain, dark))
    return re, re_variance, b - d, v + u, saturated + (s + t)


@compiled
def _marked(outputs: Floats, which: Words, n_pixels: int) -> Any:
    """Pixels whose first output is NaN, into `which`; their number."""
    count = np.uint64(0)
    for pixel in range(n_pixels):
        which[count] = pixel
        count += np.uint64(outputs[2 * pixel] != outputs[2 * pixel])
    return np.int64(count)


@compiled
def _correct(
    first: Any,
    first_later: Any,
    other: Any,
    other_later: Any,
    two_sided: bool,
    steps: Any,
    steps_of_other: Any,
    wave_re: Any,
    wave_im: Any,
    gain: Any,
    dark: Any,
    constants: Floats,
    table: Floats,
    first_pixel: int,
    low: np.uint32,
    high: np.uint32,
    scale: np.float32,
    which: Words,
    outputs: Floats,
) -> Any:
    """Outputs of the pixels `which`, from the table; saturated readings expected, in units of 2^-24.

    Args:
        first: field of the first pattern, of pixels beside each other, as what follows.
        first_later: of the next matrix, or None.
        other: field of the second pattern.
        other_later: of the next matrix, or None.
        two_sided: whether there is a second pattern.
        steps: of the first, see `_steps`.
        steps_of_other: of the second.
        wave_re: this and what follows: see `read`.
        wave_im: imaginary part.
        gain: response.
        dark: dark signal.
        constants: see `read`.
        table: see `read`.
        first_pixel: see `read`.
        low: key of the outputs.
        high: its other half.
        scale: of the outputs.
        which: numbers of the pixels.
        outputs: filled.
    """
    expected = np.int64(0)
    for number in range(len(which)):
        pixel = np.uint64(which[number])
        re, re_variance, im, im_variance, saturated = _pattern_from_table(
            first, first_later, pixel, steps, wave_re, wave_im, gain, dark, constants, table
        )
        if two_sided:
            re_too, re_variance_too, im_too, im_variance_too, saturated_too = _pattern_from_table(
                other, other_later, pixel, steps_of_other, wave_re, wave_im, gain, dark, constants, table
            )
            re, re_variance = re - re_too, re_variance + re_variance_too
            im, im_variance = im - im_too, im_variance + im_variance_too
            saturated += saturated_too
        z, y = _normals(np.uint64(first_pixel) + pixel, low, high)
        outputs[np.uint64(2) * pixel] = fma(square_root(re_variance), z, re) * scale
        outputs[np.uint64(2) * pixel + np.uint64(1)] = fma(square_root(im_variance), y, im) * scale
        expected += np.int64(np.float64(saturated) * COUNT + 0.5)
    return expected


@compiled
def read(
    field: npt.NDArray[np.int32],
    second: Any,
    sums: npt.NDArray[np.int32],
    row: npt.NDArray[np.int64],
    sides: npt.NDArray[np.int64],
    first_frame: npt.NDArray[np.int64],
    split: Floats,
    sum_row: npt.NDArray[np.int64],
    noise_low: Words,
    noise_high: Words,
    sum_low: Words,
    sum_high: Words,
    weights: Floats,
    reference: Floats,
    lit: Any,
    always: Any,
    beam: Any,
    wave: Any,
    gain: Any,
    dark: Any,
    constants: Floats,
    table: Floats,
    first_pixel: int,
    skipped: int,
    n_pixels: int,
    column: int,
    out: Floats,
    expected: npt.NDArray[np.int64],
) -> None:
    """Outputs of some pixels of some vectors. What is None is compiled away.

    Args:
        field: int32 (vectors, 2 · pixels of the block), exact product.
        second: the same of the next matrix, or None.
        sums: (media, some vectors, 2 · pixels of the image), exact sums S.
        row: (vectors,) of `out`.
        sides: (vectors,) patterns displayed, 1 or 2.
        first_frame: (vectors,) of weights and reference.
        split: see `statistical.Shown`.
        sum_row: (vectors,) of `sums`; -1: S is drawn.
        noise_low: (vectors,) low half of the key of each vector's outputs.
        noise_high: the high half.
        sum_low: (media, vectors) low half of the key of S.
        sum_high: the high half.
        weights: (frames, 2).
        reference: (frames, 2).
        lit: this and the next five: see `statistical.Optics`.
        always: (media, 2 · pixels of the image) or None.
        beam: (pixels of the image,) or None.
        wave: (2, pixels of the image) or None.
        gain: (pixels of the image,) or None.
        dark: (pixels of the image,) or None.
        constants: (9,): half of the contrast gain, system gain, shot noise, noise floor, ends of the linear range,
            scale of the outputs, first point and points per electron of the table.
        table: (4 · points,) mean, variance, probability of saturation and nothing, see `moments.Moments`.
        first_pixel: of the image, of the first done.
        skipped: pixels of the block before it.
        n_pixels: pixels to be done.
        column: of `out`, of the first.
        out: float32, filled.
        expected: (vectors,), filled: saturated readings in units of 2^-24.
    """
    half, gain_dn, shot, floor = constants[0], constants[1], constants[2], constants[3]
    low_e, high_e, scale = constants[4], constants[5], constants[6]
    n_rows, first_row = 2 * n_pixels, 2 * first_pixel
    wave_re = None if wave is None else wave[0, first_pixel:]
    wave_im = None if wave is None else wave[1, first_pixel:]
    gains = None if gain is None else gain[first_pixel:]
    darks = None if dark is None else dark[first_pixel:]
    beams = None if beam is None else beam[first_pixel:]
    lit_now = None if lit is None else lit[0, first_row:]
    always_now = None if always is None else always[0, first_row:]
    first, other = np.empty(n_rows, np.float32), np.empty(n_rows, np.float32)
    first_later = None if second is None else np.empty(n_rows, np.float32)
    other_later = None if second is None else np.empty(n_rows, np.float32)
    which, no_sum = np.empty(n_pixels, np.uint32), np.empty(0, np.int32)
    for vector in range(len(row)):
        frame, two_sided = first_frame[vector], sides[vector] == 2
        sign = split[vector, 0]
        low, high = noise_low[vector], noise_high[vector]
        outputs = out[row[vector], column:]
        outside = np.int32(0)
        signed_scale = scale * sign
        fields = field[vector, 2 * skipped :]
        later = None if second is None else second[vector, 2 * skipped :]
        if lit is None and always is None and beam is None and not two_sided:
            of_frames = floor + floor
            steps = _steps(weights, reference, frame, sign)
            for pixel in range(n_pixels):
                re, re_sum, im, im_sum, lowest, highest = _pattern(
                    fields, later, pixel, steps, wave_re, wave_im, gains, darks
                )
                inside = (lowest >= low_e) & (highest <= high_e)
                z, y = _normals(first_pixel + pixel, low, high)
                real = fma(square_root(fma(shot, re_sum, of_frames)), z, gain_dn * re) * signed_scale
                imaginary = fma(square_root(fma(shot, im_sum, of_frames)), y, gain_dn * im) * signed_scale
                outputs[2 * pixel] = real if inside else _NAN
                outputs[2 * pixel + 1] = imaginary
                outside += np.int32(not inside)
            if outside:
                marked = which[: _marked(outputs, which, n_pixels)]
                expected[vector] = _correct(
                    fields, later, fields, later, False, steps, steps, wave_re, wave_im, gains, darks,
                    constants, table, first_pixel, low, high, signed_scale, marked, outputs,
                )  # fmt: skip
            continue
        last_row = first_row + n_rows if sum_row[vector] >= 0 else first_row
        known = sums[0, max(sum_row[vector], 0), first_row:last_row] if sums.shape[1] else no_sum
        _fill_sides(
            fields, n_rows, split[vector], known, half, sum_low[0, vector], sum_high[0, vector],
            lit_now, always_now, beams, first_row, first, other,
        )  # fmt: skip
        if second is not None:
            lit_later = None if lit is None else lit[1, first_row:]
            always_later = None if always is None else always[1, first_row:]
            known = sums[1, max(sum_row[vector], 0), first_row:last_row] if sums.shape[1] else no_sum
            _fill_sides(
                later, n_rows, split[vector], known, half, sum_low[1, vector], sum_high[1, vector],
                lit_later, always_later, beams, first_row, first_later, other_later,
            )  # fmt: skip
        steps = _steps(weights, reference, frame, _ONE)
        steps_of_other = _steps(weights, reference, frame + 4 if two_sided else frame, _ONE)
        of_frames = (floor + floor) * (_TWO if two_sided else _ONE)
        for pixel in range(n_pixels):
            re, re_sum, im, im_sum, lowest, highest = _pattern(
                first, first_later, pixel, steps, wave_re, wave_im, gains, darks
            )
            if two_sided:
                re_too, re_sum_too, im_too, im_sum_too, lowest_too, highest_too = _pattern(
                    other, other_later, pixel, steps_of_other, wave_re, wave_im, gains, darks
                )
                re, re_sum, im, im_sum = re - re_too, re_sum + re_sum_too, im - im_too, im_sum + im_sum_too
                lowest = lowest if lowest < lowest_too else lowest_too
                highest = highest if highest > highest_too else highest_too
            inside = (lowest >= low_e) & (highest <= high_e)
            z, y = _normals(first_pixel + pixel, low, high)
            real = fma(square_root(fma(shot, re_sum, of_frames)), z, gain_dn * re) * signed_scale
            imaginary = fma(square_root(fma(shot, im_sum, of_frames)), y, gain_dn * im) * signed_scale
            outputs[2 * pixel] = real if inside else _NAN
            outputs[2 * pixel + 1] = imaginary
            outside += np.int32(not inside)
        if outside:
            marked = which[: _marked(outputs, which, n_pixels)]
            expected[vector] = _correct(
                first, first_later, other, other_later, two_sided, steps, steps_of_other, wave_re, wave_im,
                gains, darks, constants, table, first_pixel, low, high, signed_scale, marked, outputs,
            )  # fmt: skip
