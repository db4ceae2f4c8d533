"""The tables of a camera's moments against brute force: what `Camera.digitise` does to many pixels of one mean."""

import math
from dataclasses import replace

import numpy as np
import pytest

from optical_dfa.emulator import Camera
from optical_dfa.emulator.hashing import derive_key
from optical_dfa.emulator.moments import camera_moments, exact_moments

FAST = Camera(shot_noise=True, read_noise_e=13.0, full_well_e=10_000.0, gain_dn_per_e=0.0255, adc_bits=8)
CAMERAS = {
    "8 bits": FAST,
    "12 bits": replace(FAST, adc_bits=12, gain_dn_per_e=0.4095),
    "no shot noise": replace(FAST, shot_noise=False),
    "no read noise": replace(FAST, read_noise_e=0.0),
    "black level": replace(FAST, black_level_dn=16.0, adc_bits=10, gain_dn_per_e=0.0745, full_well_e=13_500.0),
    "Poisson": replace(FAST, poisson_below_e=20.0, read_noise_e=2.0, gain_dn_per_e=0.4, adc_bits=12),
}
PIXELS = 200_000
MEANS = (0.0, 3.0, 18.0, 30.0, 500.0, 1500.0, 9000.0, 9900.0, 10_020.0)


@pytest.mark.parametrize("name", CAMERAS)
def test_sums_are_the_moments_of_simulated_numbers(name: str) -> None:
    """Within 5 standard errors each, of 9 means and 3 moments: one run in 60,000 would fail by chance."""
    camera = CAMERAS[name]
    key = derive_key(3, np.arange(len(MEANS), dtype=np.uint64)[:, None])
    numbers = camera.digitise(np.repeat(np.array(MEANS, np.float32)[:, None], PIXELS, axis=1), key).astype(np.float64)
    mean, variance, saturated = exact_moments(camera, np.array(MEANS))
    rank_error = 1e-6  # ranks are one of 2^24: |z| ≤ 5.42
    assert np.all(np.abs(numbers.mean(axis=1) - mean) <= 5 * np.sqrt(variance / PIXELS) + rank_error)
    fourth = np.mean((numbers - numbers.mean(axis=1, keepdims=True)) ** 4, axis=1)
    error = np.sqrt(np.maximum(fourth - variance**2, 0) / PIXELS)
    assert np.all(np.abs(numbers.var(axis=1) - variance) <= 5 * error + rank_error)
    full = (numbers >= camera.saturation_dn).mean(axis=1)
    assert np.all(np.abs(full - saturated) <= 5 * np.sqrt(saturated * (1 - saturated) / PIXELS) + rank_error)


@pytest.mark.parametrize("name", CAMERAS)
def test_interpolation_adds_less_than_a_hundredth_of_the_noise(name: str) -> None:
    camera = CAMERAS[name]
    table = camera_moments(camera)
    mean_e = np.sort(np.random.default_rng(0).uniform(0, 10_500, 20_000))
    exact, found = exact_moments(camera, mean_e), table.at(mean_e)
    sigma = np.sqrt(camera.gain_dn_per_e**2 * (camera.shot_noise * mean_e + camera.read_noise_e**2) + 1 / 12)
    assert np.abs(found[0] - exact[0]).max() <= 0.01 * sigma.max()
    assert np.all(np.abs(found[0] - exact[0]) <= 0.01 * sigma)
    assert np.all(np.abs(found[1] - exact[1]) <= 0.01 * sigma**2)
    assert np.abs(found[2] - exact[2]).max() <= 1e-3


def test_far_from_both_ends_the_sums_are_the_emva_law() -> None:
    """K(μ + black), K²(μ + σ²) + 1/12, where the noise is over a digital number: rounding adds 1/12 to 1e-8."""
    camera = CAMERAS["12 bits"]
    mean_e = np.linspace(1000, 9000, 50)
    mean, variance, saturated = exact_moments(camera, mean_e)
    np.testing.assert_allclose(mean, camera.gain_dn_per_e * mean_e, rtol=1e-7)
    np.testing.assert_allclose(variance, camera.gain_dn_per_e**2 * (mean_e + 169) + 1 / 12, rtol=1e-6)
    assert saturated.max() < 1e-9


def test_linear_range_ends_before_what_clips_and_where_rounding_shows() -> None:
    low, high = camera_moments(FAST, 3000.0).linear_e
    assert 26 < low < 200  # no black level: half of the dark pixels' noise is cut off
    assert 9000 < high < 10_000 - 5 * math.sqrt(10_000 + 169)
    assert camera_moments(replace(FAST, shot_noise=False)).linear_e == (math.inf, -math.inf)  # .33 DN of noise: ripple


def test_beyond_the_table_nothing_changes() -> None:
    table = camera_moments(FAST)
    mean, variance, saturated = table.at(np.array([-1e3, 1e6, 1e9]))
    assert mean[1] == mean[2] == 255
    assert variance[1] == variance[2] == pytest.approx(0, abs=1e-6)
    assert saturated[1] == saturated[2] == pytest.approx(1, abs=1e-6)
    assert mean[0] == table.table[0, 0]


def test_a_camera_without_a_converter_is_refused() -> None:
    with pytest.raises(ValueError, match="adc_bits must be 8, 10 or 12"):
        camera_moments(replace(FAST, adc_bits=None))
