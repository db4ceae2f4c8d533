"""Readings drawn from their statistics by NumPy: what `numba_statistical` computes in one pass."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.hashing import Key, hash_words
from optical_dfa.emulator.moments import Moments
from optical_dfa.emulator.normals import standard_normals
from optical_dfa.emulator.statistical_light import COUNT, STEPS, Floats, Integers, Light, Optics


@dataclass
class NumpyReader:
    """The definition: one operation after the other."""

    moments: Moments
    constants: Floats
    backend: str = field(default="numpy", init=False)

    def __call__(self, light: Light, weights: Floats, reference: Floats, optics: Optics, out: Floats) -> Integers:
        """See `Reader`."""
        expected = np.zeros(len(light.shown.row), np.int64)
        for sides in (1, 2):
            which = np.flatnonzero(light.shown.sides == sides)
            step = max(1, (1 << 16) // light.fields.shape[1])
            for first in range(0, len(which), step):
                some = which[first : first + step]
                expected[some] = self._some(light, some, sides, weights, reference, optics, out)
        return expected

    def _some(
        self, light: Light, some: Integers, sides: int, weights: Floats, reference: Floats, optics: Optics, out: Floats
    ) -> Integers:
        """Outputs of some vectors of a block, all of one or all of two sides."""
        half, gain, shot, floor, low_e, high_e, scale = self.constants[:7]
        shown, n_rows = light.shown[some], light.fields.shape[1]
        rows = slice(2 * light.first_pixel, 2 * light.first_pixel + n_rows)
        pixels = slice(rows.start // 2, rows.stop // 2)
        counters = np.arange(rows.start, rows.stop, dtype=np.uint32)
        on_side = [self._side_fields(light, some, half, optics, rows, counters, medium) for medium in (0, 1)]
        mean_e = np.empty((sides * STEPS, len(some), n_rows // 2), np.float32)
        for number in range(sides * STEPS):
            frame = shown.first_frame + number
            sign = shown.split[:, :1] if number < STEPS else -shown.split[:, :1]
            total = np.zeros(mean_e.shape[1:], np.float32)
            for quadrature in (0, 1):
                amplitude = _reference(reference[frame], optics.wave, pixels, quadrature)
                for medium, fields in enumerate(on_side):
                    if fields is not None:
                        field_here = np.where(sign > 0, fields[0], fields[1])[:, quadrature::2]
                        amplitude = amplitude + weights[frame, medium, None] * field_here
                total += np.square(amplitude)
            if optics.gain is not None:
                total *= optics.gain[pixels]
            if optics.dark_e is not None:
                total += optics.dark_e[pixels]
            mean_e[number] = total
        signs = np.array([1, 1, -1, -1] * sides, np.float32) * np.repeat(np.array([1, -1], np.float32)[:sides], STEPS)
        linear = (mean_e.min(axis=0) >= low_e) & (mean_e.max(axis=0) <= high_e)
        table = [np.where(linear, 0, values) for values in self.moments.at(mean_e)]
        outputs = np.empty((len(some), n_rows), np.float32)
        z = standard_normals(hash_words(counters, _columns(shown.noise_key)))
        for quadrature in (0, 1):
            frames = slice(quadrature, None, 2)
            by = signs[frames, None, None]
            plain = gain * (by * mean_e[frames]).sum(axis=0)
            noise = shot * mean_e[frames].sum(axis=0) + np.float32(2 * sides) * floor
            mean = np.where(linear, plain, (by * table[0][frames]).sum(axis=0))
            variance = np.where(linear, noise, table[1][frames].sum(axis=0))
            deviate = z[:, quadrature::2] * np.sqrt(np.maximum(variance, 0))
            outputs[:, quadrature::2] = scale * shown.split[:, :1] * (mean + deviate)
        n_written = max(0, min(rows.stop, out.shape[1]) - rows.start)
        out[shown.row, rows.start : rows.start + n_written] = outputs[:, :n_written]
        counted: Integers = np.rint(table[2].sum(axis=0).astype(np.float64) * COUNT).astype(np.int64).sum(axis=1)
        return counted

    def _side_fields(
        self,
        light: Light,
        some: Integers,
        half: np.float32,
        optics: Optics,
        rows: slice,
        counters: npt.NDArray[np.uint32],
        medium: int,
    ) -> tuple[Floats, Floats] | None:
        """Fields of the + and of the - pattern, (vectors, 2 · pixels) each; None where there is no second matrix."""
        product = light.fields if medium == 0 else light.second
        if product is None:
            return None
        shown = light.shown[some]
        difference = product[some].astype(np.float32)
        total = shown.split[:, 1:2] * difference
        if optics.lit is not None:
            total += shown.split[:, 2:3] * optics.lit[medium, rows]
        if shown.split[:, 3].any():
            key = (shown.sum_key[0][medium, :, None], shown.sum_key[1][medium, :, None])
            total += shown.split[:, 3:4] * standard_normals(hash_words(counters, key))
        known = shown.sum_row >= 0
        total[known] = light.sums[medium, shown.sum_row[known], rows]
        plus, minus = half * (total + difference), half * (total - difference)
        if optics.always is not None:
            plus, minus = plus + optics.always[medium, rows], minus + optics.always[medium, rows]
        if optics.beam is not None:
            beam = np.repeat(optics.beam[rows.start // 2 : rows.stop // 2], 2)
            plus, minus = plus * beam, minus * beam
        return plus, minus


def _columns(key: Key) -> Key:
    low, high = key
    return low[:, None], high[:, None]


def _reference(reference: Floats, wave: Floats | None, pixels: slice, quadrature: int) -> Floats:
    """One quadrature of the reference arm, (vectors, pixels) or (vectors, 1)."""
    if wave is None:
        return reference[:, quadrature, None]
    real, imaginary = wave[:, pixels]
    turned = (real, -imaginary) if quadrature == 0 else (imaginary, real)
    found: Floats = reference[:, :1] * turned[0] + reference[:, 1:] * turned[1]
    return found
