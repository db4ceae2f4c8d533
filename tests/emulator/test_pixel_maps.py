"""What differs from pixel to pixel, the dark, quantum efficiency and exact Poisson noise, against closed forms."""

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import pytest
from effect_bench import NOISELESS
from scipy import stats

from optical_dfa.emulator import Camera
from optical_dfa.emulator.exposure import Frames, Light, Pixels, make_exposure
from optical_dfa.emulator.hashing import derive_key

FIVE_SIGMA = stats.norm.isf(2.5e-7)  # two-sided false alarms: 5e-7
SHOT = dataclasses.replace(NOISELESS, shot_noise=True)
DARK = Camera(
    shot_noise=True,
    read_noise_e=13.0,
    full_well_e=10_000.0,
    gain_dn_per_e=0.38,
    adc_bits=12,
    quantum_efficiency=0.6,
    dark_current_e_per_s=250_000.0,
    black_level_dn=60.0,
)
PIXELS, EXPOSURE_US = 200_000, 400.0


def images(camera: Camera, photons: float, backend: str = "numpy", frames: int = 1) -> npt.NDArray[np.float64]:
    """By `Camera.expose`, or of the same mean electrons as a reference arm on the backend."""
    key, maps = derive_key(5, np.arange(frames, dtype=np.uint64)[:, None]), camera.maps(9, PIXELS, EXPOSURE_US)
    if backend == "numpy":
        mean = np.full((frames, PIXELS), photons, np.float64 if camera.adc_bits is None else np.float32)
        return camera.expose(mean, key, maps=maps).astype(np.float64)
    exposure = make_exposure(camera, backend, threaded=True, plain=False)
    wave = np.tile([math.sqrt(camera.quantum_efficiency * photons), 0.0], (frames, 1))
    shown = Frames(np.zeros(frames, np.int64), np.zeros((frames, 2)), wave, key)
    found = np.zeros((frames, PIXELS), camera.image_dtype)
    exposure(Light(np.zeros((1, 2 * PIXELS), np.int32)), shown, Pixels(None, maps), 0, found)
    return found.astype(np.float64)


@pytest.mark.parametrize("photons", [0.0, 500.0, 3000.0, 9000.0])
@pytest.mark.parametrize("backend", ["numpy", "auto"])
def test_photon_transfer(photons: float, backend: str) -> None:
    """EMVA 1288: μ_y = K(μ_d + ημ_p) + black level, σ_y² = K²(σ_d² + μ_d + ημ_p) + 1/12. False alarms: 5e-7 each."""
    image = images(DARK, photons, backend)
    electrons = 250_000 * 400e-6 + 0.6 * photons
    variance = 0.38**2 * (13**2 + electrons) + 1 / 12
    assert abs(image.mean() - 0.38 * electrons - 60) < FIVE_SIGMA * (variance / PIXELS) ** 0.5
    assert abs(image.var() / variance - 1) < FIVE_SIGMA * (2 / PIXELS) ** 0.5


@pytest.mark.parametrize("backend", ["numpy", "auto"])
def test_photon_transfer_curve(backend: str) -> None:
    """The slope of variance over mean, dark subtracted, is K; past saturation there is no variance."""
    levels = np.linspace(500, 12_000, 12)
    dark, curve = images(DARK, 0.0, backend), [images(DARK, photons, backend) for photons in levels]
    mean = np.array([image.mean() - dark.mean() for image in curve])
    variance = np.array([image.var() - dark.var() for image in curve])
    assert (mean * variance).sum() / (mean**2).sum() == pytest.approx(0.38, rel=0.005)
    assert images(DARK, 30_000.0, backend).var() == 0


@pytest.mark.parametrize("backend", ["numpy", "auto"])
@pytest.mark.parametrize(
    ("full_well_e", "gain", "black_level", "bits", "saturated_e"),
    [(10_000.0, 0.38, 60.0, 12, 10_000.0), (1e9, 0.38, 60.0, 12, 4035 / 0.38), (9000.0, 0.1, 200.0, 10, 8230.0)],
)
def test_saturation(
    full_well_e: float, gain: float, black_level: float, bits: int, saturated_e: float, backend: str
) -> None:
    """At min(full well, (2^bits - 1 - black level)/K) electrons, the smaller of the two."""
    camera = dataclasses.replace(
        NOISELESS, full_well_e=full_well_e, gain_dn_per_e=gain, black_level_dn=black_level, adc_bits=bits
    )
    assert camera.saturation_dn == round(gain * saturated_e + black_level)
    below, above = images(camera, saturated_e - 20, backend), images(camera, saturated_e + 20, backend)
    assert (below == round(gain * (saturated_e - 20) + black_level)).all()
    assert (above == camera.saturation_dn).all()
    assert (images(camera, 10 * saturated_e, backend) == camera.saturation_dn).all()


def test_maps_have_the_stated_spread() -> None:
    """PRNU and DSNU of 2·10^5 pixels: mean to σ/√N, variance to √(2/N), normal. False alarms: 1e-6 each."""
    camera = dataclasses.replace(SHOT, prnu=0.02, dsnu_e=7.0, dark_current_e_per_s=1000.0)
    maps = camera.maps(4, PIXELS, 2000.0)
    assert maps.gain is not None
    assert maps.dark_e is not None
    for found, mean, spread in ((maps.gain, 1.0, 0.02), (maps.dark_e[1], 0.0, 7.0)):
        assert abs(found.mean(dtype=float) - mean) < FIVE_SIGMA * spread / PIXELS**0.5
        assert abs(found.var(dtype=float) / spread**2 - 1) < FIVE_SIGMA * (2 / PIXELS) ** 0.5
        assert stats.kstest((found[:20_000] - mean) / spread, "norm").pvalue > 1e-6
    assert maps.dark_e[0] == pytest.approx(2.0)
    assert abs(np.corrcoef(maps.gain, maps.dark_e[1])[0, 1]) < FIVE_SIGMA / PIXELS**0.5


def test_defects_are_as_many_as_stated() -> None:
    """Binomial counts, false alarms 1e-6 each; a pixel is dead or hot, not both."""
    camera = dataclasses.replace(SHOT, dead_pixels=0.003, hot_pixels=0.001, hot_e_per_s=1e6, dark_current_e_per_s=500.0)
    maps = camera.maps(4, PIXELS, 400.0)
    assert maps.gain is not None
    assert maps.dark_e is not None
    dead, hot = maps.gain == 0, maps.dark_e[0] > 1
    for count, fraction in ((dead.sum(), 0.003), (hot.sum(), 0.001)):
        low, high = stats.binom.ppf([5e-7, 1 - 5e-7], PIXELS, fraction)
        assert low <= count <= high
    assert not (dead & hot).any()
    assert maps.dark_e[0, hot] == pytest.approx(400.0)
    assert maps.dark_e[0, ~hot] == pytest.approx(0.2)
    assert (maps.gain[~dead] == 1).all()


def test_maps_extend_with_the_image_and_belong_to_the_seed() -> None:
    camera = dataclasses.replace(SHOT, prnu=0.02, dsnu_e=7.0, dead_pixels=0.01, hot_pixels=0.01, hot_e_per_s=1e5)
    small, large, other = camera.maps(4, 500, 400.0), camera.maps(4, 3000, 400.0), camera.maps(5, 500, 400.0)
    for few, many, others in zip(small, large, other, strict=True):
        assert few is not None
        assert many is not None
        np.testing.assert_array_equal(many[..., :500], few)
        assert (few != others).mean() > 0.4
    longer = camera.maps(4, 500, 800.0)
    assert small.dark_e is not None
    assert longer.dark_e is not None
    np.testing.assert_array_equal(longer.dark_e[1], small.dark_e[1])  # the pattern does not grow with the exposure
    np.testing.assert_allclose(longer.dark_e[0], 2 * small.dark_e[0])


def test_a_pixel_is_what_its_maps_say() -> None:
    """D = K (g η μ_p + dark signal) + black level, in float64."""
    camera = dataclasses.replace(
        NOISELESS, gain_dn_per_e=0.5, prnu=0.05, dsnu_e=7.0, dark_current_e_per_s=1e5, quantum_efficiency=0.7
    )
    camera = dataclasses.replace(camera, black_level_dn=30.0, dead_pixels=0.01, hot_pixels=0.01, hot_e_per_s=1e6)
    maps = camera.maps(9, PIXELS, EXPOSURE_US)
    assert maps.gain is not None
    assert maps.dark_e is not None
    expected = 0.5 * (maps.gain * 0.7 * 1000.0 + maps.dark_e.sum(axis=0)) + 30
    np.testing.assert_allclose(images(camera, 1000.0)[0], expected, rtol=1e-6)
    part = slice(70, 400)
    cut = camera.expose(np.full((1, 330), 1000.0), derive_key(0, np.zeros((1, 1), np.uint64)), 70, maps)
    np.testing.assert_allclose(cut[0], expected[part], rtol=1e-6)


def test_maps_are_asked_for() -> None:
    key, light = derive_key(0, np.zeros((1, 1), np.uint64)), np.full((1, 10), 100.0)
    for values in ({"prnu": 0.1}, {"dsnu_e": 1.0}, {"dead_pixels": 0.1}, {"dark_current_e_per_s": 1.0}):
        camera = dataclasses.replace(SHOT, **values)  # type: ignore[arg-type]
        assert not camera.uniform
        with pytest.raises(ValueError, match=r"^maps must be from Camera\.maps"):
            camera.expose(light, key)
    assert SHOT.uniform
    assert SHOT.maps(0, 10, 400.0) == (None, None)


@pytest.mark.parametrize("mean_e", [0.3, 3.0, 15.0, 45.0])
def test_few_electrons_follow_the_law_of_poisson(mean_e: float) -> None:
    """χ² of 2·10^5 counts in classes of 20 or more expected. False alarms: 1e-6 each."""
    camera = dataclasses.replace(SHOT, poisson_below_e=50.0)
    counts = images(camera, mean_e)[0]
    np.testing.assert_array_equal(counts, np.rint(counts))
    edges = np.arange(int(stats.poisson.ppf(1e-4, mean_e)), int(stats.poisson.ppf(1 - 1e-4, mean_e)) + 1)
    cdf = stats.poisson.cdf(edges, mean_e)
    expected = PIXELS * np.diff(np.concatenate([[0], cdf, [1]]))
    found = np.bincount(np.searchsorted(edges, counts), minlength=len(expected))
    assert stats.chisquare(found, expected).pvalue > 1e-6


def test_poisson_noise_with_read_noise_and_dark_current() -> None:
    """Mean and variance add up, and the third moment is that of Poisson: a Gaussian would have none."""
    camera = dataclasses.replace(SHOT, poisson_below_e=50.0, read_noise_e=1.5, dark_current_e_per_s=5000.0)
    image = images(camera, 4.0, frames=5).reshape(-1)
    mean = 4 + 5000 * 400e-6
    assert abs(image.mean() - mean) < FIVE_SIGMA * ((mean + 2.25) / image.size) ** 0.5
    assert abs(image.var() / (mean + 2.25) - 1) < FIVE_SIGMA * (3 / image.size) ** 0.5
    third = np.mean((image - image.mean()) ** 3)
    assert abs(third / mean - 1) < 0.05


def test_more_electrons_are_gaussian_as_before() -> None:
    low, high = (images(dataclasses.replace(SHOT, poisson_below_e=limit), 30.0) for limit in (0.0, 20.0))
    np.testing.assert_array_equal(low, high)
    assert (low != np.rint(low)).mean() > 0.99


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("quantum_efficiency", 0.0, "a number > 0 and ≤ 1, electrons per photon"),
        ("quantum_efficiency", 1.1, "a number > 0 and ≤ 1, electrons per photon"),
        ("dark_current_e_per_s", -1.0, "a finite number ≥ 0"),
        ("dsnu_e", math.inf, "a finite number ≥ 0"),
        ("prnu", 0.2, "below 0.18: no pixel has a negative response"),
        ("poisson_below_e", 60.0, "at most 50 e-: Gaussian above"),
        ("black_level_dn", 4095.0, "below 4095"),
        ("dead_pixels", 1.0, "a fraction from 0 to 1"),
        ("hot_pixels", -0.1, "a fraction from 0 to 1"),
    ],
)
def test_impossible_values_are_refused(name: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match="must be") as error:
        dataclasses.replace(DARK, **{name: value})  # type: ignore[arg-type]
    assert str(error.value) == f"{name} must be {message}; got {value!r}"
