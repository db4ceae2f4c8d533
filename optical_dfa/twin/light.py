"""The light of a bench from its frames: fields of the features, reference arm and background at every pixel.

In digital numbers, at a pixel of the reading `dark`, frame f with the power a and the phase ψ of its moment reads

    dark + a (ρ + |A|²) + a Re(W* exp(i (φ + ψ))),   W = 2 √ρ A,   A = Σ_k x_k C_k + B

where ρ is the reference arm alone, C_k the field of feature k, and B what is there in every frame. The stepped part is
linear in W, hence in the 2 (n + 1) quadratures of C and B; the rest of the frames gives ρ.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from optical_dfa.run_errors import InputError
from optical_dfa.twin.gauge import Gauge
from optical_dfa.twin.observed import Floats, Observed

Complex = npt.NDArray[np.complex128]

DEAD = 0.01
"""A pixel whose stepped part has less than this fraction of the median power answers to no light."""

MOSTLY = 0.5
"""A pixel that is saturated in more than so many of the frames answers to no light either."""

ROUNDS = 30
"""Most rounds between light and moments of the frames; each leaves about a tenth of the error."""


TELLS_PHASE, TELLS_POWER = 100.0, 400.0
"""Information on the phase (0.1 rad) and the power (5 %) of a frame, below which it is taken to be the mean."""


@dataclass(frozen=True)
class Moments:
    """What was special in each of F frames."""

    power: Floats
    """(F,) light relative to the mean."""
    phase: Floats
    """(F,) ψ, radians."""
    power_error: Floats
    phase_error: Floats
    """(F,) their standard errors; inf where a frame does not tell."""

    @classmethod
    def none(cls, frames: int) -> "Moments":
        """Nothing special in any frame, and known to be so."""
        return cls(np.ones(frames), np.zeros(frames), np.zeros(frames), np.zeros(frames))

    def of(self, chosen: npt.NDArray[np.bool_] | slice) -> "Moments":
        """Those of some of the frames."""
        return Moments(*(values[chosen] for values in vars(self).values()))


@dataclass(frozen=True)
class Light:
    """What P pixels see, in root digital numbers."""

    columns: Complex
    """(inputs, P), C."""
    background: Complex
    """(P,), B."""
    reference: Floats
    """(P,), ρ, digital numbers."""
    dark: Floats
    """(P,), digital numbers."""
    covariance: Floats
    """(2 (inputs + 1),) ² of the estimates of W for readings of unit variance."""

    @property
    def alive(self) -> npt.NDArray[np.bool_]:
        """(P,) pixels that answer to light."""
        alive: npt.NDArray[np.bool_] = self.reference > 0
        return alive

    def amplitude(self, patterns: npt.NDArray[np.uint8]) -> Complex:
        """A, (frames, P)."""
        field: Complex = patterns.astype(np.float64) @ self.columns + self.background
        return field

    def field_error(self, variance: Floats) -> Floats:
        """Standard error of each quadrature of C, (P,), mean over the features, for readings of that variance."""
        n = len(self.columns)
        diagonal = np.diag(self.covariance)
        of_w = float(np.mean(np.concatenate([diagonal[:n], diagonal[n + 1 : 2 * n + 1]]))) if n else 0.0
        level = np.where(self.alive, self.reference, 1)
        return np.asarray(np.where(self.alive, np.sqrt(variance * of_w / (4 * level)), 0))

    def part(self, pixels: npt.NDArray[np.bool_]) -> "Light":
        """Of some pixels."""
        return replace(
            self, columns=self.columns[:, pixels], background=self.background[pixels],
            reference=self.reference[pixels], dark=self.dark[pixels],
        )  # fmt: skip


def readings(seen: Observed, light: Light, moments: Moments) -> Floats:
    """Mean images of frames, (F, P), digital numbers."""
    amplitude = light.amplitude(seen.patterns)
    level = np.where(seen.reference[:, None], np.sqrt(light.reference), 0)
    wave = level * np.exp(1j * (seen.phases + moments.phase))[:, None]
    return np.asarray(light.dark + moments.power[:, None] * np.abs(amplitude + wave) ** 2)


def design(patterns: npt.NDArray[np.uint8], angle: Floats) -> Floats:
    """Rows of the linear problem for Re W and Im W, (F, 2 (inputs + 1))."""
    features = np.concatenate([patterns, np.ones((len(patterns), 1))], axis=1)
    return np.concatenate([features * np.cos(angle)[:, None], features * np.sin(angle)[:, None]], axis=1)


def fit_light(seen: Observed, moments: Moments, before: Light | None, dark: Floats, variance: Floats) -> Light:
    """Light of the pixels from frames whose moments are known.

    Args:
        seen: frames.
        moments: of the frames.
        before: an earlier estimate; None: there is none, and only patterns shown in balanced steps are used.
        dark: (P,) readings in the dark.
        variance: (P,) mean variance of a reading.

    Raises:
        InputError: the patterns do not tell the features apart.
    """
    with_reference = seen.frames(seen.reference)
    known = moments.of(seen.reference)
    steady = (with_reference.images - dark) / known.power[:, None]
    if before is None:
        used, even = _balanced(with_reference, steady)
        with_reference, known, steady = with_reference.frames(used), known.of(used), steady[used]
    else:
        even = before.reference + np.abs(before.amplitude(with_reference.patterns)) ** 2
    rows = design(with_reference.patterns, with_reference.phases + known.phase)
    inverse = _inverse(rows)
    clear = with_reference.images < seen.info.saturation_dn
    w = inverse @ (rows.T @ (steady - even))
    for pixel in np.flatnonzero(~clear.all(axis=0) & (clear.mean(axis=0) > MOSTLY)):
        own = rows[clear[:, pixel]]
        w[:, pixel] = np.linalg.pinv(own.T @ own) @ (own.T @ (steady - even)[clear[:, pixel], pixel])
    n = rows.shape[1] // 2
    field_w = w[:n] + 1j * w[n:]
    shown = np.concatenate([with_reference.patterns, np.ones((len(rows), 1))], axis=1) @ field_w
    noise = w_noise(inverse, with_reference.patterns, variance)
    reference = Even.of(steady - rows @ w, shown, noise, clear).reference()
    power = np.mean(np.abs(field_w[:-1]) ** 2, axis=0)
    alive = (power > DEAD * np.median(power)) & (reference > DEAD * np.median(reference))
    alive &= clear.mean(axis=0) > MOSTLY
    fields = np.where(alive, field_w / (2 * np.sqrt(np.where(alive, reference, 1))), 0)
    return Light(fields[:-1], fields[-1], np.where(alive, reference, 0), dark, inverse)


@dataclass(frozen=True)
class Even:
    """Means over the frames of what tells ρ of each pixel, (P,): even parts E and q = |W|², free of the noise of W."""

    e: Floats
    q: Floats
    eq: Floats
    qq: Floats

    @classmethod
    def of(cls, even: Floats, w: Complex, noise: Floats, clear: npt.NDArray[np.bool_]) -> "Even":
        """From even parts (F, P), estimated W (F, P), the mean square `noise` of its errors, and where to look (F, P).

        |W + n|² is too large by E|n|² = ν, and |W + n|⁴ by 4 ν |W|² + 2 ν².
        """
        square = np.abs(w) ** 2
        fourth = square**2 - 4 * noise * square + 2 * noise**2
        q = square - noise
        weight = clear / np.maximum(clear.sum(axis=0), 1)
        return cls(*((weight * values).sum(axis=0) for values in (even, q, even * q, fourth)))

    def reference(self, dark: float = 0.0) -> Floats:
        """ρ of each pixel, (P,), by least squares from E - dark = ρ + q/(4ρ).

        Newton's steps from the larger root of the mean of that equation: the reference brighter than the signal.
        """
        mean = self.e - dark
        level: Floats = np.maximum((mean + np.sqrt(np.maximum(mean**2 - self.q, 0))) / 2, 1e-9)
        for _ in range(12):
            t, slope = 1 / (4 * level), 1 / (4 * level**2)
            left = mean - level - self.q * t
            left_q = self.eq - dark * self.q - level * self.q - self.qq * t
            # by J = 1 - q/(4ρ²)
            step = (left - slope * left_q) / np.maximum(1 - 2 * slope * self.q + slope**2 * self.qq, 1e-3)
            level = np.clip(level + step, level / 2, level * 2)
        return level


def w_noise(light_covariance: Floats, patterns: npt.NDArray[np.uint8], variance: Floats) -> Floats:
    """Mean square error (F, P) of the estimated W of patterns, for readings of that variance (P,)."""
    rows = np.concatenate([patterns, np.ones((len(patterns), 1))], axis=1)
    n = rows.shape[1]
    both = light_covariance[:n, :n] + light_covariance[n:, n:]
    return np.asarray(np.einsum("fi,ij,fj->f", rows, both, rows)[:, None] * variance)


def fit_moments(seen: Observed, light: Light, moments: Moments, variance: Floats, gauge: Gauge | None) -> Moments:
    """Power and phase of each frame by one Newton step from known ones, given the light.

    Args:
        seen: frames.
        light: of their pixels.
        moments: from which to step.
        variance: (F, P) of the readings.
        gauge: of the patterns, for frames that the light was fitted to; None: for others.
    """
    mean = readings(seen, light, moments)
    by_power, by_phase = _slopes(seen, light, moments, mean)
    usable = light.alive & (seen.images < seen.info.saturation_dn)
    weight = np.where(usable, 1 / variance, 0)
    left = seen.images - mean
    pp, ss = (weight * by_power**2).sum(axis=1), (weight * by_phase**2).sum(axis=1)
    ps = (weight * by_power * by_phase).sum(axis=1)
    rp, rs = (weight * by_power * left).sum(axis=1), (weight * by_phase * left).sum(axis=1)
    # without the reference arm, a small error of the dark reading is a large one of the power
    tells_phase, tells_power = ss > TELLS_PHASE, (pp > TELLS_POWER) & seen.reference
    ps = np.where(tells_phase & tells_power, ps, 0)
    pp, ss = np.where(tells_power, pp, np.inf), np.where(tells_phase, ss, np.inf)
    share = 1 - ps**2 / (pp * ss)
    d_power = np.where(tells_power, (rp / pp - ps * rs / (pp * ss)) / share, 0)
    d_phase = np.where(tells_phase, (rs / ss - ps * rp / (pp * ss)) / share, 0)
    power = np.clip(moments.power + d_power, 0.2, 5)
    phase = moments.phase + np.clip(d_phase, -1, 1)
    if gauge is not None:
        power -= gauge.of_power(power, tells_power, seen.phases + moments.phase)
        phase = phase - gauge.of(phase, tells_phase)
        power = power / power[tells_power].mean() if tells_power.any() else power
    return Moments(
        np.where(tells_power, power, 1),
        np.where(tells_phase, phase, moments.phase),
        np.where(tells_power, 1 / np.sqrt(pp * share), np.inf),
        np.where(tells_phase, 1 / np.sqrt(ss * share), np.inf),
    )


def noise_taken(seen: Observed, light: Light, moments: Moments, variance: Floats) -> Floats:
    """Part of the noise of each reading (F, P) that is gone with the power and the phase that were fitted to its frame.

    Args:
        seen: frames.
        light: of their pixels.
        moments: fitted ones; an error of 0 or infinity: not fitted.
        variance: (F, P) of the readings.
    """
    by_power, by_phase = _slopes(seen, light, moments, readings(seen, light, moments))
    taken = np.zeros(variance.shape)
    for slope, error in ((by_power, moments.power_error), (by_phase, moments.phase_error)):
        taken += np.square(slope * np.where(np.isfinite(error), error, 0)[:, None]) / variance
    return np.minimum(taken, 0.5)


def _slopes(seen: Observed, light: Light, moments: Moments, mean: Floats) -> tuple[Floats, Floats]:
    """Derivatives of mean images (F, P) by power and phase of their frames."""
    level = np.where(seen.reference[:, None], np.sqrt(light.reference), 0)
    turned = light.amplitude(seen.patterns).conj() * np.exp(1j * (seen.phases + moments.phase))[:, None]
    return (mean - light.dark) / moments.power[:, None], -2 * moments.power[:, None] * level * turned.imag


def _balanced(seen: Observed, steady: Floats) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Frames of patterns shown in balanced steps of the phase, and the mean of each pattern, (their number, P)."""
    group = np.unique(seen.patterns, axis=0, return_inverse=True)[1].reshape(-1)
    count = np.bincount(group)
    turns = [np.bincount(group, np.cos(k * seen.phases)) + 1j * np.bincount(group, np.sin(k * seen.phases))
             for k in (1, 2)]  # fmt: skip
    balanced = (count >= 3) & (np.abs(turns[0]) < 1e-6 * count) & (np.abs(turns[1]) < 1e-6 * count)
    used = balanced[group]
    if not used.any():
        raise InputError(
            "no pattern was shown in three or more equal steps of the reference phase: a twin needs stepped frames"
        )
    number = np.cumsum(balanced)[group[used]] - 1
    sums = np.zeros((int(balanced.sum()), steady.shape[1]))
    np.add.at(sums, number, steady[used])
    return used, (sums / count[balanced][:, None])[number]


def _inverse(rows: Floats) -> Floats:
    """Inverse of the normal matrix.

    Raises:
        InputError: it is singular.
    """
    normal = rows.T @ rows
    n = len(normal) // 2 - 1
    if np.linalg.matrix_rank(normal, hermitian=True) == len(normal):
        return np.asarray(np.linalg.inv(normal))
    never = np.flatnonzero(np.abs(rows[:, :n]).sum(axis=0) == 0)
    keep = np.r_[0:n, n + 1 : 2 * n + 1]
    if not len(never) and np.linalg.matrix_rank(normal[np.ix_(keep, keep)], hermitian=True) == 2 * n:
        inverse = np.zeros_like(normal)  # as many features ON in every pattern: taken to have no background
        inverse[np.ix_(keep, keep)] = np.linalg.inv(normal[np.ix_(keep, keep)])
        return inverse
    what = f"features {', '.join(map(str, never[:8]))} were never ON" if len(never) else "some were always ON together"
    raise InputError(
        f"the patterns do not tell {n} features apart: {what}; show more patterns, or make the twin with the probes of "
        "optical-dfa twin DEVICE"
    )
