"""The digital twin of a bench: light, camera and drift from frames, and how sure each value is."""

import math
from dataclasses import dataclass, replace

import numpy as np

from optical_dfa.run_errors import InputError
from optical_dfa.twin.camera import Dark, PhotonTransfer, dark_reading, photon_transfer
from optical_dfa.twin.drift import (
    Drift,
    Fitted,
    decorrelation,
    phase_track,
    power_noise,
    probe_runs,
    steady_frames,
    step_error,
    walk_and_vibration,
)
from optical_dfa.twin.estimate import Estimate
from optical_dfa.twin.gauge import Gauge
from optical_dfa.twin.light import ROUNDS, Light, Moments, fit_light, fit_moments, noise_taken, readings
from optical_dfa.twin.observed import Floats, Observed
from optical_dfa.twin.plan import check_bench
from optical_dfa.twin.values import estimates

FOLLOWED_PIXELS = 2048
"""Pixels that phase and power of the frames are found from; all others take them over."""

BLOCK = 1 << 24
"""Readings of pixels that are fitted at once."""

FEWEST_PIXELS = 16

MOST_FOLLOWED = 4000
"""Frames that walk and vibration are told from; more take long and tell little more."""


@dataclass(frozen=True)
class Twin:
    """A fitted bench."""

    seen: Observed
    """The frames that it was fitted to, those of one medium."""
    light: Light
    transfer: PhotonTransfer
    moments: Moments
    drift: Drift
    variance: Floats
    """(P,) mean variance of a reading, DN²."""
    estimates: tuple[Estimate, ...]

    def __getitem__(self, name: str) -> Estimate:
        """The estimate of that name."""
        return next(estimate for estimate in self.estimates if estimate.name == name)


def fit(seen: Observed) -> Twin:
    """Fit a twin to frames.

    Args:
        seen: phase-stepped frames of patterns that tell the features apart, some of them repeated; frames without
            light, without features and without the reference arm tell more.

    Raises:
        InputError: the frames do not do.
    """
    check_bench(seen.info)
    readout = (seen.source.settings.get("readout") or {}).get("kind", "phase_stepping")
    if readout != "phase_stepping":
        raise InputError(
            f"a twin is read by phase_stepping, as it was fitted; the readout of this device is {readout!r}"
        )
    pixels = seen.images.shape[1]
    if pixels < FEWEST_PIXELS:
        raise InputError(f"images of {pixels} pixels are too small for a twin: {FEWEST_PIXELS} or more are needed")
    runs = probe_runs(seen)
    steady = seen.frames(steady_frames(seen, runs))
    some = np.linspace(0, pixels - 1, min(pixels, FOLLOWED_PIXELS)).astype(np.int64)
    part = replace(steady, images=steady.images[:, some].astype(np.float64))
    start = replace(Moments.none(len(part)), phase=phase_track(steady, probe_runs(part)))
    light, moments, transfer, dark = _rounds(part, start, True, True)
    drift = _drift(part, light, moments)
    if not (drift.follows_power and drift.follows_phase):
        phase = start.phase if drift.follows_phase else drift.of_steps(part.phases)
        start = replace(Moments.none(len(part)), phase=phase)
        light, moments, transfer, dark = _rounds(part, start, drift.follows_power, drift.follows_phase)
    whole = _all_pixels(steady, moments, light, transfer, dark)
    variance = _variance(steady, whole, transfer)
    medium = None
    if runs is not None:
        bright = transfer.of(np.abs(whole.amplitude(runs.pattern[None])[0]) ** 2 + whole.reference)
        medium = decorrelation(seen, runs, whole, bright)
    drift = replace(drift, medium=medium)
    if not _has_background(whole, variance):
        whole = replace(whole, background=np.zeros_like(whole.background))
    return Twin(
        steady, whole, transfer, moments, drift, variance, estimates(steady, whole, transfer, drift, variance, dark)
    )


def _rounds(seen: Observed, start: Moments, power: bool, phase: bool) -> tuple[Light, Moments, PhotonTransfer, Dark]:
    """Light and moments in turn, until the moments stand; those not asked for stay as they are."""
    transfer = PhotonTransfer(seen.info.gain_dn_per_e, 1.0, np.zeros((2, 2)), *np.zeros((3, 0)))
    moments, light, gauge = start, None, Gauge(seen.patterns)
    dark = dark_reading(seen, None, start, None)
    for number in range(ROUNDS):
        light = fit_light(seen, moments, light, dark.level, _variance(seen, light, transfer))
        dark = dark_reading(seen, light, moments, transfer if number > 1 else None)
        if number == 3:
            gauge = Gauge(seen.patterns, _has_background(light, _variance(seen, light, transfer)))
        variance = transfer.of(readings(seen, light, moments) - light.dark)
        new = fit_moments(seen, light, moments, variance, gauge)
        if number:
            transfer = photon_transfer(seen, light, moments, noise_taken(seen, light, moments, variance))
        new = Moments(
            new.power if power else start.power, new.phase if phase else start.phase,
            new.power_error if power else start.power_error, new.phase_error if phase else start.phase_error,
        )  # fmt: skip
        moved = max(
            _moved(new.power - moments.power, new.power_error), _moved(new.phase - moments.phase, new.phase_error)
        )
        moments = new
        if number > 4 and moved < 0.02:
            break
    assert light is not None
    return fit_light(seen, moments, light, dark.level, _variance(seen, light, transfer)), moments, transfer, dark


def _moved(step: Floats, error: Floats) -> float:
    """Root mean square step in standard errors."""
    told = np.isfinite(error) & (error > 0)
    return float(np.sqrt(np.mean(np.square(step[told] / error[told])))) if told.any() else 0.0


def _drift(seen: Observed, light: Light, moments: Moments) -> Drift:
    step = step_error(seen, moments)
    told = np.isfinite(moments.phase_error) & seen.reference
    unknown = Fitted(math.nan, 0.0, math.inf)
    # each frame has a share in the light that it is compared with
    freedom = max(1 - 2 * (len(light.columns) + 1) / max(int(seen.reference.sum()), 1), 0.1)
    power = power_noise(moments, freedom)
    if told.sum() < 10:
        return Drift(power, unknown, unknown, step, None, False)
    phase = moments.phase - (step.value * seen.phases if step.seen else 0.0)
    streams, count = np.unique(seen.stream[told], return_counts=True)
    own = told & (seen.stream == streams[np.argmax(count)])
    order = np.argsort(seen.time_s[own], kind="stable")[:MOST_FOLLOWED]
    error = moments.phase_error[own][order] / math.sqrt(freedom)
    walk, vibration = walk_and_vibration(seen.time_s[own][order], phase[own][order], error)
    return Drift(power, walk, vibration, step, None, True)


def _all_pixels(seen: Observed, moments: Moments, start: Light, transfer: PhotonTransfer, dark: Dark) -> Light:
    """Light of all pixels, block by block; moments are those of the fit."""
    pixels = seen.images.shape[1]
    if pixels == len(start.reference):
        return start
    width = max(1, BLOCK // len(seen))
    parts = []
    for first in range(0, pixels, width):
        block = replace(seen, images=seen.images[:, first : first + width].astype(np.float64))
        light = None
        for _ in range(4):
            own = dark_reading(block, light, moments, transfer).level if dark.each else dark.level[:1]
            level = np.broadcast_to(own, block.images.shape[1:])
            light = fit_light(block, moments, light, level, _variance(block, light, transfer))
        assert light is not None
        parts.append(light)
    return Light(
        np.concatenate([part.columns for part in parts], axis=1),
        np.concatenate([part.background for part in parts]),
        np.concatenate([part.reference for part in parts]),
        np.concatenate([part.dark for part in parts]),
        start.covariance,
    )


def _variance(seen: Observed, light: Light | None, transfer: PhotonTransfer) -> Floats:
    """(P,) mean variance of a reading with the reference arm."""
    if light is None:
        return np.zeros(seen.images.shape[1])
    shown, count = np.unique(seen.patterns[seen.reference], axis=0, return_counts=True)
    power = np.average(np.abs(light.amplitude(shown)) ** 2, axis=0, weights=count)
    return transfer.of(light.reference + power)


def _has_background(light: Light, variance: Floats) -> bool:
    """Whether light is there in every frame: its quadratures beside their noise, chance 1e-6 that it is not."""
    n = len(light.columns)
    alive = light.alive
    error = variance[alive] * np.diag(light.covariance)[[n, 2 * n + 1]].mean() / (4 * light.reference[alive])
    freedom = 2 * int(alive.sum())
    if not np.all(error > 0):
        return False
    chi = float((np.abs(light.background[alive]) ** 2 / error).sum())
    return chi > freedom + 4.75 * math.sqrt(2 * freedom) + 15
