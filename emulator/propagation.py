"""From DMD frames to the light on the camera: amplitudes of mirrors, matrices of the medium, grain of the speckle."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.arrays import on_host
from optical_dfa.emulator.exposure import Light
from optical_dfa.emulator.hashing import derive_key
from optical_dfa.emulator.matrix import VARIANCE
from optical_dfa.emulator.measured import MeasuredLight, MeasuredProduct
from optical_dfa.emulator.parameters import BenchParameters
from optical_dfa.emulator.product import Backend, Product, make_product
from optical_dfa.emulator.pupil import Pupil

Take = Callable[[int, int, Light], None]
"""Takes (first pattern, first pixel, light) of a block."""

SignedTake = Callable[[int, int, npt.NDArray[np.int32], npt.NDArray[np.int32] | None], None]
"""Takes (first vector, first pixel, fields, fields of the next matrix or None) of a block."""

CHUNK_MODES = 1 << 18
"""Modes of patterns at once where images are made whole: a few complex arrays of this size stay in a cache."""

MIN_PATTERNS = 32
"""Fewest patterns of one product there: T is made anew for each, at the price of about 30 patterns."""

_MEDIUM = 5  # separates the keys of later matrices of a drifting medium from those of other things


class Propagation:
    """What the camera would see of binary patterns, before reference and noise.

    Args:
        n_features: elements of a pattern.
        image_shape: rows and columns of the image.
        seed: of the transmission matrix.
        parameters: of the bench.
        memory_budget_bytes, backend: of the products, see `make_product`.
        measured: light to use in place of the medium's first matrix; later ones, of a medium that drifts, are
            procedural.
    """

    def __init__(
        self,
        n_features: int,
        image_shape: tuple[int, int],
        seed: int,
        parameters: BenchParameters,
        memory_budget_bytes: int | None,
        backend: Backend,
        measured: MeasuredLight | None = None,
    ) -> None:
        dmd, self._grain = parameters.dmd, parameters.grain
        self._n_features, self._shape, self._seed = n_features, image_shape, seed
        self._budget, self._backend = memory_budget_bytes, backend
        self._levels = dmd.illumination(n_features)
        self._leak = dmd.leak
        self._real = parameters.camera.real_type
        self._padding = math.sqrt(dmd.padding_features(n_features, parameters.apparatus.dmd_mirrors))
        self._profile = parameters.laser.signal_profile(image_shape)
        self._pupil = Pupil(image_shape, self._grain.size_px, self._grain.pupil) if self._grain.size_px > 1 else None
        self.n_modes = self._pupil.n_modes if self._pupil else math.prod(image_shape) * self._grain.modes_per_pixel
        self._measured = measured
        self.product: Product | MeasuredProduct = (
            self._make(n_features, 0) if measured is None else MeasuredProduct(measured, n_features)
        )
        self._later: dict[int, Product] = {}
        self._backgrounds: dict[int, npt.NDArray[np.float32]] = {}
        self.keep_on_gpu = False
        """Hand fields on as the CuPy arrays that a product on a GPU gives."""
        rms = 1.0 if self._levels is None else math.sqrt(np.mean(np.square(self._levels, dtype=np.float64)))
        self.feature_amplitude = 1 / (rms * math.sqrt(2 * VARIANCE))
        """Factor that gives one ON feature a mean intensity of 1 where it comes out of the medium."""

    @property
    def plain(self) -> bool:
        """The light is one integer field: nothing but the medium's matrix has a part in it."""
        return not (self._in_float or self.whole)

    @property
    def _always_lit(self) -> bool:
        if self._measured is not None:
            return bool(self._measured.background.any())
        return bool(self._leak or self._padding)

    @property
    def _in_float(self) -> bool:
        return self._always_lit or self._profile is not None or self._measured is not None

    @property
    def mixes(self) -> bool:
        """A drifting medium is mixed before the light is handed on, so that every frame has its own."""
        return self._grain.modes_per_pixel > 1

    @property
    def whole(self) -> bool:
        """Pixels are not modes: images are made whole."""
        return self._grain.size_px != 1

    def stream(self, patterns: Any, medium: int, turn: npt.NDArray[np.float64] | None, take: Take) -> None:
        """Light of binary patterns, block by block.

        Args:
            patterns: uint8 (patterns, n_features), 0 or 1.
            medium: number of the matrix that the medium has, or comes from.
            turn: (patterns,) angle θ by which it has turned towards the next; None: it stands. If `mixes`, the two are
                mixed here; otherwise the light has a second field, for who takes it to mix frame by frame.
            take: takes each block.
        """
        shown = patterns if self._levels is None else patterns * self._levels
        if self._always_lit:  # here, not in the threads of a product
            for number in (medium,) if turn is None else (medium, medium + 1):
                self._background(number)
        if self.whole:
            self._stream_images(shown, medium, turn, take)
            return
        second = None if turn is None else self._fields(medium + 1, shown)

        def finish(pattern: int, row: int, fields: Any) -> None:
            light = Light(self._finished(fields if self.keep_on_gpu else on_host(fields), medium, row))
            if second is not None:
                same = (slice(pattern, pattern + len(fields)), slice(row, row + fields.shape[1]))
                light = Light(light.field, self._finished(np.ascontiguousarray(second[same]), medium + 1, row))
            take(pattern, row // 2, light)

        self._product(medium).stream(shown, finish)

    def stream_signed(self, vectors: npt.NDArray[np.int8], medium: int, turned: bool, take: SignedTake) -> None:
        """Exact fields of ternary vectors, block by block, of one mode a pixel: without leak, padding and beam.

        Args:
            vectors: int8 (vectors, n_features), -1, 0 or 1.
            medium: number of the matrix that the medium has, or comes from.
            turned: the fields of the next matrix are wanted too.
            take: called with (first vector, first pixel, fields, fields of the next matrix or None), int32
                (vectors, 2 · pixels); threads call it at the same time.
        """
        shown = vectors if self._levels is None else vectors * self._levels.view(np.int8)
        second = self.signed_fields(vectors, medium + 1) if turned else None

        def finish(vector: int, row: int, fields: Any) -> None:
            same = (slice(vector, vector + len(fields)), slice(row, row + fields.shape[1]))
            take(vector, row // 2, on_host(fields), None if second is None else np.ascontiguousarray(second[same]))

        self._product(medium).stream(shown, finish)

    def signed_fields(self, vectors: npt.NDArray[np.int8], medium: int) -> npt.NDArray[np.int32]:
        """The same of one matrix, all at once, (vectors, 2 · modes)."""
        return self._fields(medium, vectors if self._levels is None else vectors * self._levels.view(np.int8))

    def lit_power(self, sides: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """Sum of the squared amplitudes of lit features, (patterns,), of patterns (patterns, n_features)."""
        if self._levels is None:
            power: npt.NDArray[np.float64] = np.count_nonzero(sides, axis=1).astype(np.float64)
        else:
            power = sides.astype(np.float64) @ np.square(self._levels, dtype=np.float64)
        return power

    def always_on(self, medium: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None:
        """Field of all features lit, and the field that is there in every frame, (2 · modes,) each; None if none is."""
        if not (self._leak or self._padding):
            return None
        lit = np.ones((1, self._n_features), np.uint8) if self._levels is None else self._levels[None, :]
        return self._fields(medium, lit)[0].astype(np.float32), self._background(medium)

    @property
    def contrast_gain(self) -> float:
        """Amplitude of an ON mirror less that of an OFF mirror, 1 - κ."""
        return 1 - self._leak

    @property
    def beam(self) -> npt.NDArray[np.float32] | None:
        """Amplitude of the speckle over the image, (pixels,); None: even."""
        return self._profile

    def _stream_images(self, shown: Any, medium: int, turn: npt.NDArray[np.float64] | None, take: Take) -> None:
        """As `stream`, for images whose pixels are not modes."""
        at_once = max(1, CHUNK_MODES // self.n_modes)
        together = max(MIN_PATTERNS, at_once)
        for start in range(0, len(shown), together):
            group = shown[start : start + together]
            of_one = self._fields(medium, group)
            of_next = None if turn is None else self._fields(medium + 1, group)
            for first in range(0, len(group), at_once):
                part = slice(first, first + at_once)
                fields = self._finished(of_one[part], medium, 0)
                later = None if of_next is None else self._finished(of_next[part], medium + 1, 0)
                if self._pupil is not None:
                    light = Light(self._image(fields), None if later is None else self._image(later))
                elif turn is not None and later is not None:
                    angle = turn[start : start + together][part, None]
                    mixed = np.cos(angle).astype(np.float32) * fields + np.sin(angle).astype(np.float32) * later
                    light = self._pooled(mixed)
                else:
                    light = self._pooled(fields)
                take(start + first, 0, light)

    def _image(self, modes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Band-limited field (patterns, 2 · pixels) of modes (patterns, 2 · modes)."""
        field = modes.astype(self._real).view(np.result_type(self._real, np.complex64))
        image = self._pupil.to_image(field)  # type: ignore[union-attr]
        return self._lit(np.ascontiguousarray(image).view(self._real).reshape(len(modes), -1))

    def _pooled(self, modes: npt.NDArray[Any]) -> Light:
        """What pixels see of several modes each, (patterns, 2 · modes).

        |E_j + R|² averaged over the modes of a pixel is |mean + R|² and the scatter of the modes about their mean.
        """
        each = self._grain.modes_per_pixel
        of_pixel = modes.astype(np.float32).reshape(len(modes), -1, each, 2)
        # one mode after the other: sums over an inner axis of a few elements take five times as long
        mean = sum((of_pixel[:, :, j] for j in range(1, each)), of_pixel[:, :, 0]) / np.float32(each)
        scatter = np.zeros(mean.shape[:2], np.float32)
        for j in range(each):
            away = np.square(of_pixel[:, :, j] - mean)
            scatter += away[:, :, 0] + away[:, :, 1]
        scatter /= each
        if self._profile is not None:
            scatter *= np.square(self._profile)
        return Light(self._lit(mean.reshape(len(modes), -1)), None, scatter)

    def _lit(self, field: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A field (patterns, 2 · pixels) under the envelope of the camera."""
        return field if self._profile is None else field * np.repeat(self._profile, 2)

    def _finished(self, fields: Any, medium: int, first_row: int) -> Any:
        """What comes out of the medium, of neighbouring rows: with what OFF mirrors and padding add, and the beam."""
        if not self._in_float:
            return fields
        rows = slice(first_row, first_row + fields.shape[1])
        light = fields.astype(np.float32)
        light *= np.float32(1 - self._leak)
        if self._always_lit:
            light += self._background(medium)[rows]
        if self._profile is not None and not self.whole:
            light *= np.repeat(self._profile[rows.start // 2 : rows.stop // 2], 2)
        return light

    def _background(self, medium: int) -> npt.NDArray[np.float32]:
        """Field of what is ON in every frame, (2 · modes,): the leak of all features, and the padding."""
        if self._measured is not None:
            return self._measured.background * np.float32(VARIANCE**0.5 if medium == 0 else 0.0)
        if medium not in self._backgrounds:
            lit = np.ones((1, self._n_features), np.uint8) if self._levels is None else self._levels[None, :]
            field = np.float32(self._leak) * self._fields(medium, lit)[0].astype(np.float32)
            if self._padding:
                # the next column of T, as bright as the leftover mirrors are many
                column = np.zeros((1, self._n_features + 1), np.uint8)
                column[0, -1] = 1
                beside = self._make(self._n_features + 1, medium)(column)[0]
                level = self._padding / (self.feature_amplitude * math.sqrt(2 * VARIANCE))
                field += np.float32(level) * on_host(beside).astype(np.float32)
            self._backgrounds = {k: v for k, v in self._backgrounds.items() if k >= medium - 1} | {medium: field}
        return self._backgrounds[medium]

    def matrix(self, rows: slice) -> npt.NDArray[np.float64]:
        """What one ON feature adds to the field, at time 0: float64 (rows, n_features).

        In units in which its mean intensity, out of the medium, is 1. Rows 2p and 2p + 1 are the quadratures at pixel
        p, or of mode p where the grain is larger than a pixel; a pixel of several modes sees their mean. The envelope
        of the camera is left out.
        """
        each = self._grain.modes_per_pixel
        chosen = np.arange(2 * self.n_modes // each)[rows]
        if not len(chosen):
            return np.empty((0, self._n_features))
        low, high = (int(f(chosen)) // 2 for f in (np.min, np.max))
        entries = self.product.matrix(slice(2 * each * low, 2 * each * (high + 1))).astype(np.float64)
        pixels = entries.reshape(high + 1 - low, each, 2, -1).mean(axis=1).reshape(-1, self._n_features)
        pixels *= self.feature_amplitude * (1 - self._leak)
        if self._levels is not None:
            pixels *= self._levels
        wanted: npt.NDArray[np.float64] = pixels[chosen - 2 * low]
        return wanted

    def _fields(self, medium: int, shown: Any) -> npt.NDArray[np.int32]:
        """Integer fields of shown amplitudes, (patterns, 2 · modes)."""
        fields: npt.NDArray[np.int32] = on_host(self._product(medium)(shown))
        return fields

    def _product(self, medium: int) -> Product | MeasuredProduct:
        if medium == 0:
            return self.product
        if medium not in self._later:
            for old in [number for number in self._later if number < medium - 1]:
                del self._later[old]
            self._later[medium] = self._make(self._n_features, medium)
        return self._later[medium]

    def _make(self, n_inputs: int, medium: int) -> Product:
        seed = self._seed
        if medium:
            low, high = derive_key(self._seed, _MEDIUM, medium)
            seed = int(low[0]) | int(high[0]) << 32
        ternary = self._levels is None
        return make_product(n_inputs, 2 * self.n_modes, seed, self._budget, self._backend, ternary)
