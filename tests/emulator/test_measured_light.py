"""The bench of measured light against the formula, pixel by pixel, and against the bench that it was taken from."""

import math
from typing import Any

import numpy as np
import pytest

from optical_dfa.emulator import (
    Apparatus,
    BenchParameters,
    Camera,
    Dmd,
    EmulatedBench,
    FrameStamp,
    Grain,
    Laser,
    MeasuredLight,
    Medium,
    Photometry,
)

SIGNAL_E, REFERENCE_E, GAIN, BLACK = 200.0, 1500.0, 0.2, 40.0
SHAPE, N = (3, 40), 7
NOISELESS = Camera(
    shot_noise=False, read_noise_e=0.0, full_well_e=math.inf, gain_dn_per_e=GAIN, adc_bits=None, black_level_dn=BLACK
)
NOISY = Camera(
    shot_noise=True, read_noise_e=13.0, full_well_e=math.inf, gain_dn_per_e=GAIN, adc_bits=12, black_level_dn=BLACK
)


def light() -> MeasuredLight:
    draw = np.random.default_rng(3)
    pixels = math.prod(SHAPE)
    matrix = draw.standard_normal((2 * pixels, N))
    reference = draw.uniform(0.8, 1.2, pixels)
    return MeasuredLight(
        SHAPE,
        (matrix / math.sqrt(np.mean(matrix**2))).astype(np.float32),
        (0.3 * draw.standard_normal(2 * pixels)).astype(np.float32),
        (reference / math.sqrt(np.mean(reference**2))).astype(np.float32),
        draw.normal(0, 2, pixels).astype(np.float32),
    )


def bench(camera: Camera, measured: MeasuredLight | None = None, **parts: Any) -> EmulatedBench:
    parameters = BenchParameters(
        Photometry(SIGNAL_E, REFERENCE_E, 400.0), camera, Apparatus(10_000, 10_000, 500.0, 30.0), **parts
    )
    return EmulatedBench(N, math.prod(SHAPE), 5, parameters, measured=light() if measured is None else measured)


def by_hand(frames: Any, phases: Any) -> Any:
    """dark + K |√Is (T x + B) / √2 + R exp(iφ)|²: rows of mean square 1, two a pixel, give a feature the mean Is."""
    given = light()
    rows = (frames.astype(np.float64) @ given.matrix.T.astype(np.float64) + given.background) * math.sqrt(SIGNAL_E / 2)
    field = rows[:, 0::2] + 1j * rows[:, 1::2]
    wave = math.sqrt(REFERENCE_E) * given.reference * np.exp(1j * phases)[:, None]
    return (GAIN * np.abs(field + wave) ** 2 + BLACK + given.dark_dn).reshape(len(frames), *SHAPE)


FRAMES = np.random.default_rng(1).integers(0, 2, (12, N), np.uint8)
PHASES = np.random.default_rng(2).uniform(0, 6, 12)


def test_images_without_noise_are_the_formula() -> None:
    """Fields are rounded to float32."""
    images = bench(NOISELESS).expose(FRAMES, phases=PHASES, at=FrameStamp(0, 0))
    np.testing.assert_allclose(images, by_hand(FRAMES, PHASES), rtol=2e-6, atol=2e-3)


def test_noise_is_that_of_the_camera_about_the_formula() -> None:
    """Mean of (reading - formula)² / (K² (light + s²) + 1/12) over 240,000 readings; 4.9 √(2/N): false alarms 1e-6."""
    frames, phases = np.repeat(FRAMES, 167, axis=0), np.repeat(PHASES, 167)
    mean = by_hand(frames, phases)
    images = bench(NOISY).expose(frames, phases=phases, at=FrameStamp(0, 0)).astype(np.float64)
    variance = GAIN * (mean - BLACK - light().dark_dn.reshape(SHAPE)) + (GAIN * 13.0) ** 2 + 1 / 12
    chi_square = np.mean((images - mean) ** 2 / variance)
    assert chi_square == pytest.approx(1, abs=4.9 * math.sqrt(2 / images.size))


def test_images_do_not_depend_on_how_frames_are_split() -> None:
    twin = bench(NOISY, medium=Medium(decorrelation_tau_s=1.0, vibration_rad=0.1))
    whole = twin.expose(FRAMES, phases=PHASES, at=FrameStamp(0, 0))
    parts = [twin.expose(FRAMES[n : n + 1], phases=PHASES[n : n + 1], at=FrameStamp(0, n)) for n in range(12)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_medium_that_drifts_leaves_the_measured_light() -> None:
    """cos θ of the field after a time, from 4 steps without noise; what it turns to is independent, 1/√(2 · 840)."""
    still, later = bench(NOISELESS), bench(NOISELESS, medium=Medium(decorrelation_tau_s=100.0))
    steps = np.arange(4) * np.pi / 2
    patterns = np.repeat(np.eye(N, dtype=np.uint8), 4, axis=0)

    def fields(which: EmulatedBench, time_s: float) -> Any:
        each = [
            which.expose(patterns[n : n + 1], phases=steps[n % 4 : n % 4 + 1], at=FrameStamp(0, n, time_s))[0]
            for n in range(len(patterns))
        ]
        images = np.stack(each).reshape(N, 4, -1)
        return (images[:, 0] - images[:, 2]) + 1j * (images[:, 1] - images[:, 3])

    before, after = fields(still, 0.0), fields(later, 30.0)
    before -= np.mean(before, axis=0)  # the background turns to nothing, not to another one
    after -= np.mean(after, axis=0)
    overlap = np.vdot(before, after).real / np.vdot(before, before).real
    angle = 30.0 / (1.0653397 * 100.0) * math.pi / 2
    assert overlap == pytest.approx(math.cos(angle), abs=4.9 * math.sin(angle) / math.sqrt(2 * 720))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"dmd": Dmd(contrast=100.0)}, "dmd must be off: measured light holds it already"),
        ({"grain": Grain(size_px=2.0)}, "grain must be off: measured light holds it already"),
        ({"laser": Laser(tilt_x=0.1)}, "laser.tilt_x must be off: measured light holds it already; got 0.1"),
        ({"laser": Laser(signal_waist=2.0)}, "laser.signal_waist must be off: measured light holds it already; got 2"),
    ],
)
def test_what_measured_light_holds_is_refused_a_second_time(parts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bench(NOISELESS, **parts)


def test_sizes_that_were_not_measured_are_refused() -> None:
    parameters = bench(NOISELESS).parameters
    with pytest.raises(ValueError, match="n_inputs must be at most 7, the inputs that were measured; got 8"):
        EmulatedBench(8, 10, 0, parameters, measured=light())
    with pytest.raises(ValueError, match="pixels must be at most 120, those that were measured; got 121"):
        EmulatedBench(7, 121, 0, parameters, measured=light())
    good = light()
    with pytest.raises(ValueError, match=r"background must be float32 of shape \(240,\), finite"):
        MeasuredLight(SHAPE, good.matrix, good.background[:-1], good.reference, good.dark_dn)
