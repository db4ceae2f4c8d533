"""What changes from frame to frame: phase of the interferometer, power of the laser, the medium itself."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator import field_correlation
from optical_dfa.twin.light import Complex, Light, Moments
from optical_dfa.twin.observed import Floats, Observed

HALF_WIDTH = 1.92
"""Fall of a log likelihood at the ends of a 95 % interval (half of the 95 % point of χ² of one degree of freedom)."""

GRID = 41

STEADY = 0.998
"""Frames are of one medium while the field of the probe correlates so well with the first."""


@dataclass(frozen=True)
class Runs:
    """Looks at one pattern that was shown again and again, each in balanced steps of the phase."""

    pattern: npt.NDArray[np.uint8]
    frames: int
    """Of a look."""
    at: npt.NDArray[np.int64]
    """(looks,) first frame of each."""
    field: Complex
    """(looks, P), W."""


@dataclass(frozen=True)
class Fitted:
    """A value that cannot be negative, with its 95 % interval; `low` is 0 where it could be none at all."""

    value: float
    low: float
    high: float

    @property
    def seen(self) -> bool:
        """It is more than nothing."""
        return self.low > 0

    @property
    def error(self) -> float:
        """A quarter of the interval: what a normal law of that width has as standard deviation."""
        return (self.high - self.low) / 4


@dataclass(frozen=True)
class Slope:
    """A value of either sign and its standard error."""

    value: float
    error: float

    @property
    def seen(self) -> bool:
        """It is not zero: three standard errors."""
        return abs(self.value) > 3 * self.error


@dataclass(frozen=True)
class Decorrelation:
    """Correlation of the medium's field with the first one."""

    lag_s: Floats
    correlation: Floats
    error: Floats
    tau: Fitted
    """Seconds to 1/e; `low` alone counts where nothing changed."""
    changed: bool


@dataclass(frozen=True)
class Drift:
    """What changes from frame to frame; what was not seen is 0."""

    power: Fitted
    """Relative standard deviation of the power from frame to frame."""
    walk: Fitted
    """Random walk of the phase, radians after one second."""
    vibration: Fitted
    """White noise of the phase, radians."""
    step: Slope
    """Relative error of the phase steps."""
    medium: Decorrelation | None
    """None: no pattern was seen again and again."""
    phase_told: bool
    """Walk and vibration were told."""

    def of_steps(self, phases: Floats) -> Floats:
        """ψ that the error of the phase steps makes of nominal phases."""
        return np.asarray(self.step.value * phases if self.step.seen else np.zeros(len(phases)))

    @property
    def follows_power(self) -> bool:
        """The power of the frames differs by more than it is measured to."""
        return self.power.seen

    @property
    def follows_phase(self) -> bool:
        """And so does their phase."""
        return self.phase_told and (self.walk.seen or self.vibration.seen)


def probe_runs(seen: Observed) -> Runs | None:
    """The pattern with the most looks, three or more; None if there is none."""
    shown = seen.reference & seen.lit
    change = np.ones(len(seen), np.bool_)
    change[1:] = (seen.patterns[1:] != seen.patterns[:-1]).any(axis=1) | (shown[1:] != shown[:-1])
    change[1:] |= seen.stream[1:] != seen.stream[:-1]
    begins = np.append(np.flatnonzero(change), len(seen))
    looks: dict[bytes, list[tuple[int, int]]] = {}
    for first, stop in itertools.pairwise(begins):
        if not shown[first]:
            continue
        steps = len(np.unique(np.round(np.mod(seen.phases[first:stop], 2 * np.pi), 6)))
        for start in range(first, stop - steps + 1, steps):
            angle = seen.phases[start : start + steps]
            if steps >= 3 and max(abs(np.exp(1j * k * angle).sum()) for k in (1, 2)) < 1e-6 * steps:
                looks.setdefault(seen.patterns[first].tobytes(), []).append((start, steps))
    most = max(looks.values(), key=len, default=[])
    most = [look for look in most if look[1] == most[0][1]]
    if len(most) < 3:
        return None
    at, steps = np.array([start for start, _ in most]), most[0][1]
    frames = at[:, None] + np.arange(steps)
    wave = np.exp(1j * seen.phases[frames])
    field = np.stack([2 / steps * (w @ seen.images[f].astype(np.float64)) for w, f in zip(wave, frames, strict=True)])
    return Runs(seen.patterns[at[0]], steps, at, field)


def phase_track(seen: Observed, runs: Runs | None) -> Floats:
    """A first guess of ψ of each frame, (F,): that of the probe, between its looks by interpolation.

    W = 2 √ρ A exp(-iψ) where a frame has the phase ψ beside the nominal one.
    """
    track = np.zeros(len(seen))
    if runs is None:
        return track
    first = runs.field[:3].mean(axis=0)
    angle = -np.angle(runs.field @ first.conj())
    for stream in np.unique(seen.stream):
        own = seen.stream[runs.at] == stream
        if own.any():
            chosen = seen.stream == stream
            track[chosen] = np.interp(seen.time_s[chosen], seen.time_s[runs.at[own]], np.unwrap(angle[own]))
    return track


def steady_frames(seen: Observed, runs: Runs | None) -> npt.NDArray[np.bool_]:
    """(F,) frames up to the first look at which the medium has become another, by `STEADY`; none that only watches."""
    steady = ~seen.watching
    if runs is None or len(runs.at) < 6:
        return steady
    first = runs.field[:3].sum(axis=0)
    own = [first - look for look in runs.field[:3]]  # a look is not to be compared with itself
    short = np.median([_correlation(a, b) for a, b in zip(own, runs.field[:3], strict=True)])
    others = np.array([_correlation(first, look) for look in runs.field[3:]])
    # three looks have less noise than two: of the first ones, what the noise leaves is the measure
    changed = np.flatnonzero(others < STEADY * min(short, float(np.median(others[:8]))))
    if len(changed):
        # a single bad look is noise, or a frame that was lost
        lasting = [n for n in changed if (others[n : n + 3] < STEADY * short).all()]
        if lasting:
            last = runs.at[3 + lasting[0] - 1] + runs.frames
            steady[last:] = False
            steady |= ~seen.reference & ~seen.lit & ~seen.watching
    return steady


def step_error(seen: Observed, moments: Moments) -> Slope:
    """Relative error of the phase steps, from neighbouring frames: ψ grows by that part of each step."""
    one = np.flatnonzero(_neighbours(seen) & np.isfinite(moments.phase_error[:-1] + moments.phase_error[1:]))
    step = np.diff(seen.phases)[one]
    turn = np.diff(moments.phase)[one]
    if len(one) < 10 or np.ptp(step) < 1e-3:
        return Slope(math.nan, math.inf)
    step, turn = step - step.mean(), turn - turn.mean()
    power = float(np.sum(step**2))
    slope = float(np.sum(step * turn) / power)
    left = turn - slope * step
    # neighbours share a frame with opposite signs: counting them as apart errs on the safe side
    return Slope(slope, math.sqrt(float(np.mean(left**2)) / power))


def walk_and_vibration(time_s: Floats, phase: Floats, error: Floats) -> tuple[Fitted, Fitted]:
    """Random walk (rad after 1 s) and vibration (rad) of the phase, by maximum likelihood.

    The phase is a random walk w per root second, seen with the white noise v and the error of each measurement. The
    likelihood is that of the Kalman filter, on a grid of w and v; each interval is where the best of the other one
    leaves the logarithm within `HALF_WIDTH` of the top.

    Args:
        time_s: (F,) increasing.
        phase: (F,) measured, radians.
        error: (F,) standard errors of the measurements, finite.
    """
    gaps = np.diff(time_s, prepend=time_s[0])
    typical = float(np.median(error))
    span = max(float(time_s[-1] - time_s[0]), 1e-9)
    scatter = max(float(np.std(np.diff(phase))), typical, 1e-9)
    fastest = 30 * scatter / math.sqrt(max(float(np.median(gaps[1:])), 1e-9))
    wide_w = np.concatenate([[0.0], np.geomspace(0.003 * typical / math.sqrt(span), fastest, GRID)])
    wide_v = np.concatenate([[0.0], np.geomspace(0.02 * typical, 5 * scatter, GRID)])
    table = _log_likelihood(gaps, phase, error, wide_w, wide_v)
    w, v = (int(i) for i in np.unravel_index(np.argmax(table), table.shape))
    fine_w, fine_v = _around(wide_w, table.max(axis=1), w), _around(wide_v, table.max(axis=0), v)
    table = _log_likelihood(gaps, phase, error, fine_w, fine_v)
    return _interval(fine_w, table.max(axis=1)), _interval(fine_v, table.max(axis=0))


def power_noise(moments: Moments, freedom: float) -> Fitted:
    """Relative standard deviation of the power from frame to frame, less that of measuring it.

    Args:
        moments: of the frames.
        freedom: part of the powers' freedom that the light has not taken.
    """
    told = np.isfinite(moments.power_error)
    left, error = moments.power[told] - 1, moments.power_error[told]
    if len(left) < 10:
        return Fitted(math.nan, 0.0, math.inf)
    weight = 1 / error**4
    excess = float((weight * (left**2 - error**2)).sum() / weight.sum())
    for _ in range(3):
        weight = 1 / np.square(error**2 + max(excess, 0))
        excess = float((weight * (left**2 - error**2)).sum() / weight.sum())
    width = 2 * math.sqrt(2 / float(weight.sum()))
    low, value, high = (math.sqrt(max(excess + offset, 0) / freedom) for offset in (-width, 0, width))
    return Fitted(value, low, high)


def decorrelation(seen: Observed, runs: Runs, light: Light, variance: Floats) -> Decorrelation:
    """How fast the medium becomes another, from the looks at the probe, by the law `field_correlation`.

    Correlations are of unit norm and free of the noise of the looks. Besides it the error has what the law leaves open:
    it is a mean over the moment at which a look falls into the medium's course.

    Args:
        seen: frames.
        runs: looks at the probe.
        light: of the pixels, at the time of the first looks.
        variance: (P,) of a reading of the probe.
    """
    alive = light.alive
    model = (2 * np.sqrt(light.reference) * light.amplitude(runs.pattern[None])[0])[alive]
    field = runs.field[:, alive]
    pixels = int(alive.sum())
    noise = 4 / runs.frames * float(variance[alive].sum())
    power = np.maximum((np.abs(field) ** 2).sum(axis=1) - noise, 0.1 * noise)
    own = float((np.abs(model) ** 2).sum())
    overlap = np.abs(field @ model.conj())
    correlation = overlap / np.sqrt(own * power)
    lag = seen.time_s[runs.at] - float(np.median(seen.time_s[steady_frames(seen, runs) & seen.reference]))
    lag = np.maximum(lag, 0.0)
    # noise of the overlap and of the norm cancel to first order; left is that across the field, and its square
    error = (
        noise / (2 * own) / math.sqrt(pixels) * np.sqrt(2.0)
        + 1e-6
        + np.sqrt(np.maximum(1 - np.minimum(correlation, 1) ** 2, 0) * noise / (own * pixels))
    )
    early = lag < 0.02 * max(float(lag.max()), 1e-9)
    base = float(np.mean(correlation[early])) if early.sum() >= 3 else float(correlation[:3].mean())
    correlation = correlation / base
    tau = _fit_tau(lag, correlation, error, pixels)
    return Decorrelation(lag, correlation, error, tau, tau.high < math.inf)


def _fit_tau(lag: Floats, correlation: Floats, error: Floats, pixels: int) -> Fitted:
    longest = float(lag.max())
    taus = np.geomspace(max(longest, 1e-6) / 30, max(longest, 1e-6) * 3000, 4000)
    # mean over realisations: two fields of so many modes overlap by chance, which a decorrelation of s³ lets in
    model = field_correlation(lag[None, :] / taus[:, None], 1.0)
    floor = np.power(np.maximum(1 - model**2, 0), 1.5) / math.sqrt(2 * pixels)
    used = correlation > 0.3  # beyond, the law depends on the moment most
    misfit = (np.square(correlation - model) / (error**2 + floor**2) + np.log(error**2 + floor**2))[:, used].sum(axis=1)
    best = int(np.argmin(misfit))
    inside = np.flatnonzero(misfit < misfit[best] + 2 * HALF_WIDTH)
    low, high = float(taus[inside[0]]), float(taus[inside[-1]])
    value = float(taus[best])
    if inside[-1] == len(taus) - 1 or high > 3 * value:
        return Fitted(value, low, math.inf)
    spread = _moment_spread(lag[used] / value)
    width = 2 * spread * value
    return Fitted(value, value - math.hypot(value - low, width), value + math.hypot(high - value, width))


def _moment_spread(lag_taus: Floats) -> float:
    """Relative standard deviation of τ over the moment of the first look, of noiseless looks at these lags / τ."""
    from optical_dfa.emulator.medium import SEGMENT_TAUS

    segments = lag_taus / SEGMENT_TAUS
    found = []
    trial = np.geomspace(0.4, 2.5, 240)
    models = field_correlation(lag_taus[None, :] / trial[:, None], 1.0)
    for moment in (np.arange(48) + 0.5) / 48:
        at, begin = moment + segments, moment * np.pi / 2
        inside = np.cos(at * np.pi / 2 - begin)
        beyond = np.sin(begin) * np.cos((at - 1) * np.pi / 2)
        law = np.where(at < 1, inside, np.where(at < 2, beyond, 0.0))
        found.append(trial[np.argmin(np.square(models - law).sum(axis=1))])
    return float(np.std(found))


def _correlation(one: Complex, other: Complex) -> float:
    return float(np.abs(np.vdot(one, other)) / math.sqrt(np.vdot(one, one).real * np.vdot(other, other).real))


def _neighbours(seen: Observed) -> npt.NDArray[np.bool_]:
    """(F - 1,) frames shown one right behind the other."""
    gap = np.diff(seen.time_s)
    behind = (gap > 0) & (gap < 2.5 * seen.source.frame_time_us * 1e-6) & (seen.stream[1:] == seen.stream[:-1])
    found: npt.NDArray[np.bool_] = behind & seen.reference[1:] & seen.reference[:-1]
    return found


def _log_likelihood(gaps: Floats, phase: Floats, error: Floats, walk: Floats, vibration: Floats) -> Floats:
    """Log likelihood of each pair, (walks, vibrations), by a Kalman filter that knows nothing of the first phase."""
    grow = np.repeat(walk**2, len(vibration))
    white = np.tile(vibration**2, len(walk))
    at, variance = np.zeros_like(grow), np.full_like(grow, 1e6)
    total = np.zeros_like(grow)
    for gap, measured, own in zip(gaps, phase, error**2, strict=True):
        variance = variance + grow * gap
        spread = variance + white + own
        surprise = measured - at
        total -= 0.5 * (np.log(spread) + surprise**2 / spread)
        share = variance / spread
        at = at + share * surprise
        variance = variance * (1 - share)
    return total.reshape(len(walk), len(vibration))


def _around(grid: Floats, profile: Floats, best: int) -> Floats:
    """A finer grid over where the profile is near its top, with 0 where that is."""
    near = np.flatnonzero(profile > profile[best] - 3 * HALF_WIDTH)
    low, high = grid[max(near[0] - 1, 0)], grid[min(near[-1] + 1, len(grid) - 1)]
    fine = np.linspace(low, high, 2 * GRID)
    return np.unique(np.append(fine, grid[best]))


def _interval(grid: Floats, profile: Floats) -> Fitted:
    inside = np.flatnonzero(profile > profile.max() - HALF_WIDTH)
    return Fitted(float(grid[np.argmax(profile)]), float(grid[inside[0]]), float(grid[inside[-1]]))
