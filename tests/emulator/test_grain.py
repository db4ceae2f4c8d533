"""Speckle grain against closed forms: correlations above a pixel, contrast and interference below."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from effect_bench import REFERENCE_E, SIGNAL_E, fields, make_bench, random_frames, transmission
from scipy import special, stats

from optical_dfa.emulator import Camera, Grain, Medium
from optical_dfa.emulator.product import Backend
from optical_dfa.emulator.pupil import PupilShape

every_backend = pytest.mark.parametrize("backend", ["numpy", "auto"])
FIVE_SIGMA = stats.norm.isf(2.5e-7)  # two-sided false alarms: 5e-7


def correlation(images: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex128]:
    """⟨E(p)* E(p + Δ)⟩ over periodic images and all of them, over ⟨|E|²⟩."""
    power = (np.abs(np.fft.fft2(images)) ** 2).mean(axis=0)
    found = np.fft.ifft2(power)
    relative: npt.NDArray[np.complex128] = found / found[0, 0]
    return relative


@every_backend
@pytest.mark.parametrize("size_px", [2.0, 3.7])
@pytest.mark.parametrize("pupil", ["circular", "square"])
def test_the_field_correlates_as_the_pupil_says(size_px: float, pupil: PupilShape, backend: Backend) -> None:
    """jinc or sinc along rows, columns and a diagonal, the intensity by its square, contrast 1, mean power.

    8 images of M ≥ 3000 modes: correlations are known to 1/√(8 M), those of intensities to √8 times that; the pupil is
    round to one bin in its radius of √(M/π) ≈ 31, and its correlation to 2 % of 1. False alarms: 1e-4.
    """
    bench = make_bench(30, 3000, backend=backend, grain=Grain(size_px, pupil))
    frames = random_frames(8, 30)
    rows, columns = bench.info.image_shape
    modes = bench.propagation.n_modes
    assert (bench.info.grain_px, bench.info.pupil, modes >= 3000) == (size_px, pupil, True)
    scale = np.sqrt(SIGNAL_E * frames.sum(axis=1))[:, None, None]
    field = fields(bench, frames).reshape(8, rows, columns) / scale
    found = correlation(field)
    distance = np.arange(1, 12)
    exact = {"circular": 2 * special.j1(np.pi * distance / size_px) / (np.pi * distance / size_px)}
    exact["square"] = np.sinc(distance / size_px)
    bound = FIVE_SIGMA / (8 * modes) ** 0.5 + 0.02
    assert np.abs(found[0, 1:12] - exact[pupil]).max() < bound
    assert np.abs(found[1:12, 0] - exact[pupil]).max() < bound
    far = np.pi * distance * math.sqrt(2) / size_px
    diagonal = {"circular": 2 * special.j1(far) / far, "square": np.sinc(distance / size_px) ** 2}[pupil]
    assert np.abs(found[distance, distance] - diagonal).max() < bound

    image = bench.expose(frames, reference=False) / scale**2
    mean = image.mean()
    assert abs(mean - 1) < FIVE_SIGMA / (8 * modes) ** 0.5
    assert abs(image.std() / mean - 1) < FIVE_SIGMA * (8 / (8 * modes)) ** 0.5
    weak = correlation(image - mean) * image.var() / mean**2
    assert np.abs(weak[0, 1:12] - exact[pupil] ** 2).max() < FIVE_SIGMA * (8 / (8 * modes)) ** 0.5 + 0.02
    np.testing.assert_allclose(image, np.abs(field) ** 2, atol=1e-4)


@every_backend
@pytest.mark.parametrize("pupil", ["circular", "square"])
def test_the_image_is_the_fourier_sum_of_its_modes(pupil: PupilShape, backend: Backend) -> None:
    """Against the sum over the pupil's frequencies, written out in complex128."""
    bench = make_bench(12, 40, backend=backend, grain=Grain(3.0, pupil))
    rows, columns = bench.info.image_shape
    frequency = [(y, x) for y in np.fft.fftfreq(rows) for x in np.fft.fftfreq(columns)]
    limit = 1 / 6 + 1e-9
    inside = [k for k in frequency if (math.hypot(*k) if pupil == "circular" else max(map(abs, k))) <= limit]
    assert len(inside) == bench.propagation.n_modes
    frames = random_frames(3, 12)
    modes = frames @ transmission(12, len(inside)).T
    row, column = (index.reshape(-1) for index in np.indices((rows, columns)))
    waves = np.array([np.exp(2j * np.pi * (y * row + x * column)) for y, x in inside])
    expected = modes @ waves / math.sqrt(len(inside))
    assert np.abs(fields(bench, frames) - expected).max() < 1e-5 * np.abs(expected).max()


@every_backend
@pytest.mark.parametrize("several", [2, 4, 9])
def test_a_pixel_of_several_modes(several: int, backend: Backend) -> None:
    """Contrast 1/√M, mean unchanged, interfering part Is/M; over 40,000 pixels. False alarms: 5e-7 each.

    The intensity is a mean of M exponentials: relative variance of its mean 1/(M P), and of its standard deviation,
    by the delta method, (1 + 3/M)/(2 P) or less, with 3/M for the skewness that mean and deviation share.
    """
    pixels = 40_000
    bench = make_bench(40, pixels, backend=backend, grain=Grain(several**-0.5))
    frame = np.ones((1, 40), np.uint8)
    image = bench.expose(frame, reference=False).reshape(-1)
    assert bench.propagation.n_modes == several * pixels
    assert abs(image.mean() / (40 * SIGNAL_E) - 1) < FIVE_SIGMA / (several * pixels) ** 0.5
    spread = FIVE_SIGMA * ((1 + 3 / several) / pixels) ** 0.5
    assert abs(image.std() / image.mean() * several**0.5 - 1) < spread
    mean_field = fields(bench, frame)[0]
    assert abs(np.mean(np.abs(mean_field) ** 2) / (40 * SIGNAL_E / several) - 1) < FIVE_SIGMA / pixels**0.5


@every_backend
@pytest.mark.parametrize("several", [2, 4, 9])
def test_the_incoherent_part_is_that_of_the_modes(several: int, backend: Backend) -> None:
    """Mean of |E_j + R e^{iφ}|² over the modes of a pixel, summed one by one in complex128."""
    bench = make_bench(12, 50, backend=backend, grain=Grain(several**-0.5))
    frames, phases = random_frames(4, 12), np.array([0.0, 0.4, 2.0, -3.0])
    modes = (frames @ transmission(12, 50 * several).T).reshape(4, 50, several)
    wave = math.sqrt(REFERENCE_E) * np.exp(1j * phases)[:, None, None]
    expected = (np.abs(modes + wave) ** 2).mean(axis=2)
    np.testing.assert_allclose(bench.expose(frames, phases=phases)[:, 0], expected, rtol=1e-5)
    alone = bench.expose(frames, reference=False)[:, 0]
    np.testing.assert_allclose(alone, (np.abs(modes) ** 2).mean(axis=2), rtol=1e-5)


@every_backend
@pytest.mark.parametrize("size_px", [0.5, 2.0])
def test_the_modes_drift(size_px: float, backend: Backend) -> None:
    """Half-way between two media the field is (E₁ + E₂)/√2 of the fields at the ends."""
    medium, frames = Medium(decorrelation_tau_s=1.0), random_frames(2, 15)
    bench = make_bench(15, 60, backend=backend, medium=medium, grain=Grain(size_px))
    segment = 1.0653397
    start, middle, end = (fields(bench, frames, time_s=part * segment) for part in (0.0, 0.5, 1.0))
    still = fields(make_bench(15, 60, backend=backend, grain=Grain(size_px)), frames)
    np.testing.assert_allclose(start, still, atol=1e-4)
    np.testing.assert_allclose(middle, (start + end) / math.sqrt(2), atol=1e-4)


def test_grain_too_coarse_for_the_camera_is_refused() -> None:
    camera = Camera(False, 0.0, math.inf, 1.0, None)
    with pytest.raises(ValueError, match=r"^pixels must be at most 2,219,520: fewer outputs, finer grain; got "):
        make_bench(5, 100_000, camera=camera, grain=Grain(6.0))


@pytest.mark.parametrize("size_px", [0.0, -1.0, math.inf, math.nan, 0.9, 0.6])
def test_impossible_grains_are_refused(size_px: float) -> None:
    with pytest.raises(ValueError, match=r"^size_px must be .*; got "):
        Grain(size_px)


def test_modes_of_a_pixel() -> None:
    assert [Grain(size).modes_per_pixel for size in (1.0, 0.5, 0.707107, 0.577350269, 3.0)] == [1, 4, 2, 3, 1]
    with pytest.raises(ValueError, match=r"^pupil must be circular or square"):
        Grain(2.0, "round")  # type: ignore[arg-type]
