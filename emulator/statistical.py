"""Four-step readings of ternary vectors by their statistics: one exact product, and noise of the right law.

At frame level a ternary vector t = p - m is two patterns of four frames: two products, eight noisy images. Given the
light, frames are independent and a reading is linear in them,

    A = [(I₀ - I₂) + i (I₁ - I₃)]₊ - [ … ]₋ ,

so that its mean is the same combination of the frames' means, and its variance the sum of theirs: both are functions of
each frame's mean electrons alone (`moments`), clipping and rounding included. One normal number of that mean and
variance replaces them. What all pixels of a frame share, laser power, phases, drift, is that of the frame-level bench,
number for number.

The product gives D = T t alone. The sum S = T |t| enters through the intensities only, and given D (and U = T 1, where
OFF mirrors leak) it is normal and independent from pixel to pixel: it is drawn, as a fixed property of t and T. Where
one side is dark S = ±D, and where only a few features are lit a second product gives it: nothing is drawn.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.bench import EmulatedBench, FrameStamp
from optical_dfa.emulator.checks import require
from optical_dfa.emulator.hashing import Key, derive_key, hash_words
from optical_dfa.emulator.matrix import VARIANCE
from optical_dfa.emulator.moments import Moments, camera_moments
from optical_dfa.emulator.numba_support import why_unavailable
from optical_dfa.emulator.numpy_statistical import NumpyReader
from optical_dfa.emulator.statistical_light import COUNT, STEPS, Floats, Integers, Light, Optics, Reader, Shown

PHASES = np.arange(STEPS) * (np.pi / 2)

CHUNK_BYTES = 1 << 25
"""Fields of a second matrix, where the medium drifts, and sums held at once."""

SLOW_VECTORS = 20
"""Vectors that must fit into τ: a vector that reaches over the end of a segment is cut off there."""

FEW_FEATURES = 8
"""Vectors with fewer lit features have their sum S computed by a second product: entries of T are 8-bit numbers within
±2.9 standard deviations, and the sum of a few of them has not the tails of the normal law, which are what clips."""

_OUTPUT, _SUM = 6, 7  # separate these keys from those of other noise of one seed
_COUNTING = np.uint32(0xFFFFFFFF)  # counter that no output has


@dataclass
class Counts:
    """What displaying took."""

    frames: int = 0
    frames_skipped: int = 0
    saturated_pixels: int = 0
    pixel_readings: int = 0


class StatisticalReadout:
    """Differences of four-step readings of ternary vectors, frame by frame in law.

    Args:
        bench: an emulated bench, camera with a converter, one mode a pixel, reference arm level.
        scale: output per digital number of I₀ - I₂.
        backend: `numpy`; anything else: Numba where it can run, to the same outputs up to float32 rounding.

    Raises:
        ValueError: a bench that is not covered.
    """

    def __init__(self, bench: EmulatedBench, scale: float, backend: str = "auto") -> None:
        refuse_uncovered(bench)
        camera = bench.parameters.camera
        # opposite steps have 2 (signal + reference) together, wherever the beam of the reference is darkest
        wave = bench.pixels.wave
        darkest = 1.0 if wave is None else float(np.square(wave).sum(axis=0).min())
        moments = camera_moments(camera, 2 * bench.reference_e * darkest)
        constants = np.array(
            [
                bench.propagation.contrast_gain / 2,
                camera.gain_dn_per_e,
                camera.gain_dn_per_e**2 * camera.shot_noise,
                camera.gain_dn_per_e**2 * camera.read_noise_e**2 + 1 / 12,
                *moments.linear_e,
                scale,
                moments.first_e,
                moments.per_e,
            ],
            np.float32,
        )
        self._bench = bench
        compiled = backend != "numpy" and why_unavailable(("fma",)) is None
        self._read: Reader = (NumbaReader if compiled else NumpyReader)(moments, constants)
        self.backend = self._read.backend

    def read(
        self, vectors: npt.NDArray[np.int8], at: FrameStamp, out: Floats, pauses: Integers | None = None
    ) -> Counts:
        """Fill `out`, float32 (vectors, outputs), from vectors int8 (vectors, inputs) shown from frame `at` on.

        Args:
            vectors: what is shown.
            at: stamp of the first frame.
            out: filled.
            pauses: (vectors,) frames that are used otherwise before each vector, and not counted; None: none.
        """
        passed = np.zeros(len(vectors), np.int64) if pauses is None else np.cumsum(pauses)
        propagation, counts = self._bench.propagation, Counts()
        # what is held of each vector: fields of a second matrix, and sums
        chunk = max(32, CHUNK_BYTES // (8 * propagation.n_modes))
        if self._bench.parameters.medium.frozen and not _few(vectors).any():
            chunk = max(1, len(vectors))
        for first in range(0, len(vectors), chunk):
            part = slice(first, first + chunk)
            stamp = replace(at, first_frame=at.first_frame + counts.frames)
            self._read_chunk(vectors[part], passed[part], stamp, out[part], counts)
        return counts

    def _read_chunk(
        self, vectors: npt.NDArray[np.int8], passed: Integers, at: FrameStamp, out: Floats, counts: Counts
    ) -> None:
        lit = np.stack([(vectors > 0).any(axis=1), (vectors < 0).any(axis=1)], axis=1)
        always_on = self._bench.propagation.always_on(0) is not None
        displayed = lit.any(axis=1, keepdims=True) & np.ones(2, np.bool_) if always_on else lit
        sides = displayed.sum(axis=1)
        n_frames = STEPS * int(sides.sum())
        counts.frames += n_frames
        counts.frames_skipped += STEPS * 2 * len(vectors) - n_frames
        out[sides == 0] = 0
        if not n_frames:
            return
        counts.pixel_readings += n_frames * self._bench.propagation.n_modes
        row = np.flatnonzero(sides)
        later = np.repeat(passed[row], STEPS * sides[row])
        numbers = at.first_frame + np.arange(n_frames, dtype=np.uint64) + later.astype(np.uint64)
        setting = self._bench.setting(np.tile(PHASES, n_frames // STEPS), numbers, True, at)
        some = vectors if len(row) == len(vectors) else vectors[row]
        first_frame = np.concatenate([[0], np.cumsum(STEPS * sides[row])])[:-1]
        first_medium = setting.medium[first_frame]
        weights = _within_segment(setting.weights, setting.medium, np.repeat(first_medium, STEPS * sides[row]))
        split = self._split(some, lit[row], displayed[row], always_on)
        noise_key = derive_key(self._bench.seed, _OUTPUT, at.stream, numbers[first_frame])
        expected = np.zeros(len(row), np.int64)
        for medium in np.unique(first_medium):
            mine = slice(*np.searchsorted(first_medium, (medium, medium + 1)))
            keys = _sum_keys(self._bench.seed, some[mine], split[mine], int(medium))
            noise = (noise_key[0][mine], noise_key[1][mine])
            few = _few(some[mine])
            sum_row = np.where(few, np.cumsum(few) - 1, -1)
            shown = Shown(row[mine], sides[row][mine], first_frame[mine], split[mine], sum_row, noise, keys)
            light = (weights.astype(np.float32), setting.reference.astype(np.float32))
            self._read_medium(some[mine], int(medium), shown, light, out, expected[mine])
        rank = hash_words(np.full(len(row), _COUNTING), noise_key)
        # up or down at random, so that what is rare is counted right in the mean
        counts.saturated_pixels += int(((expected + (rank >> np.uint32(8)).astype(np.int64)) // COUNT).sum())

    def _read_medium(
        self,
        vectors: npt.NDArray[np.int8],
        medium: int,
        shown: Shown,
        light: tuple[Floats, Floats],
        out: Floats,
        expected: Integers,
    ) -> None:
        drifting = not self._bench.parameters.medium.frozen
        optics = self._optics(medium, drifting)
        propagation = self._bench.propagation
        few = np.abs(vectors[shown.sum_row >= 0])
        media = range(medium, medium + 1 + drifting)
        sums = np.zeros((len(media), len(few), 2 * propagation.n_modes), np.int32)
        if len(few):
            sums = np.stack([propagation.signed_fields(few, number) for number in media])

        def take(vector: int, pixel: int, fields: npt.NDArray[np.int32], second: npt.NDArray[np.int32] | None) -> None:
            part = slice(vector, vector + len(fields))
            found.append((part, self._read(Light(fields, second, sums, shown[part], pixel), *light, optics, out)))

        found: list[tuple[slice, Integers]] = []  # appended to by threads, added up by one
        propagation.stream_signed(vectors, medium, drifting, take)
        for part, some in found:
            expected[part] += some

    def _optics(self, medium: int, drifting: bool) -> Optics:
        propagation, pixels = self._bench.propagation, self._bench.pixels
        both = [propagation.always_on(number) for number in range(medium, medium + 1 + drifting)]
        lit, always = (
            np.stack([fields[which] for fields in both if fields is not None]) if both[0] is not None else None
            for which in (0, 1)
        )
        dark = pixels.maps.dark_e
        return Optics(
            lit, always, propagation.beam, pixels.wave, pixels.maps.gain, None if dark is None else dark.sum(axis=0)
        )

    def _split(
        self,
        vectors: npt.NDArray[np.int8],
        lit: npt.NDArray[np.bool_],
        displayed: npt.NDArray[np.bool_],
        always_on: bool,
    ) -> Floats:
        """See `Shown.split`.

        D, S and U are normal with variances n, n, N and covariances δ (D, S), δ (D, U), n (S, U),
        where n and δ are sum and difference of the powers of + and - and N that of all features.
        """
        power = self._bench.propagation.lit_power
        plus, minus = power(vectors > 0), power(vectors < 0)
        n, difference = plus + minus, plus - minus
        on_lit = np.zeros(len(n))
        two_sided = lit.all(axis=1)
        if always_on:
            everything = power(np.ones((1, vectors.shape[1]), np.bool_))
            rest = n * everything - difference**2
            on_lit = np.where(two_sided, (n**2 - difference**2) / np.where(two_sided, rest, 1), 0)
        on_difference = np.where(two_sided, difference * (1 - on_lit) / n, np.sign(difference))
        left = n - on_difference * difference - on_lit * n
        spread = np.where(two_sided, np.sqrt(VARIANCE * np.maximum(left, 0)), 0)
        first_sign = np.where(displayed[:, 0], 1, -1)
        return np.stack([first_sign, on_difference, on_lit, spread], axis=1).astype(np.float32)


class NumbaReader:
    """One compiled pass over the pixels, in the threads of the product."""

    backend = "numba"

    def __init__(self, moments: Moments, constants: Floats) -> None:
        from optical_dfa.emulator.numba_statistical import read

        self._kernel, self._constants = read, constants
        self._table = np.pad(moments.table, ((0, 0), (0, 1))).reshape(-1)  # a point is four numbers: one aligned load

    def __call__(self, light: Light, weights: Floats, reference: Floats, optics: Optics, out: Floats) -> Integers:
        """See `Reader`."""
        n_pixels, first = light.fields.shape[1] // 2, light.first_pixel
        inside = min(max(out.shape[1] // 2 - first, 0), n_pixels)
        expected = self._call(light, weights, reference, optics, (0, inside), 2 * first, light.shown.row, out)
        if inside < n_pixels:  # pixels that make the image a rectangle, and the half of one of an odd output
            beyond = np.empty((len(light.shown.row), 2 * (n_pixels - inside)), np.float32)
            row, column = np.arange(len(beyond)), 2 * (first + inside)
            expected += self._call(light, weights, reference, optics, (inside, n_pixels), 0, row, beyond)
            n_written = max(0, out.shape[1] - column)
            out[light.shown.row, column : column + n_written] = beyond[:, :n_written]
        return expected

    def _call(
        self,
        light: Light,
        weights: Floats,
        reference: Floats,
        optics: Optics,
        pixels: tuple[int, int],
        column: int,
        row: Integers,
        out: Floats,
    ) -> Integers:
        shown = light.shown
        expected = np.zeros(len(row), np.int64)
        self._kernel(
            *(light.fields, light.second, light.sums, row, shown.sides, shown.first_frame, shown.split, shown.sum_row),
            *(*shown.noise_key, *shown.sum_key, weights, reference, *optics, self._constants, self._table),
            *(light.first_pixel + pixels[0], pixels[0], pixels[1] - pixels[0], column, out, expected),
        )
        return expected


def refuse_uncovered(bench: EmulatedBench) -> None:
    """Refuse a bench whose readings are not drawn from their statistics.

    Raises:
        ValueError: what it is, what is covered, what to do.
    """
    parameters = bench.parameters
    frames = "or fidelity 'frames'"
    bits, grain = parameters.camera.adc_bits, parameters.grain.size_px
    require(bits is not None, "camera.adc_bits", bits, f"8, 10 or 12 for fidelity 'statistical', {frames}")
    require(grain == 1, "grain.size_px", grain, f"1 for fidelity 'statistical', {frames}")
    require(bench.info.carrier is None, "laser tilt", bench.info.carrier, f"0 for fidelity 'statistical', {frames}")
    dropped = parameters.camera.dropped_frames
    require(dropped == 0, "camera.dropped_frames", dropped, f"0 for fidelity 'statistical', {frames}")
    least_s = SLOW_VECTORS * 2 * STEPS * bench.frame_time_us * 1e-6
    tau_s = parameters.medium.decorrelation_tau_s
    require(
        tau_s >= least_s,
        "medium.decorrelation_tau_s",
        tau_s,
        f"at least {least_s:g} s, {SLOW_VECTORS} vectors of {2 * STEPS} frames, for fidelity 'statistical', {frames}",
    )


def _within_segment(weights: npt.NDArray[np.float64], medium: Integers, first: Integers) -> npt.NDArray[np.float64]:
    """Weights of the two media of a vector's first frame; later frames beyond the segment see the second alone."""
    beyond = np.hypot(weights[:, 0], weights[:, 1])
    after = np.stack([np.zeros(len(beyond)), beyond], axis=1)
    return np.where((medium != first)[:, None], after, weights)


def _sum_keys(seed: int, vectors: npt.NDArray[np.int8], split: Floats, medium: int) -> Key:
    """Keys of S: of the vector and the matrix, not of the frame, because a vector shown again has the same light."""
    identity = np.zeros(len(vectors), np.uint64)
    for number in np.flatnonzero(split[:, 3]):
        digest = hashlib.blake2b(vectors[number].tobytes(), digest_size=8).digest()
        identity[number] = int.from_bytes(digest, "little")
    keys = [derive_key(seed, _SUM, number, identity) for number in (medium, medium + 1)]
    return np.stack([low for low, _ in keys]), np.stack([high for _, high in keys])


def _few(vectors: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
    """Vectors of two sides with so few lit features that their sum is computed."""
    two_sided = (vectors > 0).any(axis=1) & (vectors < 0).any(axis=1)
    found: npt.NDArray[np.bool_] = two_sided & (np.count_nonzero(vectors, axis=1) < FEW_FEATURES)
    return found
