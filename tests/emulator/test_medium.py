"""The medium over time against closed forms: decorrelation between any two times, drift of the phase, vibration."""

import math

import numpy as np
import pytest
from effect_bench import NOISY, SEED, SIGNAL_E, fields, make_bench, random_frames
from scipy import stats

from optical_dfa.emulator import FrameStamp, Grain, Medium, field_correlation
from optical_dfa.emulator.medium import SEGMENT_TAUS, random_walk
from optical_dfa.emulator.product import Backend

every_backend = pytest.mark.parametrize("backend", ["numpy", "auto"])
FIVE_SIGMA = stats.norm.isf(2.5e-7)  # two-sided false alarms: 5e-7
SEGMENT_S = 10.0
DRIFTING = Medium(decorrelation_tau_s=SEGMENT_S / SEGMENT_TAUS)


def between(first: float, second: float) -> float:
    """Correlation between two times, in segments: T(t) = cos θ T_m + sin θ T_{m+1} of independent T_m."""
    (m, u), (n, v) = divmod(first, 1.0), divmod(second, 1.0)
    a, b = u * np.pi / 2, v * np.pi / 2
    if n == m:
        return math.cos(b - a)
    return math.sin(a) * math.cos(b) if n == m + 1 else 0.0


TIMES = [(0.0, 0.0), (0.0, 0.5), (0.2, 0.9), (0.0, 1.0), (0.6, 1.3), (1.9, 2.4), (0.5, 2.0), (3.5, 4.5), (0.3, 2.7)]


@every_backend
@pytest.mark.parametrize("size_px", [1.0, 0.5, 2.0])
def test_fields_correlate_between_any_two_times(size_px: float, backend: Backend) -> None:
    """Over N modes a correlation is known to 1/√(2N), or better; variance and mean power stay. False alarms: 1e-5."""
    modes = 12_000
    grain = Grain(size_px, "square")
    bench = make_bench(20, modes, backend=backend, medium=DRIFTING, grain=grain)
    frame = np.ones((1, 20), np.uint8)
    seen = {t: fields(bench, frame, t * SEGMENT_S)[0] for t in sorted({t for pair in TIMES for t in pair})}
    power = 20 * SIGNAL_E / grain.modes_per_pixel
    for first, second in TIMES:
        found = np.mean(seen[first].conj() * seen[second]) / power
        assert abs(found - between(first, second)) < FIVE_SIGMA / modes**0.5 + 1e-6


@every_backend
def test_intensities_correlate_by_the_square(backend: Backend) -> None:
    """Without the reference. ⟨I₁I₂⟩/⟨I⟩² - 1 = γ², known to √(8/N) or better. False alarms: 5e-7 each."""
    pixels = 40_000
    bench = make_bench(20, pixels, backend=backend, medium=DRIFTING)
    frame = np.ones((1, 20), np.uint8)
    for first, second in TIMES[1:6]:
        one, two = (
            bench.expose(frame, reference=False, at=FrameStamp(0, 0, t * SEGMENT_S)).reshape(-1) / (20 * SIGNAL_E)
            for t in (first, second)
        )
        assert abs(np.mean((one - 1) * (two - 1)) - between(first, second) ** 2) < FIVE_SIGMA * (8 / pixels) ** 0.5


def test_the_mean_law() -> None:
    """`field_correlation` is the mean over the beginning, 1/e at τ and 0 beyond two segments."""
    starts = (np.arange(4000) + 0.5) / 4000
    for lag in (0.0, 0.1, 0.5, 1.0, 1.4, 1.99, 2.5):
        mean = np.mean([between(start, start + lag) for start in starts])
        assert field_correlation(lag * SEGMENT_TAUS * 7.0, 7.0) == pytest.approx(mean, abs=1e-6)
    assert field_correlation(7.0, 7.0) == pytest.approx(math.exp(-1), abs=1e-7)
    assert field_correlation(np.array([0.0, 1e9]), 7.0).tolist() == [1, pytest.approx(0, abs=1e-16)]


def test_mixture() -> None:
    number, angle = DRIFTING.mixture(np.array([0.0, 5.0, 10.0, 27.5]))
    assert number.tolist() == [0, 0, 1, 2]
    assert angle == pytest.approx([0, np.pi / 4, 0, 0.75 * np.pi / 2], abs=1e-12)
    assert (Medium().frozen, DRIFTING.frozen) == (True, False)


@every_backend
@pytest.mark.parametrize("size_px", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("cut", [1, 3, 7])
def test_images_do_not_depend_on_the_split_across_a_segment(cut: int, size_px: float, backend: Backend) -> None:
    """20 frames of 500 µs, a medium that has passed to its next matrix every 3 ms, noise, drift and vibration."""
    medium = Medium(decorrelation_tau_s=0.003 / SEGMENT_TAUS, piston_walk_rad=30.0, vibration_rad=0.1)
    grain = Grain(size_px)
    bench = make_bench(15, 301, backend=backend, camera=NOISY, medium=medium, grain=grain)
    frames = np.repeat(random_frames(10, 15), 2, axis=0)
    phases = np.arange(20.0)
    whole = bench.expose(frames, phases=phases, at=FrameStamp(4, 100))
    parts = [
        bench.expose(frames[i : i + cut], phases=phases[i : i + cut], at=FrameStamp(4, 100 + i))
        for i in range(0, 20, cut)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(bench.expose(frames[:1], phases=phases[:1], at=FrameStamp(4, 100)), whole[:1])


def test_the_time_of_a_request_is_honoured() -> None:
    medium = Medium(decorrelation_tau_s=2.0, piston_walk_rad=1.0)
    bench, frames = make_bench(15, 50, medium=medium), random_frames(4, 15)
    by_number = bench.expose(frames, at=FrameStamp(1, 10_000))
    np.testing.assert_allclose(bench.expose(frames, at=FrameStamp(1, 3, 5.0)), by_number, rtol=1e-9)
    assert np.abs(bench.expose(frames, at=FrameStamp(1, 10_000, 0.0)) / by_number - 1).max() > 0.1
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"^time_s must be a finite number ≥ 0, seconds; got "):
            bench.expose(frames, at=FrameStamp(1, 0, wrong))


@pytest.mark.parametrize("spacing", [1, 500, 1 << 30])
def test_the_walk_is_brownian(spacing: int) -> None:
    """Increments over any step, and over sums of steps: normal, of the step's variance, independent.

    16,384 increments: variance to √(2/N), mean and correlation with the next to 1/√N, KS at 1e-4. False alarms: 1e-4.
    """
    n = 1 << 14
    walk = random_walk(SEED, 2, np.arange(n + 1, dtype=np.uint64) * np.uint64(spacing))
    steps = np.diff(walk) / math.sqrt(spacing)
    assert walk[0] == 0
    assert abs(steps.var() - 1) < FIVE_SIGMA * (2 / n) ** 0.5
    assert abs(steps.mean()) < FIVE_SIGMA / n**0.5
    for lag in (1, 2, 7):
        assert abs(np.mean(steps[lag:] * steps[:-lag])) < FIVE_SIGMA / (n - lag) ** 0.5
    assert stats.kstest(steps, "norm").pvalue > 1e-4
    coarse = np.diff(walk[::64]) / math.sqrt(64 * spacing)
    assert abs(coarse.var() - 1) < FIVE_SIGMA * (2 / len(coarse)) ** 0.5


def test_the_walk_does_not_depend_on_who_asks_for_what() -> None:
    generator = np.random.default_rng(1)
    ticks = generator.integers(0, 1 << 40, 60, dtype=np.uint64)
    together = random_walk(1, 0, ticks)
    np.testing.assert_array_equal(random_walk(1, 0, ticks[::-1])[::-1], together)
    np.testing.assert_array_equal([random_walk(1, 0, ticks[i : i + 1])[0] for i in range(60)], together)
    assert abs(np.corrcoef(random_walk(1, 1, ticks), together)[0, 1]) < 1  # another stream, another walk
    assert random_walk(1, 0, ticks[:0]).shape == (0,)
    with pytest.raises(ValueError, match=r"^time must be below 2"):
        random_walk(1, 0, np.array([1 << 48], np.uint64))


def test_the_phase_has_the_stated_variances() -> None:
    """Walk: σ² Δt; vibration: σ_v² on top, of each frame its own. 20,000 frames; false alarms: 5e-7 each."""
    n = 20_000
    numbers = np.arange(n, dtype=np.uint64)
    time_s = np.arange(n).astype(np.float64) * 500e-6
    walk = Medium(piston_walk_rad=0.3).phase_rad(1, 0, numbers, time_s)
    shaken = Medium(piston_walk_rad=0.3, vibration_rad=0.05).phase_rad(1, 0, numbers, time_s)
    bound = FIVE_SIGMA * (2 / n) ** 0.5
    assert abs(np.diff(walk).var() / (0.3**2 * 500e-6) - 1) < bound
    assert abs((shaken - walk).var() / 0.05**2 - 1) < bound
    assert abs(np.corrcoef(np.diff(walk), (shaken - walk)[1:])[0, 1]) < FIVE_SIGMA / n**0.5
    assert not Medium().phase_rad(1, 0, numbers, time_s).any()


@every_backend
def test_the_phase_turns_the_recovered_field(backend: Backend) -> None:
    """A becomes A·exp(iδ), to rounding; the reference alone and the signal alone do not change."""
    medium = Medium(piston_walk_rad=1.5)
    frames = random_frames(1, 15)
    still = make_bench(15, 50, backend=backend)
    moved = make_bench(15, 50, backend=backend, medium=medium)
    (delta,) = medium.phase_rad(SEED, 5, np.zeros(1, np.uint64), np.array([2.0]))
    assert abs(delta) > 0.1
    expected = fields(still, frames, stream=5) * np.exp(1j * delta)
    np.testing.assert_allclose(fields(moved, frames, time_s=2.0, stream=5), expected, rtol=1e-11, atol=1e-11)
    for lit, reference in ((frames, False), (frames * 0, True)):
        images = [bench.expose(lit, reference=reference, at=FrameStamp(5, 0, 2.0)) for bench in (still, moved)]
        np.testing.assert_allclose(images[1], images[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"decorrelation_tau_s": 0.0}, "decorrelation_tau_s must be seconds > 0, or .inf; got 0.0"),
        ({"piston_walk_rad": -1.0}, "piston_walk_rad must be a finite number ≥ 0, radians; got -1.0"),
        ({"vibration_rad": math.inf}, "vibration_rad must be a finite number ≥ 0, radians; got inf"),
    ],
)
def test_impossible_values_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match="must be") as error:
        Medium(**values)
    assert str(error.value) == message
