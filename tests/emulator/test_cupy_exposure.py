"""The camera on a GPU takes the images of Numba's, bit for bit, and of NumPy's but for one digital number in 10^4."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cupy_kinds import cupy_of, every_cupy
from fake_cupy import Fake, installed

from optical_dfa.devices.presets import load_preset
from optical_dfa.emulator import Camera, EmulatedBench, FrameStamp
from optical_dfa.emulator.exposure import Frames, Light, NumpyExposure, Pixels, make_exposure
from optical_dfa.emulator.hashing import derive_key
from optical_dfa.emulator.numba_support import why_unavailable

NOISY = Camera(shot_noise=True, read_noise_e=13.0, full_well_e=10_000.0, gain_dn_per_e=0.0255, adc_bits=8)
CAMERAS = {
    "8 bit": NOISY,
    "10 bit": dataclasses.replace(NOISY, adc_bits=10, gain_dn_per_e=0.1),
    "12 bit": dataclasses.replace(NOISY, adc_bits=12, gain_dn_per_e=0.4),
    "no shot noise": dataclasses.replace(NOISY, shot_noise=False, read_noise_e=40.0),
    "no read noise": dataclasses.replace(NOISY, read_noise_e=0.0),
    "no noise": dataclasses.replace(NOISY, shot_noise=False, read_noise_e=0.0),
    "no full well": dataclasses.replace(NOISY, full_well_e=math.inf),
    "saturating": dataclasses.replace(NOISY, full_well_e=2000.0),
}
HAS_NUMBA = why_unavailable(("fma",)) is None
LARGEST_DIFFERENCE = 0 if HAS_NUMBA else 1
"""Between the camera on a GPU and the fastest one here, digital numbers."""


@pytest.fixture
def cupy(kind: str) -> Iterator[Any]:
    with cupy_of(kind) as module:
        yield module


def frames_of(
    pattern: npt.ArrayLike, reference: npt.NDArray[np.float64], seed: int = 0, amplitude: float = 0.03
) -> Frames:
    shown = np.asarray(pattern, np.int64)
    weights = np.full((len(shown), 2), amplitude)
    return Frames(shown, weights, reference, derive_key(seed, np.arange(len(shown), dtype=np.uint64)[:, None]))


def on_gpu(cupy: Any, camera: Camera, field: Any, frames: Frames) -> Any:
    exposure = make_exposure(camera, "cupy", threaded=False, plain=True)
    assert exposure.backend == "cupy"
    images = cupy.zeros((len(frames.pattern), field.shape[1] // 2), camera.image_dtype)
    exposure(Light(cupy.asarray(field)), frames, Pixels(), 0, images)
    return images.get()


@every_cupy
@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
def test_images_are_those_of_numba_and_of_numpy(camera: Camera, cupy: Any) -> None:
    """Speckle of 4·10^5 pixel exposures with a turning reference."""
    generator = np.random.default_rng(2)
    field = np.rint(generator.standard_normal((10, 20_000)) * 500).astype(np.int32)
    angle = np.arange(40) * 0.7
    frames = frames_of(np.arange(40) // 4, 1500**0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1))
    found = on_gpu(cupy, camera, field, frames)
    numpy, numba = np.zeros_like(found), np.zeros_like(found)
    NumpyExposure(camera)(Light(field), frames, Pixels(), 0, numpy)
    assert len(np.unique(numpy)) > 50
    difference = np.abs(found.astype(int) - numpy)
    assert difference.max() <= 1
    assert np.mean(difference) < 1e-4
    make_exposure(camera, "numba", threaded=False, plain=True)(Light(field), frames, Pixels(), 0, numba)
    if HAS_NUMBA:
        np.testing.assert_array_equal(found, numba)


@every_cupy
def test_fields_of_any_size(cupy: Any) -> None:
    """Both ends of int32, and everything between, with and without light from the reference."""
    generator = np.random.default_rng(3)
    field = (generator.integers(-(1 << 31), 1 << 31, (2, 4000)) >> generator.integers(0, 32, (2, 4000))).astype(
        np.int32
    )
    field[0, :4] = [2**31 - 1, -(2**31), 0, 0]
    frames = frames_of([0, 1], np.array([[0.0, 0.0], [27.0, -27.0]]), amplitude=1.0)
    found = on_gpu(cupy, NOISY, field, frames)
    expected = np.zeros_like(found)
    make_exposure(NOISY, "numba", threaded=False, plain=True)(Light(field), frames, Pixels(), 0, expected)
    assert found[0, 0] == 255
    assert np.abs(found.astype(int) - expected).max() <= LARGEST_DIFFERENCE


@every_cupy
def test_parts_of_an_image(cupy: Any) -> None:
    """Any cut of the image and of the frames gives the same bits, from fields whose rows are apart."""
    generator = np.random.default_rng(5)
    field = np.rint(generator.standard_normal((3, 2 * 333)) * 500).astype(np.int32)
    frames = frames_of(np.arange(9) // 3, generator.standard_normal((9, 2)) * 27)
    whole = on_gpu(cupy, NOISY, field, frames)
    exposure, images, fields = (
        make_exposure(NOISY, "cupy", False, True),
        cupy.zeros((9, 333), np.uint8),
        cupy.asarray(field),
    )
    for first, stop in itertools.pairwise([0, 1, 40, 257, 333]):
        for pattern in range(3):
            which, some = frames.of_patterns(pattern, pattern + 1)
            light = Light(fields[pattern : pattern + 1, 2 * first : 2 * stop])
            exposure(light, some, Pixels(), first, images[which])
    np.testing.assert_array_equal(images.get(), whole)


@every_cupy
def test_more_frames_than_a_grid_has_rows(cupy: Any) -> None:
    frames = frames_of(np.zeros(70_000, int), np.full((70_000, 2), 20.0))
    found = on_gpu(cupy, NOISY, np.zeros((1, 4), np.int32), frames)
    last = frames_of([0], np.full((1, 2), 20.0))
    for number in (0, 65_535, 69_999):
        low, high = (half[number : number + 1] for half in frames.noise_key)
        alone = on_gpu(cupy, NOISY, np.zeros((1, 4), np.int32), dataclasses.replace(last, noise_key=(low, high)))
        np.testing.assert_array_equal(found[number], alone[0])


@every_cupy
@pytest.mark.parametrize("budget", [None, 0])
def test_a_bench_on_the_gpu(budget: int | None, cupy: Any) -> None:
    parameters = load_preset("phase-stepping", {}).bench
    benches = [EmulatedBench(20, 3000, 7, parameters, budget, "cupy"), EmulatedBench(20, 3000, 7, parameters)]
    patterns = np.random.default_rng(1).integers(0, 2, (5, 20), np.uint8)
    frames, phases = patterns.repeat(3, axis=0), np.arange(15) * 0.4
    stamp = FrameStamp(2, 50)
    found, expected = (bench.expose(frames, phases=phases, at=stamp) for bench in benches)
    assert type(found) is np.ndarray
    assert np.abs(found.astype(int) - expected).max() <= LARGEST_DIFFERENCE
    images: Any = benches[0].expose(cupy.asarray(frames), phases=phases, at=stamp)
    assert isinstance(images, cupy.ndarray)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images.get(), found)
    dark: Any = benches[0].expose(cupy.asarray(frames[:1]), reference=False, at=stamp)
    dark_of_cpu = benches[1].expose(frames[:1], reference=False, at=stamp)
    assert np.abs(dark.get().astype(int) - dark_of_cpu).max() <= LARGEST_DIFFERENCE
    assert benches[0].expose(cupy.asarray(frames[:0])).shape == (0, *benches[0].info.image_shape)
    with pytest.raises(ValueError, match="frames must be 0 \\(OFF\\) or 1 \\(ON\\) everywhere; got 'larger values'"):
        benches[0].expose(cupy.asarray(2 * frames))
    with pytest.raises(
        ValueError, match=r"frames must be a uint8 NumPy or CuPy array of shape \(frames, 20\); got 'CuPy"
    ):
        benches[0].expose(cupy.asarray(frames[:, 1:]))


def test_a_bench_elsewhere_takes_no_cupy_arrays() -> None:
    with installed(Fake()) as fake:
        frames = fake.module.zeros((2, 20), np.uint8)
        for preset, backend in (("phase-stepping", "numpy"), ("ideal", "cupy")):
            bench = EmulatedBench(20, 30, 7, load_preset(preset, {}).bench, backend=backend)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match=r"frames must be a uint8 array .*; got 'CuPy uint8"):
                bench.expose(frames)
