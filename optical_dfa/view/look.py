"""Measures what the pictures of a bench show."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

import optical_dfa
from optical_dfa.devices import Preset
from optical_dfa.devices.readouts import noise
from optical_dfa.view.conditions import conditions, feature_powers, graininess, pupil_of
from optical_dfa.view.options import Options
from optical_dfa.view.report import (
    SCHEMA,
    Alignment,
    Budget,
    Correlation,
    ExposurePoint,
    Histogram,
    Numbers,
    Pair,
    View,
)
from optical_dfa.view.sight import Sight, is_steady, perfect_camera
from optical_dfa.view.speckle import Speckle, autocorrelation, contrast_measured, lags_shown
from optical_dfa.view.theory import Conditions, Floats, Power

PATTERNS = 4
"""Random patterns that SNR, histograms, contrast and correlation are averaged over."""

FACTORS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)
"""Exposures, relative to the preset's, at which SNR is measured."""

ERRORS = 8
"""Error vectors of each kind."""

THRESHOLD = 0.5
"""Of the largest |e|: the default of `optical_dfa.Ternarize`."""

EXACT_DB = 120.0
"""An SNR beyond which only rounding is left."""

_SHOWN = 3000
_BINS = 120


@dataclass(frozen=True)
class _Scene:
    """A device, and what theory knows of it."""

    preset: Preset
    options: Options
    sight: Sight
    steady: Sight | None
    """With a perfect camera; None: then nothing disturbs the projection."""
    clipped: Sight | None
    """With a camera that does nothing but saturate; None: theory knows better."""
    at: Conditions
    powers: Floats
    """Illumination of each feature."""

    def sides(self, vectors: npt.NDArray[np.int8]) -> list[tuple[Power, Power]]:
        """Powers of +1 and of -1 of ternary vectors."""
        plus, minus = ((vectors == sign) @ self.powers for sign in (1, -1))
        return list(zip(plus.tolist(), minus.tolist(), strict=True))

    def apart(self, vectors: npt.NDArray[np.int8], true: Floats) -> tuple[Floats, Floats]:
        """What theory does not know, measured alone: squared errors of each vector relative to its signal.

        Of the optics, and of clipping.
        """
        optics, both = (
            np.zeros(len(vectors)) if sight is None else _relative_error(true, sight.project(vectors))
            for sight in (self.steady, self.clipped)
        )
        return optics, np.maximum(both - optics, 0) if self.clipped else np.zeros(len(vectors))

    def brighter(self, factor: float) -> "_Scene":
        """The same with all light and the exposure `factor` times as long, to measure its SNR."""
        light = self.preset.bench.photometry
        scaled = replace(
            light,
            signal_e_per_feature=factor * light.signal_e_per_feature,
            reference_e=factor * light.reference_e,
            exposure_us=factor * light.exposure_us,
        )
        preset = replace(self.preset, bench=replace(self.preset.bench, photometry=scaled))
        sight = Sight(preset, self.options.n_inputs, self.sight.info.n_outputs, self.options.seed)
        return replace(self, preset=preset, sight=sight, at=self.at.scaled(factor))


def look(options: Options, tell: Callable[[str], None] = lambda _: None) -> View:
    """Measure a bench, and say what theory expects of it.

    Args:
        options: which bench, and how large.
        tell: is told what comes next.

    Raises:
        InputError, optical_dfa.devices.InvalidConfig: the options are not accepted; nothing was measured.
    """
    preset = options.check()
    scene = _scene(preset, options)
    sight, at, info = scene.sight, scene.at, scene.sight.bench.info
    rng = np.random.default_rng(options.seed)
    vectors = np.zeros((PATTERNS, options.n_inputs), np.int8)
    for vector in vectors:
        vector[rng.choice(options.n_inputs, options.n_on, replace=False)] = 1
    sides = scene.sides(vectors)
    powers = [plus for plus, _ in sides]

    tell("frames")
    patterns = vectors.astype(np.uint8)
    plain, stepped = sight.images(patterns, False), sight.images(patterns, True)
    plain_e, stepped_e = (_electrons(images, preset) for images in (plain, stepped))
    saturated = float(np.mean(stepped >= info.saturation_dn)) if info.saturation_dn < math.inf else 0.0
    speckles = [
        Speckle(at, preset, pupil_of(info), power, graininess(preset, options.n_inputs, pattern))
        for power, pattern in zip(powers, patterns, strict=True)
    ]
    light_e = plain_e - at.dark_e
    correlated = _correlation(light_e, scene)

    tell("fields")
    true, found = sight.truth(vectors), sight.project(vectors)
    optics, clipping = (float(part.mean()) for part in scene.apart(vectors, true))
    snr_db = Pair(_measured_db(true, found), _decibels(at.snr(sides, optics + clipping)))
    tell("exposures")
    points, curve = _exposures(scene, vectors, true, optics) if snr_db.predicted < math.inf else ([], np.empty((0, 2)))
    tell("alignment")
    alignment = [_alignment(kind, errors, scene) for kind, errors in _errors(options.n_inputs, rng)]

    lags = lags_shown(preset.bench.grain.size_px, info.image_shape[1])
    fine = np.linspace(0, lags[-1], 40 * len(lags))
    share = float(np.mean([speckle.share for speckle in speckles]))
    numbers = Numbers(
        schema=SCHEMA,
        optical_dfa=optical_dfa.__version__,
        preset=preset.name,
        overrides=_as_json(options.overrides),
        summary=preset.summary().splitlines(),
        readout=preset.readout.kind,
        n_inputs=options.n_inputs,
        n_on=options.n_on,
        n_outputs=sight.info.n_outputs,
        seed=options.seed,
        image_shape=info.image_shape,
        steps=at.steps,
        signal_e=float(np.mean([at.light_e(power) for power in powers])),
        reference_e=at.reference_e,
        saturation_e=at.saturation_e,
        modes_per_pixel=at.modes_per_pixel,
        snr_db=snr_db,
        clipped_fraction=Pair(saturated, float(np.mean([at.clipping(power)[0] for power in powers]))),
        contrast=Pair(contrast_measured(light_e), float(np.mean([speckle.contrast for speckle in speckles]))),
        grain_px=Pair(speckles[0].grain_px(light_e, correlated), preset.bench.grain.size_px),
        correlation=Correlation(
            lags.astype(int).tolist(),
            correlated[0, : len(lags)].tolist(),
            np.mean([speckle.correlation(lags) for speckle in speckles], axis=0).tolist(),
        ),
        budget=_budget(at, sides, optics, clipping, true, found) if snr_db.predicted < math.inf else None,
        exposure=points,
        alignment=alignment,
        left_out=_left_out(at, snr_db),
    )
    return View(
        numbers=numbers,
        frames=(plain[0].astype(np.float64), stepped[0].astype(np.float64)),
        histograms=(_histogram(plain_e, scene, powers, False), _histogram(stepped_e, scene, powers, True)),
        correlation_curve=np.stack([fine, share * speckles[0].overlap(fine)], axis=1),
        fields=np.stack([true[0, :_SHOWN], found[0, :_SHOWN]], axis=1),
        exposure_curve=curve,
    )


def _as_json(value: Any) -> Any:
    """Overrides that a JSON file can hold: infinity is written as YAML does."""
    if isinstance(value, Mapping):
        return {name: _as_json(part) for name, part in value.items()}
    return ".inf" if value == math.inf else value


def _left_out(at: Conditions, snr_db: Pair) -> list[str]:
    if snr_db.predicted == math.inf:
        return ["noise budget, SNR against exposure: nothing on this bench is noisy, the projection is exact"]
    if at.clips_by_pixel or at.saturation_e == math.inf:
        return []
    return ["clipping, from the theory of SNR against exposure: no closed form where the grain is larger than a pixel"]


def _scene(preset: Preset, options: Options) -> _Scene:
    sizes = options.n_inputs, options.outputs_of(preset), options.seed
    sight = Sight(preset, *sizes)
    at = conditions(preset, options.n_inputs, sight.bench.info, sight.steps)
    known = at.clips_by_pixel or at.saturation_e == math.inf
    return _Scene(
        preset=preset,
        options=options,
        sight=sight,
        steady=None if is_steady(preset) else Sight(perfect_camera(preset), *sizes),
        clipped=None if known else Sight(perfect_camera(preset, at.saturation_e - at.dark_e), *sizes),
        at=at,
        powers=feature_powers(preset, options.n_inputs),
    )


def _electrons(images: npt.NDArray[np.generic], preset: Preset) -> Floats:
    camera = preset.bench.camera
    return (images.astype(np.float64) - camera.black_level_dn) / camera.gain_dn_per_e


def _decibels(ratio: float) -> float:
    return math.inf if ratio == math.inf else noise.decibels(ratio)


def _relative_error(true: Floats, found: Floats) -> Floats:
    """Squared error of each vector relative to its signal."""
    return np.asarray(np.square(found - true).sum(axis=1) / np.square(true).sum(axis=1))


def _measured_db(true: Floats, found: Floats) -> float:
    error = float(np.square(found - true).sum() / np.square(true).sum())
    return math.inf if error < 10 ** (-EXACT_DB / 10) else -noise.decibels(error)


def _budget(
    at: Conditions, sides: Sequence[tuple[Power, Power]], optics: float, clipping: float, true: Floats, found: Floats
) -> Budget:
    """In electrons² of a reading, mean over the vectors."""
    errors = [at.error_e2(*each) for each in sides]
    mean = {name: float(np.mean([each[name] for each in errors])) for name in errors[0]}
    signal_e2 = at.readings_per_field * float(np.mean([at.signal_e(plus + minus) for plus, minus in sides]))
    return Budget(
        shot_e2=mean["shot"],
        read_e2=mean["read"],
        quantisation_e2=mean["quantisation"],
        clipping_e2=mean["clipping"] + signal_e2 * clipping,
        fixed_pattern_e2=mean["fixed_pattern"],
        optics_e2=signal_e2 * optics,
        measured_e2=signal_e2 * float(np.square(found - true).sum() / np.square(true).sum()),
    )


def _histogram(light_e: Floats, scene: _Scene, powers: Sequence[Power], reference: bool) -> Histogram:
    """Bins of whole digital numbers where there is a converter, about `_BINS` of them."""
    camera = scene.preset.bench.camera
    low, high = float(light_e.min()), float(light_e.max())
    step = 1 / camera.gain_dn_per_e if camera.adc_bits is not None else (high - low) / _BINS
    width = max(1, round((high - low) / _BINS / step)) * step
    edges = low - step / 2 + width * np.arange(math.ceil((high - low + step) / width) + 1, dtype=np.float64)
    measured = np.histogram(light_e, edges)[0] / light_e.size / width
    grid = np.linspace(max(low, high / 1000), high, 500)
    densities = [scene.at.density(grid - scene.at.dark_e, power, reference) for power in powers]
    return Histogram(edges, measured, grid, np.mean(densities, axis=0))


def _correlation(light_e: Floats, scene: _Scene) -> Floats:
    profile = scene.preset.bench.laser.signal_profile(light_e.shape[1:])
    return autocorrelation(light_e, None if profile is None else np.square(profile).reshape(light_e.shape[1:]))


def _exposures(
    scene: _Scene, vectors: npt.NDArray[np.int8], true: Floats, optics: float
) -> tuple[list[ExposurePoint], Floats]:
    low, high = scene.sight.bench.info.exposure_limits_us
    exposure_us = scene.preset.bench.photometry.exposure_us
    sides, points = scene.sides(vectors), []
    for factor in FACTORS:
        if low <= factor * exposure_us <= high:
            at = scene.brighter(factor)
            snr_db = Pair(_measured_db(true, at.sight.project(vectors)), _decibels(at.at.snr(sides, optics)))
            points.append(ExposurePoint(factor, factor * exposure_us, snr_db))
    factors = np.geomspace(FACTORS[0] / 1.3, FACTORS[-1] * 1.3, 49)
    curve = [_decibels(scene.at.scaled(float(factor)).snr(sides, optics)) for factor in factors]
    return points, np.stack([factors * exposure_us, curve], axis=1)


def _errors(n_inputs: int, rng: np.random.Generator) -> list[tuple[str, Floats]]:
    """Error vectors: normal, and those of a softmax classifier half-way through its training."""
    logits = 2 * rng.standard_normal((ERRORS, n_inputs))
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    softmax[np.arange(ERRORS), rng.integers(n_inputs, size=ERRORS)] -= 1
    return [("softmax", softmax), ("Gaussian", rng.standard_normal((ERRORS, n_inputs)))]


def _alignment(kind: str, errors: Floats, scene: _Scene) -> Alignment:
    limit = THRESHOLD * np.abs(errors).max(axis=1, keepdims=True)
    ternary = (np.sign(errors) * (np.abs(errors) > limit)).astype(np.int8)
    wanted, exact, found = scene.sight.truth(errors), scene.sight.truth(ternary), scene.sight.project(ternary)
    rest = np.sum(scene.apart(ternary, exact), axis=0)
    ratios = [scene.at.snr([side], each) for side, each in zip(scene.sides(ternary), rest, strict=True)]
    optics = np.array([1.0 if ratio == math.inf else noise.expected_cosine(ratio) for ratio in ratios])
    # light falls unevenly on the features: what is projected is their amplitudes times the vector
    lit = np.sqrt(scene.powers)
    ternarised = _cosines(errors * lit, ternary * lit)
    return Alignment(
        kind,
        ternarisation=_pair(_cosines(wanted, exact), ternarised),
        optics=_pair(_cosines(exact, found), optics),
        both=_pair(_cosines(wanted, found), ternarised * optics),
    )


def _pair(measured: Floats, predicted: Floats) -> Pair:
    return Pair(float(measured.mean()), float(predicted.mean()))


def _cosines(left: Floats, right: Floats) -> Floats:
    return np.asarray((left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1))
