"""What theory needs to know of a bench, from its parameters and its readout."""

import math

import numpy as np
import numpy.typing as npt

from optical_dfa.devices import Preset
from optical_dfa.emulator import BenchInfo, Pupil
from optical_dfa.emulator.matrix import TABLE, VARIANCE
from optical_dfa.view.theory import EVEN, Conditions, Floats

_BEAM_SAMPLES = 8


def conditions(preset: Preset, n_inputs: int, info: BenchInfo, steps: int) -> Conditions:
    """Of a preset at the exposure of its photometry.

    Args:
        preset: bench and readout.
        n_inputs: features on the DMD.
        info: of the bench.
        steps: frames of a pattern.
    """
    bench, maps = preset.bench, preset.readout.calibration
    light, camera, dmd, laser = bench.photometry, bench.camera, bench.dmd, bench.laser
    top_e = math.inf
    if camera.adc_bits is not None:
        top_e = (2**camera.adc_bits - 1 - camera.black_level_dn) / camera.gain_dn_per_e
    always = dmd.leak**2 * n_inputs + dmd.padding_features(n_inputs, bench.apparatus.dmd_mirrors)
    exposure_s = light.exposure_us * 1e-6
    hot_e = (camera.hot_e_per_s - camera.dark_current_e_per_s) * exposure_s
    mapped = maps.flat_frames or maps.reference_frames
    pupil = pupil_of(info)
    return Conditions(
        feature_e=light.signal_e_per_feature,
        always_e=always * light.signal_e_per_feature,
        leak=dmd.leak,
        reference_e=light.reference_e * (1 + laser.reference_error),
        nominal_e=light.reference_e,
        saturation_e=min(camera.full_well_e, top_e),
        shot_noise=camera.shot_noise,
        read_noise_e=camera.read_noise_e,
        quantum_e=0.0 if camera.adc_bits is None else 1 / camera.gain_dn_per_e,
        dark_e=camera.dark_current_e_per_s * exposure_s + camera.hot_pixels * hot_e,
        steps=steps,
        kept_fraction=pupil.kept_fraction if pupil else 1.0,
        modes_per_pixel=bench.grain.modes_per_pixel,
        response_variance=0.0 if mapped else camera.prnu**2 + camera.dead_pixels,
        offset_variance_e=0.0 if maps.dark_frames else camera.dsnu_e**2 + camera.hot_pixels * hot_e**2,
        beams=_beams(preset, info.image_shape),
    )


def pupil_of(info: BenchInfo) -> Pupil | None:
    """The pupil that limits the images' band; None where every pixel is a mode of its own, or sees several."""
    return Pupil(info.image_shape, info.grain_px, info.pupil) if info.grain_px > 1 else None


def feature_powers(preset: Preset, n_inputs: int) -> npt.NDArray[np.float64]:
    """Illumination (intensity) of each feature relative to the mean, (n_inputs,)."""
    levels = preset.bench.dmd.illumination(n_inputs)
    if levels is None:
        return np.ones(n_inputs)
    square = np.square(levels, dtype=np.float64)
    return np.asarray(square / square.mean())


def graininess(preset: Preset, n_inputs: int, pattern: npt.NDArray[np.uint8]) -> float:
    """Excess of the squared contrast of a pattern's speckle over that of Gaussian fields.

    The field is a sum of few entries of T, of which each is an 8-bit number with tails shorter than the normal law's:
    with κ their excess kurtosis and a_k the amplitudes displayed, κ/2 · Σa⁴ / (Σa²)².
    """
    bench = preset.bench
    shown = np.where(pattern, 1.0, bench.dmd.leak) ** 2 * feature_powers(preset, n_inputs)
    shown = np.append(shown, bench.dmd.padding_features(n_inputs, bench.apparatus.dmd_mirrors))
    excess = float(np.mean(TABLE.astype(np.float64) ** 4)) / VARIANCE**2 - 3
    return excess / 2 * float(np.square(shown).sum() / shown.sum() ** 2)


def _beams(preset: Preset, shape: tuple[int, int]) -> Floats:
    laser, maps = preset.bench.laser, preset.readout.calibration
    signal, wave = laser.signal_profile(shape), laser.reference_profile(shape)
    if signal is None and wave is None:
        return EVEN
    each = np.ones((math.prod(shape), 3))
    if signal is not None:
        each[:, 0] = np.square(signal, dtype=np.float64)
    if wave is not None:
        each[:, 1] = np.square(wave, dtype=np.float64).sum(axis=0)
    each[:, 2] = (each[:, 0] if maps.flat_frames else 1) * (each[:, 1] if maps.reference_frames else 1)
    each = each[np.argsort(each[:, 0] + each[:, 1])]
    return np.stack([part.mean(axis=0) for part in np.array_split(each, min(_BEAM_SAMPLES, len(each)))])
