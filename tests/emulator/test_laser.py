"""Laser and reference arm against closed forms: noise of the power, errors of level and steps, fringes, beams."""

import math

import numpy as np
import pytest
from effect_bench import REFERENCE_E, fields, make_bench, random_frames
from scipy import stats

from optical_dfa.emulator import Camera, FrameStamp, Laser
from optical_dfa.emulator.product import Backend

every_backend = pytest.mark.parametrize("backend", ["numpy", "auto"])
FIVE_SIGMA = stats.norm.isf(2.5e-7)  # two-sided false alarms: 5e-7


@every_backend
def test_the_power_of_a_frame_is_that_of_all_light(backend: Backend) -> None:
    """Variance σ² over 20,000 frames, false alarms 5e-7 each; signal, reference and both scale alike."""
    n = 20_000
    bench = make_bench(5, 2, backend=backend, laser=Laser(intensity_noise=0.02))
    still = make_bench(5, 2, backend=backend)
    lit, at = np.ones((n, 5), np.uint8), FrameStamp(6, 40)
    power = bench.expose(lit * 0, at=at)[:, 0, 0] / REFERENCE_E
    assert abs(power.mean() - 1) < FIVE_SIGMA * 0.02 / n**0.5
    assert abs(power.var() / 0.02**2 - 1) < FIVE_SIGMA * (2 / n) ** 0.5
    assert abs(np.corrcoef(power[1:], power[:-1])[0, 1]) < FIVE_SIGMA / n**0.5
    for reference in (True, False):
        ratio = bench.expose(lit, reference=reference, at=at) / still.expose(lit, reference=reference, at=at)
        np.testing.assert_allclose(ratio, np.broadcast_to(power[:, None, None], ratio.shape), rtol=1e-12)


def test_noise_of_the_power_leaves_the_dark_alone() -> None:
    camera = Camera(False, 0.0, math.inf, 1.0, None, dark_current_e_per_s=1e5)
    bench = make_bench(5, 40, camera=camera, laser=Laser(intensity_noise=0.1))
    dark = bench.expose(np.zeros((3, 5), np.uint8), reference=False)
    np.testing.assert_allclose(dark, 40.0, rtol=1e-6)


@every_backend
@pytest.mark.parametrize("error", [-0.2, 0.05])
def test_the_reference_is_not_as_set(error: float, backend: Backend) -> None:
    bench = make_bench(15, 40, backend=backend, laser=Laser(reference_error=error))
    np.testing.assert_allclose(bench.expose(np.zeros((2, 15), np.uint8)), REFERENCE_E * (1 + error), rtol=1e-12)
    frames = random_frames(2, 15)
    expected = fields(make_bench(15, 40, backend=backend), frames) * math.sqrt(1 + error)
    np.testing.assert_allclose(fields(bench, frames), expected, rtol=1e-10, atol=1e-10)


@every_backend
@pytest.mark.parametrize("error", [-0.1, 0.03])
def test_wrong_steps_mix_the_field_with_its_conjugate(error: float, backend: Backend) -> None:
    """Four steps of π/2·(1 + ε) give a·A + b·A*, with a = (u + i·v)/4 and b = (u* + i·v*)/4.

    From I_k = |A|² + R² + 2R·Re(A e^{-iφ_k}): u = 1 - e^{-iφ₂}, v = e^{-iφ₁} - e^{-iφ₃}.
    """
    frames = random_frames(3, 15)
    field = fields(make_bench(15, 60, backend=backend), frames)
    u = 1 + np.exp(-1j * np.pi * error)
    v = -1j * np.exp(-0.5j * np.pi * error) * (1 + np.exp(-1j * np.pi * error))
    a, b = (u + 1j * v) / 4, (u.conj() + 1j * v.conj()) / 4
    assert (abs(a), abs(b)) != pytest.approx((1, 0), abs=1e-3)
    found = fields(make_bench(15, 60, backend=backend, laser=Laser(phase_step_error=error)), frames)
    np.testing.assert_allclose(found, a * field + b * field.conj(), rtol=1e-10, atol=1e-10)


@every_backend
@pytest.mark.parametrize(("tilt_x", "tilt_y"), [(0.25, 0.0), (0.2, -0.31), (0.003, 0.4)])
def test_a_tilted_reference_makes_fringes(tilt_x: float, tilt_y: float, backend: Backend) -> None:
    """The recovered field turns by -2π·tilt a pixel, a whole number of turns over rows and columns."""
    pixels = 2 * 1300  # two rows of 1300
    frames = random_frames(2, 15)
    flat = make_bench(15, pixels, backend=backend)
    bench = make_bench(15, pixels, backend=backend, laser=Laser(tilt_x=tilt_x, tilt_y=tilt_y))
    rows, columns = bench.info.image_shape
    assert (rows, columns) == (2, 1300)
    carrier = (round(tilt_x * columns) / columns, round(tilt_y * rows) / rows)
    assert bench.info.carrier == carrier
    assert flat.info.carrier is None
    turned = (fields(bench, frames) / fields(flat, frames)).reshape(2, rows, columns)
    row, column = np.indices((rows, columns))
    np.testing.assert_allclose(turned[0], np.exp(-2j * np.pi * (carrier[0] * column + carrier[1] * row)), atol=2e-6)
    np.testing.assert_allclose(turned[1], turned[0], atol=2e-6)
    np.testing.assert_allclose(bench.expose(frames * 0), REFERENCE_E, rtol=1e-6)


@pytest.mark.parametrize("waist", [0.3, 1.0, 5.0])
def test_profiles_keep_the_mean_power(waist: float) -> None:
    laser = Laser(tilt_x=0.125, signal_waist=waist, reference_waist=waist)
    for shape in ((1, 256), (40, 64), (1, 1)):
        wave, signal = laser.reference_profile(shape), laser.signal_profile(shape)
        assert wave is not None
        assert signal is not None
        assert (wave.astype(np.float64) ** 2).sum(axis=0).mean() == pytest.approx(1, rel=1e-6)
        assert (signal.astype(np.float64) ** 2).mean() == pytest.approx(1, rel=1e-6)


@every_backend
def test_beams_are_gaussians_on_the_camera(backend: Backend) -> None:
    """1/e² radii in half widths of the image: the reference alone, and the signal's part in the recovered field."""
    frames = random_frames(2, 15)
    flat = make_bench(15, 4200, backend=backend)
    bench = make_bench(15, 4200, backend=backend, laser=Laser(signal_waist=0.8, reference_waist=1.2))
    rows, columns = bench.info.image_shape
    row, column = np.indices((rows, columns))
    square = ((row + 0.5 - rows / 2) ** 2 + (column + 0.5 - columns / 2) ** 2) / (columns / 2) ** 2
    intensity = {waist: np.exp(-2 * square / waist**2) for waist in (0.8, 1.2)}
    intensity = {waist: beam / beam.mean() for waist, beam in intensity.items()}
    alone = bench.expose(frames * 0)
    np.testing.assert_allclose(alone[0], REFERENCE_E * intensity[1.2], rtol=1e-5)
    signal = bench.expose(frames, reference=False) / flat.expose(frames, reference=False)
    np.testing.assert_allclose(signal[0], intensity[0.8], rtol=1e-5)
    expected = np.sqrt(intensity[0.8] * intensity[1.2]).reshape(-1)
    np.testing.assert_allclose(fields(bench, frames) / fields(flat, frames), expected[None].repeat(2, 0), rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"intensity_noise": 0.2}, "intensity_noise must be from 0 to 0.18: power stays positive; got 0.2"),
        ({"reference_error": -1.0}, "reference_error must be a relative error > -1; got -1.0"),
        ({"phase_step_error": math.nan}, "phase_step_error must be a relative error > -1; got nan"),
        ({"tilt_x": 0.6}, "tilt_x must be from -0.5 to 0.5 cycles per pixel; got 0.6"),
        ({"signal_waist": 0.0}, "signal_waist must be half widths > 0, or .inf; got 0.0"),
    ],
)
def test_impossible_values_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match="must be") as error:
        Laser(**values)
    assert str(error.value) == message
