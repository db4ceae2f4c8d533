"""The camera against EMVA 1288: μ_y = K μ_e and σ_y² = K² (σ_d² + μ_e) + 1/12."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from optical_dfa.emulator import Camera
from optical_dfa.emulator.hashing import Key, derive_key

IDEAL = Camera(shot_noise=False, read_noise_e=0.0, full_well_e=math.inf, gain_dn_per_e=1.0, adc_bits=None)
NOISY = Camera(shot_noise=True, read_noise_e=13.0, full_well_e=10_000.0, gain_dn_per_e=0.0255, adc_bits=8)


def keys(*frames: int, stream: int = 0) -> Key:
    return derive_key(5, stream, np.array(frames, np.uint64)[:, None])


def uniform(mean_e: float, pixels: int, frames: int = 1) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.full((frames, pixels), mean_e, np.float32)


@pytest.mark.parametrize("mean_e", [900.0, 2345.6, 6000.0])
@pytest.mark.parametrize(
    ("gain", "bits"), [(0.0255, 8), (0.1, 10), (0.4, 12), (0.4, None)], ids=["8 bit", "10 bit", "12 bit", "no ADC"]
)
@pytest.mark.parametrize(("shot", "read_noise_e"), [(True, 13.0), (True, 0.0), (False, 40.0)])
def test_photon_transfer(mean_e: float, gain: float, bits: int | None, shot: bool, read_noise_e: float) -> None:
    """Mean and variance of 2·10^5 pixels of one level, without clipping.

    The mean of N numbers is right to σ/√N, the variance to σ²√(2/N). Rounding adds exactly 1/12 to the variance if σ is
    above 0.7 DN, to 1e-4 (here 0.76 DN or more). False alarms: 1e-6 for all 36 settings.
    """
    pixels = 200_000
    camera = dataclasses.replace(IDEAL, shot_noise=shot, read_noise_e=read_noise_e, gain_dn_per_e=gain, adc_bits=bits)
    image = camera.expose(uniform(mean_e, pixels), keys(0)).astype(np.float64)
    variance = gain**2 * (read_noise_e**2 + (mean_e if shot else 0)) + (1 / 12 if bits else 0)
    bound = stats.norm.isf(1e-6 / 36 / 2 / 2)
    assert abs(image.mean() - gain * mean_e) < bound * (variance / pixels) ** 0.5
    assert abs(image.var() / variance - 1) < bound * (2 / pixels) ** 0.5


def test_shot_noise_follows_the_signal_of_each_pixel() -> None:
    """Variance of each of four levels in one image; false alarms 1e-6 in all."""
    levels = np.array([100, 1000, 4000, 9000], np.float32)
    camera = dataclasses.replace(IDEAL, shot_noise=True)
    image = camera.expose(np.tile(levels, 50_000)[None, :], keys(1)).reshape(-1, 4)
    assert (np.abs(image.var(axis=0) / levels - 1) < stats.norm.isf(1e-6 / 4 / 2) * (2 / 50_000) ** 0.5).all()


def test_noise_off_is_exact() -> None:
    mean_e = np.array([[0.0, 0.1, 1 / 3, 1e9]])
    assert IDEAL.noiseless
    image = IDEAL.expose(mean_e, keys(0))
    assert image.dtype == np.float64
    np.testing.assert_array_equal(image, mean_e)
    np.testing.assert_array_equal(dataclasses.replace(IDEAL, gain_dn_per_e=0.5).expose(mean_e, keys(0)), mean_e / 2)


def test_converter_alone_rounds_to_the_nearest() -> None:
    camera = dataclasses.replace(IDEAL, adc_bits=8, gain_dn_per_e=0.5)
    assert not camera.noiseless
    image = camera.expose(np.array([[0.0, 0.9, 1.1, 2.9, 3.1, 300.2]], np.float32), keys(0))
    assert image.tolist() == [[0, 0, 1, 1, 2, 150]]


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_converter_clips_at_its_last_number(bits: int) -> None:
    camera = dataclasses.replace(IDEAL, adc_bits=bits)
    last = 2**bits - 1
    image = camera.expose(np.array([[last - 1, last, last + 1, 1e6]], np.float32), keys(0))
    assert image.tolist() == [[last - 1, last, last, last]]
    assert camera.saturation_dn == last


def test_converter_clips_at_zero() -> None:
    """Dark pixels, 20 e- read noise, 1 DN/e-: those below 0.5 e-, Φ(0.5/20) of them, read 0. False alarms: 1e-6."""
    pixels = 100_000
    camera = dataclasses.replace(IDEAL, read_noise_e=20.0, adc_bits=8)
    image = camera.expose(uniform(0, pixels), keys(2))
    expected = stats.norm.cdf(0.5 / 20)
    bound = 4.9 * (expected * (1 - expected) / pixels) ** 0.5
    assert abs(np.mean(image == 0) - expected) < bound


def test_full_well_limits_the_electrons() -> None:
    camera = dataclasses.replace(IDEAL, full_well_e=500.0, gain_dn_per_e=0.2)
    assert not camera.noiseless
    mean_e = np.array([[499.0, 500.0, 501.0, 1e5]])
    np.testing.assert_allclose(camera.expose(mean_e, keys(0)), [[99.8, 100, 100, 100]], rtol=1e-15)
    assert camera.saturation_dn == 100
    converted = dataclasses.replace(camera, adc_bits=8).expose(mean_e.astype(np.float32), keys(0))
    assert converted.tolist() == [[100, 100, 100, 100]]


@pytest.mark.parametrize("bits", [8, 10, 12, None])
@pytest.mark.parametrize("full_well_e", [1000.0, 3000.0, 10_000.0, 13_500.0])
def test_a_saturated_pixel_reads_the_saturation_number(bits: int | None, full_well_e: float) -> None:
    """For 300 gains, among them those that put the full well half-way between two numbers of the converter."""
    for step in range(1, 301):
        camera = dataclasses.replace(
            IDEAL, full_well_e=full_well_e, gain_dn_per_e=step * 0.5 / full_well_e, adc_bits=bits
        )
        flooded = np.full((1, 1), 1e6, np.float64 if bits is None else np.float32)
        assert float(camera.expose(flooded, keys(0))[0, 0]) == camera.saturation_dn


def test_no_limit_is_an_infinite_saturation_number() -> None:
    assert IDEAL.saturation_dn == math.inf


@pytest.mark.parametrize(("bits", "dtype"), [(8, "uint8"), (10, "uint16"), (12, "uint16"), (None, "float64")])
def test_dtype_of_images(bits: int | None, dtype: str) -> None:
    camera = dataclasses.replace(NOISY, adc_bits=bits)
    real = np.float64 if bits is None else np.float32
    image = camera.expose(uniform(2000, 7, 3).astype(real), keys(0, 1, 2))
    assert image.dtype == camera.image_dtype == dtype
    assert image.shape == (3, 7)


def test_noise_depends_on_the_key_and_the_pixel_alone() -> None:
    mean_e = uniform(3000, 1001, 4)
    whole = NOISY.expose(mean_e, keys(7, 8, 9, 10))
    np.testing.assert_array_equal(NOISY.expose(mean_e, keys(7, 8, 9, 10)), whole)
    np.testing.assert_array_equal(NOISY.expose(mean_e[:1], keys(9))[0], whole[2])
    np.testing.assert_array_equal(NOISY.expose(mean_e[:, :333], keys(7, 8, 9, 10)), whole[:, :333])
    np.testing.assert_array_equal(NOISY.expose(mean_e[:3], keys(9, 7, 9)), whole[[2, 0, 2]])


def test_noise_of_other_frames_streams_and_pixels_is_independent() -> None:
    """Correlations over 10^5 pixels of 4 frames of 2 streams, and of neighbouring pixels. False alarms: 1e-6 in all."""
    pixels = 100_000
    camera = dataclasses.replace(IDEAL, read_noise_e=10.0)
    images = [camera.expose(np.zeros((4, pixels)), keys(0, 1, 2, 3, stream=stream)) for stream in (0, 1)]
    noise = np.concatenate(images) / 10
    shifted = np.concatenate([noise, np.roll(noise[:1], 1, axis=1)])
    pairs = np.triu_indices(len(shifted), 1)
    assert np.abs(np.corrcoef(shifted)[pairs]).max() < stats.norm.isf(1e-6 / len(pairs[0]) / 2) / pixels**0.5


def test_the_mean_image_is_left_alone() -> None:
    for camera in (NOISY, dataclasses.replace(IDEAL, adc_bits=8), dataclasses.replace(IDEAL, full_well_e=10.0)):
        mean_e = uniform(2000, 5)
        camera.expose(mean_e, keys(0))
        assert (mean_e == 2000).all()


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("read_noise_e", -1.0, "a finite number ≥ 0, electrons"),
        ("read_noise_e", math.inf, "a finite number ≥ 0, electrons"),
        ("read_noise_e", math.nan, "a finite number ≥ 0, electrons"),
        ("full_well_e", 0.0, "electrons > 0, or .inf for none"),
        ("full_well_e", math.nan, "electrons > 0, or .inf for none"),
        ("gain_dn_per_e", 0.0, "digital numbers per e-, > 0"),
        ("gain_dn_per_e", math.inf, "digital numbers per e-, > 0"),
        ("adc_bits", 9, "8, 10, 12 or null (no converter)"),
    ],
)
def test_impossible_parameters_are_refused(name: str, value: float, accepted: str) -> None:
    with pytest.raises(ValueError, match=name) as error:
        dataclasses.replace(NOISY, **{name: value})  # type: ignore[arg-type]
    assert str(error.value) == f"{name} must be {accepted}; got {value!r}"
