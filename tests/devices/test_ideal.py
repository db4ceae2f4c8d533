"""The ideal emulator is the digital device bit for bit, and gets there through frames, images and the readout."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from optical_dfa.devices import Usage, emulated, make_device
from optical_dfa.emulator import EmulatedBench

Images = npt.NDArray[Any]


class Spy:
    """Takes down what `EmulatedBench.expose` was asked for and what it gave."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.frames: list[npt.NDArray[np.uint8]] = []
        self.phases: list[float] = []
        self.first_frames: list[int] = []
        self.images: list[Images] = []
        expose = EmulatedBench.expose

        def watched(bench: EmulatedBench, frames: npt.NDArray[np.uint8], **options: Any) -> Images:
            images = expose(bench, frames, **options)
            self.frames.append(frames)
            self.phases.extend(options["phases"])
            self.first_frames.append(options["at"].first_frame)
            self.images.append(images)
            return images

        monkeypatch.setattr(EmulatedBench, "expose", watched)


def ternary(batch: int, n_inputs: int) -> npt.NDArray[np.int8]:
    """Random vectors with dark sides: of every four, one is zero, one has no +1 and one has no -1."""
    vectors = np.random.default_rng(n_inputs + batch).integers(-1, 2, (batch, n_inputs), np.int8)
    vectors[1::4] = 0
    vectors[2::4] = -np.abs(vectors[2::4])
    vectors[3::4] = np.abs(vectors[3::4])
    return vectors


def both(n_inputs: int, n_outputs: int, vectors: npt.NDArray[np.int8], seed: int = 0) -> tuple[Any, Any, Usage]:
    """Fields of the digital device and of the ideal emulator, and the usage of the latter."""
    sizes = {"n_inputs": n_inputs, "n_outputs": n_outputs, "seed": seed}
    with make_device("digital", **sizes) as digital, make_device("emulator", preset="ideal", **sizes) as ideal:
        assert ideal.info.exact
        return digital.project(vectors), ideal.project(vectors), ideal.usage


@pytest.mark.parametrize(
    ("n_inputs", "n_outputs", "batch"),
    [(1, 1, 4), (10, 511, 16), (10, 512, 16), (300, 7, 9), (3000, 101, 5), (37, 9001, 3), (20_000, 3, 4)],
)
def test_ideal_equals_digital_through_the_bench(
    n_inputs: int, n_outputs: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    vectors = ternary(batch, n_inputs)
    digital, ideal, usage = both(n_inputs, n_outputs, vectors, seed=n_inputs)
    assert digital.dtype == ideal.dtype == np.float32
    np.testing.assert_array_equal(ideal, digital)

    lit = np.count_nonzero((vectors > 0).any(axis=1)) + np.count_nonzero((vectors < 0).any(axis=1))
    shown = sum(len(frames) for frames in spy.frames)
    assert shown == 4 * lit == usage.frames > 0
    assert usage.frames + usage.frames_skipped == 8 * batch
    assert all(images.dtype == np.float64 and images.std() > 0 for images in spy.images)
    assert usage.pixel_readings == sum(images.size for images in spy.images)
    assert usage.saturated_pixels == 0


def test_each_lit_side_is_shown_in_four_steps_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """+ before -, dark sides left out, phases 0, π/2, π, 3π/2."""
    spy = Spy(monkeypatch)
    vectors = np.array([[1, -1, 0], [0, 0, 0], [0, -1, -1], [1, 1, 0]], np.int8)
    both(3, 8, vectors)
    sides = [[1, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 0]]
    assert np.concatenate(spy.frames).tolist() == [side for side in sides for _ in range(4)]
    assert spy.phases == pytest.approx([0, np.pi / 2, np.pi, 3 * np.pi / 2] * 4)


def test_a_dark_batch_displays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    digital, ideal, usage = both(6, 10, np.zeros((5, 6), np.int8))
    assert spy.frames == []
    assert not ideal.any()
    np.testing.assert_array_equal(ideal, digital)
    assert (usage.vectors, usage.frames, usage.frames_skipped, usage.device_seconds) == (5, 0, 40, 0)


@pytest.mark.parametrize("vectors_at_once", [1, 3, 8])
def test_a_batch_displayed_in_parts_is_the_same(vectors_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    vectors = ternary(22, 40)
    per_vector = 8 * (40 + 3 * 26)  # 8 frames of 40 inputs and 26 pixels, 3 bytes each
    monkeypatch.setattr(emulated, "MIN_CHUNK", 1)
    monkeypatch.setattr(emulated, "CHUNK_BYTES", vectors_at_once * per_vector)
    digital, ideal, usage = both(40, 51, vectors)
    np.testing.assert_array_equal(ideal, digital)
    assert len(spy.frames) == sum(vectors[i : i + vectors_at_once].any() for i in range(0, 22, vectors_at_once))
    lengths = [len(frames) for frames in spy.frames]
    assert spy.first_frames == [sum(lengths[:i]) for i in range(len(lengths))]
    assert sum(lengths) == usage.frames


@pytest.mark.parametrize(
    ("photometry", "exact"),
    [
        ({}, True),
        ({"signal_e_per_feature": 3859.09375 / 4, "reference_e": 2.0**20}, True),
        ({"signal_e_per_feature": 3859.09375 * 2}, False),
        ({"reference_e": 1500.0}, False),
    ],
    ids=["preset", "other powers of two", "amplitude √2", "R not a power of two"],
)
def test_exactness_is_claimed_for_powers_of_two_alone(photometry: dict[str, float], exact: bool) -> None:
    """Where it is claimed it holds to the bit; elsewhere rounding of 1e-16 of R² is left, here 1e-7 of the field."""
    sizes = {"n_inputs": 50, "n_outputs": 60}
    vectors = ternary(8, 50)
    with make_device("digital", **sizes) as digital:
        expected = digital.project(vectors)
    with make_device("emulator", preset="ideal", photometry=photometry, **sizes) as device:
        assert device.info.exact == exact
        fields = device.project(vectors)
    np.testing.assert_allclose(fields, expected, rtol=0, atol=0 if exact else 1e-5)


@pytest.mark.parametrize(
    "camera",
    [{"shot_noise": True}, {"read_noise_e": 1.0}, {"adc_bits": 12}, {"full_well_e": 1e9}, {"gain_dn_per_e": 0.3}],
    ids=lambda camera: next(iter(camera)),
)
def test_a_camera_that_spoils_the_image_is_not_exact(camera: dict[str, Any]) -> None:
    assert not make_device("emulator", preset="ideal", n_inputs=5, n_outputs=6, camera=camera).info.exact
