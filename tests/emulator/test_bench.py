"""The emulated bench against the plain formula |amplitude · T·x + R·exp(iφ)|², and its rules on noise and input."""

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from optical_dfa.emulator import (
    Apparatus,
    BenchParameters,
    Camera,
    EmulatedBench,
    FrameStamp,
    Photometry,
    exposure,
    numba_product,
    numpy_product,
    reference,
)
from optical_dfa.emulator.matrix import TABLE, VARIANCE
from optical_dfa.emulator.numpy_product import Consumer
from optical_dfa.emulator.product import Backend

NOISELESS = Camera(shot_noise=False, read_noise_e=0.0, full_well_e=math.inf, gain_dn_per_e=1.0, adc_bits=None)
NOISY = Camera(shot_noise=True, read_noise_e=13.0, full_well_e=10_000.0, gain_dn_per_e=0.0255, adc_bits=8)
PHOTOMETRY = Photometry(signal_e_per_feature=30.0, reference_e=1500.0, exposure_us=400.0)
APPARATUS = Apparatus(dmd_mirrors=1_039_680, camera_pixels=2_219_520, min_frame_time_us=500.0, power_w=30.0)

Frames = npt.NDArray[np.uint8]


def make_bench(
    n_frame_inputs: int, n_pixels: int, *, camera: Camera = NOISELESS, seed: int = 3, backend: Backend = "auto"
) -> EmulatedBench:
    parameters = BenchParameters(PHOTOMETRY, camera, APPARATUS)
    return EmulatedBench(n_frame_inputs, n_pixels, seed, parameters, backend=backend)


def random_frames(count: int, n_frame_inputs: int) -> Frames:
    return np.random.default_rng(count).integers(0, 2, (count, n_frame_inputs), np.uint8)


def plain_images(
    seed: int, frames: Frames, pixels: int, signal_e: float, reference_wave: npt.NDArray[np.complex128]
) -> npt.NDArray[np.float64]:
    """Electrons in complex128: one ON feature gives `signal_e` on average, |field|² has the mean 2 · VARIANCE."""
    quadratures = reference.matrix(seed, 2 * pixels, frames.shape[1]).astype(np.float64)
    transmission = (quadratures[0::2] + 1j * quadratures[1::2]) * np.sqrt(signal_e / (2 * VARIANCE))
    field = np.stack([transmission[:, frame == 1].sum(axis=1) for frame in frames])
    images: npt.NDArray[np.float64] = np.abs(field + reference_wave[:, None]) ** 2
    return images


@pytest.mark.parametrize(("n_frame_inputs", "n_pixels"), [(1, 1), (50, 37), (1500, 300)])
def test_images_are_the_interference_of_speckle_and_reference(n_frame_inputs: int, n_pixels: int) -> None:
    frames = random_frames(6, n_frame_inputs)
    phases = np.random.default_rng(0).uniform(-10, 10, 6)
    images = make_bench(n_frame_inputs, n_pixels).expose(frames, phases=phases)
    expected = plain_images(3, frames, n_pixels, 30.0, np.sqrt(1500) * np.exp(1j * phases))
    assert images.dtype == np.float64
    assert images.shape == (6, 1, n_pixels)
    np.testing.assert_allclose(images[:, 0], expected, rtol=1e-11, atol=1e-9)


def test_without_phases_the_reference_has_phase_zero() -> None:
    frames = random_frames(3, 20)
    images = make_bench(20, 9).expose(frames)
    np.testing.assert_allclose(images[:, 0], plain_images(3, frames, 9, 30.0, np.full(3, 1500**0.5 + 0j)), rtol=1e-11)


def test_the_reference_can_be_blocked() -> None:
    frames = random_frames(3, 20)
    images = make_bench(20, 9).expose(frames, reference=False)
    np.testing.assert_allclose(images[:, 0], plain_images(3, frames, 9, 30.0, np.zeros(3, complex)), rtol=1e-11)


def test_a_converted_image_is_the_same_light_in_digital_numbers() -> None:
    """float32 photometry is good to 1e-6 of 4095: the rounding error 0.5 grows by less than 0.01."""
    camera = dataclasses.replace(NOISELESS, gain_dn_per_e=0.3, adc_bits=12)
    frames, phases = random_frames(5, 40), np.arange(5.0)
    images = make_bench(40, 500, camera=camera).expose(frames, phases=phases)
    expected = 0.3 * plain_images(3, frames, 500, 30.0, np.sqrt(1500) * np.exp(1j * phases))
    assert images.dtype == np.uint16
    assert np.abs(images[:, 0] - np.minimum(expected, 4095)).max() < 0.51


def test_quarter_turns_of_the_reference_are_exact() -> None:
    """All features OFF leave the reference alone, exactly `reference_e` in each of the four steps."""
    images = make_bench(8, 5).expose(np.zeros((4, 8), np.uint8), phases=np.arange(4) * np.pi / 2)
    np.testing.assert_allclose(images, 1500.0, rtol=1e-15)


def test_mean_signal_is_the_stated_one_per_feature() -> None:
    """Mean of 10^5 pixels with one feature ON, and with 100.

    One: the intensity of a pixel has the relative variance (κ - 1)/2, κ the kurtosis of the table; 100: nearly 1.
    False alarms: 5e-7 each.
    """
    pixels, bound = 100_000, stats.norm.isf(2.5e-7)
    kurtosis = np.mean(TABLE.astype(np.float64) ** 4) / VARIANCE**2
    emulated = make_bench(100, pixels)
    frames = np.ones((2, 100), np.uint8)
    frames[0, 1:] = 0
    one, hundred = emulated.expose(frames, reference=False).reshape(2, -1)
    assert abs(one[:pixels].mean() / 30 - 1) < bound * ((kurtosis - 1) / 2 / pixels) ** 0.5
    assert abs(hundred[:pixels].mean() / 3000 - 1) < bound / pixels**0.5


def test_speckle_contrast_is_one() -> None:
    """σ/μ of exponential intensities is 1 with the standard error 1/√N (delta method). False alarms: 1e-6."""
    pixels = 50_000
    image = make_bench(200, pixels).expose(random_frames(1, 200), reference=False).reshape(-1)
    assert abs(image.std() / image.mean() - 1) < stats.norm.isf(5e-7) / pixels**0.5


def test_exposure_scales_the_signal_and_not_the_reference() -> None:
    emulated, frames = make_bench(30, 11), random_frames(2, 30)
    emulated.configure(exposure_us=1000.0, reference_e=700.0)
    images = emulated.expose(frames)
    expected = plain_images(3, frames, 11, 30.0 * 1000 / 400, np.full(2, 700**0.5 + 0j))
    np.testing.assert_allclose(images[:, 0], expected, rtol=1e-11)
    emulated.configure(exposure_us=400.0, reference_e=1500.0)
    np.testing.assert_array_equal(emulated.expose(frames), make_bench(30, 11).expose(frames))


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("exposure_us", 0.5, "from 1 to 1e+06"),
        ("exposure_us", 2e6, "from 1 to 1e+06"),
        ("exposure_us", math.nan, "from 1 to 1e+06"),
        ("reference_e", -1.0, "a finite number ≥ 0, electrons"),
        ("reference_e", math.inf, "a finite number ≥ 0, electrons"),
    ],
)
def test_impossible_settings_are_refused_and_change_nothing(name: str, value: float, accepted: str) -> None:
    emulated, frames = make_bench(30, 11), random_frames(2, 30)
    before = emulated.expose(frames)
    with pytest.raises(ValueError, match=name) as error:
        emulated.configure(**{"exposure_us": 500.0, "reference_e": 100.0, name: value})
    assert str(error.value) == f"{name} must be {accepted}; got {value!r}"
    np.testing.assert_array_equal(emulated.expose(frames), before)


def test_equal_neighbours_share_one_propagation(monkeypatch: pytest.MonkeyPatch) -> None:
    emulated = make_bench(25, 40, camera=NOISY)
    a, b = random_frames(2, 25)
    frames, phases = np.stack([a, a, a, b, a, a]), np.arange(6.0)
    stamp = FrameStamp(0, 100)
    single = [emulated.expose(frames[i : i + 1], phases=phases[i : i + 1], at=FrameStamp(0, 100 + i)) for i in range(6)]
    stream, propagated = emulated.product.stream, []

    def counted(vectors: Frames, consume: Consumer) -> None:
        propagated.append(vectors)
        stream(vectors, consume)

    monkeypatch.setattr(emulated.product, "stream", counted)
    images = emulated.expose(frames, phases=phases, at=stamp)
    assert len(propagated) == 1
    np.testing.assert_array_equal(propagated[0], [a, b, a])
    np.testing.assert_array_equal(images, np.concatenate(single))


every_backend = pytest.mark.parametrize("backend", ["numpy", "auto"])


@every_backend
@pytest.mark.parametrize("size", [1, 4, 7])
def test_images_do_not_depend_on_the_split_into_calls(size: int, backend: Backend) -> None:
    emulated, frames = make_bench(25, 301, camera=NOISY, backend=backend), random_frames(20, 25)
    phases = np.arange(20.0)
    whole = emulated.expose(frames, phases=phases, at=FrameStamp(2, 50))
    parts = [
        emulated.expose(frames[i : i + size], phases=phases[i : i + size], at=FrameStamp(2, 50 + i))
        for i in range(0, 20, size)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@every_backend
@pytest.mark.parametrize("block", [1, 300, 1000, 1 << 20])
def test_images_do_not_depend_on_blocks_and_threads(
    block: int, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.repeat(random_frames(20, 6), 3, axis=0)
    expected = make_bench(6, 301, camera=NOISY, backend=backend).expose(frames, at=FrameStamp(0, 0))
    monkeypatch.setattr(exposure, "BLOCK_PIXELS", block)
    monkeypatch.setattr(exposure, "THREAD_PIXELS", block)
    monkeypatch.setattr(exposure, "n_threads", lambda: 3)
    monkeypatch.setattr(numpy_product, "STREAM_BYTES", block)
    monkeypatch.setattr(numba_product, "FIELD_BYTES", block)
    monkeypatch.setattr(numba_product, "BATCHES", (7, 7))
    for storage_budget in (0, 1 << 30):  # with `auto` the Numba product does the first, the NumPy product the second
        parameters = BenchParameters(PHOTOMETRY, NOISY, APPARATUS)
        emulated = EmulatedBench(6, 301, 3, parameters, storage_budget, backend)
        np.testing.assert_array_equal(emulated.expose(frames, at=FrameStamp(0, 0)), expected)


@every_backend
def test_pixels_do_not_depend_on_the_size_of_the_image(backend: Backend) -> None:
    frames, stamp = random_frames(5, 25), FrameStamp(1, 2)
    large = make_bench(25, 5000, camera=NOISY, backend=backend).expose(frames, at=stamp)
    assert large.shape == (5, 3, 1667)
    for pixels in (1, 10, 333, 2040):
        small = make_bench(25, pixels, camera=NOISY, backend=backend).expose(frames, at=stamp)
        np.testing.assert_array_equal(small.reshape(5, -1), large.reshape(5, -1)[:, :pixels])


def test_storage_of_the_matrix_does_not_matter() -> None:
    frames, stamp = random_frames(5, 25), FrameStamp(1, 2)
    parameters = BenchParameters(PHOTOMETRY, NOISY, APPARATUS)
    stored, procedural = (EmulatedBench(25, 300, 3, parameters, budget, "numpy") for budget in (1 << 30, 0))
    assert (stored.product.plan.storage, procedural.product.plan.storage) == ("stored", "procedural")
    np.testing.assert_array_equal(stored.expose(frames, at=stamp), procedural.expose(frames, at=stamp))


@pytest.mark.parametrize("other", [FrameStamp(1, 0), FrameStamp(0, 1), FrameStamp((1 << 64) - 1, 0)])
def test_other_streams_and_frames_have_other_noise(other: FrameStamp) -> None:
    """10^4 dark pixels of 40 e- read noise, without a converter: correlation below 4.9/√N. False alarms: 1e-6."""
    camera = dataclasses.replace(NOISELESS, read_noise_e=40.0)
    emulated, dark = make_bench(5, 10_000, camera=camera), np.zeros((1, 5), np.uint8)
    first, second = (
        emulated.expose(dark, reference=False, at=at).reshape(-1)[:10_000] for at in (FrameStamp(0, 0), other)
    )
    assert first.std() == pytest.approx(40, rel=4.9 / 20_000**0.5)
    assert abs(np.corrcoef(first, second)[0, 1]) < 4.9 / 100


def test_seeds_have_other_noise_and_other_speckle() -> None:
    frames, stamp = random_frames(1, 25), FrameStamp(0, 0)
    images = [make_bench(25, 50, camera=NOISY, seed=seed).expose(frames, at=stamp) for seed in (0, 1)]
    assert (images[0] != images[1]).mean() > 0.5


def test_calls_without_a_stamp_continue_stream_zero() -> None:
    frames = random_frames(9, 25)
    expected = make_bench(25, 60, camera=NOISY).expose(frames, at=FrameStamp(0, 0))
    emulated = make_bench(25, 60, camera=NOISY)
    first = emulated.expose(frames[:4])
    emulated.expose(frames, at=FrameStamp(0, 77))  # a stamped call does not count
    with pytest.raises(ValueError, match="phases"):  # nor does a refused one
        emulated.expose(frames, phases=np.zeros(2))
    np.testing.assert_array_equal(np.concatenate([first, emulated.expose(frames[4:])]), expected)


def test_no_frames_give_no_images() -> None:
    images = make_bench(25, 3000, camera=NOISY).expose(np.zeros((0, 25), np.uint8), phases=np.zeros(0))
    assert images.shape == (0, 2, 1500)
    assert images.dtype == np.uint8


@pytest.mark.parametrize(
    ("frames", "given", "accepted"),
    [
        (np.zeros((2, 25), np.int8), "'int8 (2, 25)'", "a uint8 array of shape (frames, 25)"),
        (np.zeros((2, 25), bool), "'bool (2, 25)'", "a uint8 array of shape (frames, 25)"),
        (np.zeros((2, 24), np.uint8), "'uint8 (2, 24)'", "a uint8 array of shape (frames, 25)"),
        (np.zeros(25, np.uint8), "'uint8 (25,)'", "a uint8 array of shape (frames, 25)"),
        ([[0] * 25], "'list'", "a uint8 array of shape (frames, 25)"),
        (np.full((2, 25), 2, np.uint8), "'larger values'", "0 (OFF) or 1 (ON) everywhere"),
        (np.full((2, 25), 255, np.uint8), "'larger values'", "0 (OFF) or 1 (ON) everywhere"),
    ],
    ids=["int8", "bool", "width", "1-D", "list", "two", "minus one as uint8"],
)
def test_bad_frames_are_refused(frames: Any, given: str, accepted: str) -> None:
    with pytest.raises(ValueError, match="frames must be") as error:
        make_bench(25, 9).expose(frames)
    assert str(error.value) == f"frames must be {accepted}; got {given}"


@pytest.mark.parametrize(
    "phases",
    [
        np.zeros(3),
        np.zeros((2, 1)),
        np.array(0.0),
        np.array([0.0, np.nan]),
        np.array([np.inf, 0.0]),
        [0.0, 0.0],
        np.array([0, 1j]),
        np.array(["0", "1"]),
    ],
    ids=["three", "2-D", "0-D", "NaN", "infinite", "list", "complex", "text"],
)
def test_bad_phases_are_refused(phases: Any) -> None:
    with pytest.raises(ValueError, match=r"^phases must be .*; got "):
        make_bench(25, 9).expose(np.zeros((2, 25), np.uint8), phases=phases)


@pytest.mark.parametrize(
    ("n_frame_inputs", "n_pixels", "message"),
    [
        (1_039_681, 1, "inputs must be 1 … 1,039,680, one DMD mirror or more each; got 1,039,681"),
        (0, 1, "inputs must be 1 … 1,039,680, one DMD mirror or more each; got 0"),
        (1, 2_219_521, "pixels must be 1 … 2,219,520, the size of the camera; got 2,219,521"),
        (1, 0, "pixels must be 1 … 2,219,520, the size of the camera; got 0"),
    ],
)
def test_sizes_beyond_the_hardware_are_refused(n_frame_inputs: int, n_pixels: int, message: str) -> None:
    with pytest.raises(ValueError, match="must be 1") as error:
        make_bench(n_frame_inputs, n_pixels)
    assert str(error.value) == message


def test_the_largest_sizes_are_accepted() -> None:
    emulated = make_bench(1_039_680, 2_219_520)
    assert emulated.info.image_shape == (1088, 2040)
    assert emulated.product.plan.storage == "procedural"


@pytest.mark.parametrize(
    ("n_pixels", "shape"), [(1, (1, 1)), (2040, (1, 2040)), (2041, (2, 1021)), (5000, (3, 1667)), (6120, (3, 2040))]
)
def test_image_is_the_smallest_rectangle(n_pixels: int, shape: tuple[int, int]) -> None:
    """Rows of at most 2040 pixels, as few as possible: the readout time counts them."""
    assert make_bench(3, n_pixels).info.image_shape == shape


def test_info_repeats_the_parameters() -> None:
    info = make_bench(3, 5, camera=NOISY).info
    assert (info.n_frame_inputs, info.adc_bits, info.saturation_dn, info.gain_dn_per_e) == (3, 8, 255, 0.0255)
    assert (info.has_reference, info.has_phase_modulator) == (True, True)


@pytest.mark.parametrize(
    ("n_pixels", "exposure_us", "frame_time_us"),
    [
        (1, 400.0, 500.0),
        (316_000, 400.0, 500.0),
        (316_200, 400.0, 500.0),  # 155 rows: 448.8 µs + 50 µs
        (316_201, 400.0, 501.5),  # 156 rows
        (1_000_000, 400.0, 1401.8),
        (2_219_520, 400.0, 3006.25),
        (1, 2000.0, 2050.0),
    ],
)
def test_frame_time_follows_the_vendor_rule(n_pixels: int, exposure_us: float, frame_time_us: float) -> None:
    """2.6875 µs a row of 2040 pixels + 32.25 µs; 500 µs to 316k pixels, 1.40 ms at 1.0M, 3.0 ms at 2.22M."""
    assert APPARATUS.frame_time_us(n_pixels, exposure_us) == pytest.approx(frame_time_us, abs=0.02)


def test_frame_time_of_a_bench_follows_its_exposure() -> None:
    emulated = make_bench(3, 5000)
    assert emulated.frame_time_us == 500.0
    emulated.configure(exposure_us=900.0, reference_e=1.0)
    assert emulated.frame_time_us == 950.0


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_impossible_photometry_and_apparatus_are_refused(value: float) -> None:
    parts: list[Any] = [PHOTOMETRY, APPARATUS]
    for part in parts:
        for field in dataclasses.fields(part):
            with pytest.raises(ValueError, match=f"^{field.name} must be a finite number > 0; got {value!r}$"):
                dataclasses.replace(part, **{field.name: value})
