"""Optics and camera in one compiled pass, against NumPy's passes and against closed forms.

No test is skipped for want of Numba: `compiled` then checks that `make_exposure` gives NumPy's, and goes on with that.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import special, stats

from optical_dfa.emulator import Camera
from optical_dfa.emulator.exposure import Exposure, Frames, Light, NumpyExposure, Pixels, make_exposure
from optical_dfa.emulator.hashing import derive_key, hash_words
from optical_dfa.emulator.numba_support import why_unavailable

IDEAL = Camera(shot_noise=False, read_noise_e=0.0, full_well_e=math.inf, gain_dn_per_e=1.0, adc_bits=8)
NOISY = Camera(shot_noise=True, read_noise_e=13.0, full_well_e=10_000.0, gain_dn_per_e=0.0255, adc_bits=8)


def compiled(camera: Camera, threaded: bool = True) -> Exposure:
    exposure = make_exposure(camera, "auto", threaded, plain=True)
    assert exposure.backend == ("numba" if why_unavailable(("fma",)) is None else "numpy")
    return exposure


def frames_of(
    pattern: npt.ArrayLike, reference: npt.ArrayLike | None = None, seed: int = 0, amplitude: float = 0.03
) -> Frames:
    shown = np.asarray(pattern, np.int64)
    wave = np.zeros((len(shown), 2)) if reference is None else np.asarray(reference, np.float64)
    weights = np.full((len(shown), 2), amplitude)
    return Frames(shown, weights, wave, derive_key(seed, np.arange(len(shown), dtype=np.uint64)[:, None]))


def images_of(exposure: Exposure, camera: Camera, field: npt.NDArray[np.int32], frames: Frames) -> npt.NDArray[Any]:
    images = np.zeros((len(frames.pattern), field.shape[1] // 2), camera.image_dtype)
    exposure(Light(field), frames, Pixels(), 0, images)
    return images


def level(mean_e: float, pixels: int) -> tuple[npt.NDArray[np.int32], Frames]:
    """A dark field and a reference of that many electrons."""
    return np.zeros((1, 2 * pixels), np.int32), frames_of([0], [[math.sqrt(mean_e / 2)] * 2])


CAMERAS = {
    "8 bit": NOISY,
    "10 bit": dataclasses.replace(NOISY, adc_bits=10, gain_dn_per_e=0.1),
    "12 bit": dataclasses.replace(NOISY, adc_bits=12, gain_dn_per_e=0.4),
    "no shot noise": dataclasses.replace(NOISY, shot_noise=False, read_noise_e=40.0),
    "no read noise": dataclasses.replace(NOISY, read_noise_e=0.0),
    "no noise": dataclasses.replace(NOISY, shot_noise=False, read_noise_e=0.0),
    "no full well": dataclasses.replace(NOISY, full_well_e=math.inf),
    "saturating": dataclasses.replace(NOISY, full_well_e=2000.0),
    "Poisson where dim": dataclasses.replace(NOISY, poisson_below_e=50.0, gain_dn_per_e=1.0, full_well_e=math.inf),
}


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
def test_images_are_those_of_numpy(camera: Camera) -> None:
    """Speckle of 10^6 pixel exposures with a turning reference: one digital number, in fewer than 1 of 10^4 pixels."""
    generator = np.random.default_rng(2)
    field = np.rint(generator.standard_normal((10, 50_000)) * 500).astype(np.int32)
    angle = np.arange(40) * 0.7
    frames = frames_of(np.arange(40) // 4, 1500**0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1))
    numpy = images_of(NumpyExposure(camera), camera, field, frames)
    found = images_of(compiled(camera), camera, field, frames)
    assert found.dtype == numpy.dtype
    assert len(np.unique(numpy)) > 50
    difference = np.abs(found.astype(int) - numpy)
    assert difference.max() <= 1
    assert np.mean(difference) < 1e-4


@pytest.mark.parametrize("mean_e", [900.0, 2345.6, 6000.0])
@pytest.mark.parametrize(("gain", "bits"), [(0.0255, 8), (0.1, 10), (0.4, 12)])
@pytest.mark.parametrize(("shot", "read_noise_e"), [(True, 13.0), (True, 0.0), (False, 40.0)])
def test_photon_transfer(mean_e: float, gain: float, bits: int, shot: bool, read_noise_e: float) -> None:
    """EMVA 1288: μ_y = K μ_e, σ_y² = K² (σ_d² + μ_e) + 1/12, on 2·10^5 pixels. False alarms: 1e-6 for all settings."""
    pixels = 200_000
    camera = dataclasses.replace(IDEAL, shot_noise=shot, read_noise_e=read_noise_e, gain_dn_per_e=gain, adc_bits=bits)
    image = images_of(compiled(camera), camera, *level(mean_e, pixels)).astype(np.float64)
    variance = gain**2 * (read_noise_e**2 + (mean_e if shot else 0)) + 1 / 12
    bound = stats.norm.isf(1e-6 / 27 / 2 / 2)
    assert abs(image.mean() - gain * mean_e) < bound * (variance / pixels) ** 0.5
    assert abs(image.var() / variance - 1) < bound * (2 / pixels) ** 0.5


@pytest.mark.parametrize(("electrons", "number"), [(0.0, 0), (0.9, 0), (1.1, 1), (2.9, 1), (3.1, 2), (300.2, 150)])
def test_converter_rounds_to_the_nearest(electrons: float, number: int) -> None:
    camera = dataclasses.replace(IDEAL, gain_dn_per_e=0.5)
    assert images_of(compiled(camera), camera, *level(electrons, 21)).tolist() == [[number] * 21]


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_converter_clips_at_its_last_number(bits: int) -> None:
    camera = dataclasses.replace(IDEAL, adc_bits=bits)
    last = 2**bits - 1
    for electrons, number in ((last - 1, last - 1), (last, last), (last + 1, last), (1e6, last)):
        assert images_of(compiled(camera), camera, *level(electrons, 17)).tolist() == [[number] * 17]


def test_converter_clips_at_zero() -> None:
    """Dark pixels, 20 e- read noise, 1 DN/e-: those below 0.5 e-, Φ(0.5/20) of them, read 0. False alarms: 1e-6."""
    pixels = 100_000
    camera = dataclasses.replace(IDEAL, read_noise_e=20.0)
    image = images_of(compiled(camera), camera, *level(0.0, pixels))
    expected = stats.norm.cdf(0.5 / 20)
    assert abs(np.mean(image == 0) - expected) < 4.9 * (expected * (1 - expected) / pixels) ** 0.5


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("full_well_e", [1000.0, 3000.0, 10_000.0, 13_500.0])
def test_a_saturated_pixel_reads_the_saturation_number(bits: int, full_well_e: float) -> None:
    """For 300 gains, among them those that put the full well half-way between two numbers of the converter."""
    for step in range(1, 301):
        camera = dataclasses.replace(
            IDEAL, full_well_e=full_well_e, gain_dn_per_e=step * 0.5 / full_well_e, adc_bits=bits
        )
        assert float(images_of(compiled(camera), camera, *level(1e6, 1))[0, 0]) == camera.saturation_dn


def test_the_largest_fields_saturate() -> None:
    """Both ends of int32: the intensity stays finite in float32."""
    field = np.array([[2**31 - 1, -(2**31), 0, 0]], np.int32)
    found = images_of(compiled(NOISY), NOISY, field, frames_of([0], amplitude=1.0))
    assert found[0, 0] == 255
    assert found[0, 1] < 5


@pytest.mark.parametrize("threaded", [False, True])
def test_pixels_do_not_depend_on_their_neighbours(threaded: bool) -> None:
    """Any cut of the image and of the frames gives the same bits: in a register of 16, in the remainder, alone."""
    generator = np.random.default_rng(5)
    field = np.rint(generator.standard_normal((3, 2 * 333)) * 500).astype(np.int32)
    frames = frames_of(np.arange(9) // 3, generator.standard_normal((9, 2)) * 27)
    whole = images_of(compiled(NOISY), NOISY, field, frames)
    for cuts in ([0, 1, 333], [0, 7, 40, 41, 333], [0, 160, 177, 333], [0, 100, 200, 300, 333]):
        images = np.zeros_like(whole)
        for first, stop in itertools.pairwise(cuts):
            light = Light(np.ascontiguousarray(field[:, 2 * first : 2 * stop]))
            compiled(NOISY, threaded)(light, frames, Pixels(), first, images)
        np.testing.assert_array_equal(images, whole)
    for first in range(9):
        which, some = frames.of_patterns(first // 3, first // 3 + 1)
        images = np.zeros_like(whole[which])
        compiled(NOISY, threaded)(Light(field[first // 3 : first // 3 + 1]), some, Pixels(), 0, images)
        np.testing.assert_array_equal(images, whole[which])


def test_frames_of_patterns() -> None:
    frames = frames_of([0, 0, 1, 3, 3, 3], seed=4)
    for first, stop, expected in ((0, 1, [0, 1]), (1, 2, [2]), (2, 3, []), (3, 4, [3, 4, 5]), (0, 4, range(6))):
        which, some = frames.of_patterns(first, stop)
        assert list(range(6))[which] == list(expected)
        np.testing.assert_array_equal(some.pattern, frames.pattern[which] - first)
        np.testing.assert_array_equal(some.noise_key[0], frames.noise_key[0][which])


def wrapped(function: Any, result: type[np.generic]) -> Callable[..., npt.NDArray[Any]]:
    """An inlined scalar function of the kernel, over an array."""
    import numba

    @numba.njit(error_model="numpy")
    def loop(inputs: npt.NDArray[Any], outputs: npt.NDArray[Any]) -> None:
        for i in range(len(inputs)):
            outputs[i] = function(inputs[i])

    def call(inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        outputs = np.empty(len(inputs), result)
        loop(inputs, outputs)
        return outputs

    return call


def test_compiled_normals_are_quantiles() -> None:
    """Every 16th cell and the 100 outermost of each tail, against scipy in float64."""
    if why_unavailable(("fma",)) is not None:
        return
    from optical_dfa.emulator.numba_camera import _standard_normal

    cells = 1 << 24
    chosen = np.concatenate([np.arange(0, cells, 16), np.arange(100), cells - 1 - np.arange(100)])
    words = ((chosen - cells // 2) << 8).astype(np.int32).view(np.uint32)
    found = wrapped(_standard_normal, np.float32)(words)
    assert np.abs(found - special.ndtri((chosen + 0.5) / cells)).max() < 2e-6


def test_compiled_hash_and_logarithm() -> None:
    """The hash is that of `hashing`; the logarithm is right to 1e-7 absolute and relative, over all of (0, 1]."""
    if why_unavailable(("fma",)) is not None:
        return
    import numba

    from optical_dfa.emulator.numba_camera import _hash, _log

    low, high = derive_key(3, 9)

    @numba.njit
    def hashed(counter: np.uint32) -> Any:
        return _hash(counter, low[0], high[0])

    counters = np.arange(2**32 - 5000, 2**32 + 5000, dtype=np.uint64).astype(np.uint32)
    np.testing.assert_array_equal(wrapped(hashed, np.uint32)(counters), hash_words(counters, (low, high)))

    v = np.concatenate([np.exp2(-np.linspace(0, 24, 100_001)), 1 - np.exp2(-np.arange(1.0, 25))]).astype(np.float32)
    exact = np.log(v.astype(np.float64))
    assert (np.abs(wrapped(_log, np.float32)(v) - exact) <= 1e-7 * (1 + np.abs(exact))).all()
