"""What a device is like, from a few vectors shown twice.

With A and B the fields of the two showings, their product has the power of the field alone, whatever the noise, and
half the square of their difference is the power of the noise. All figures below are such means, over vectors and
outputs.
"""

import datetime
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.devices import FrameTap, ProjectionDevice, Usage
from optical_dfa.devices.probes import Ternary, pairs_and_sums
from optical_dfa.run_errors import InputError

DEAD = 0.01
"""An output of less than this part of the median power is dead."""

Fields = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Probing:
    """Vectors that were shown twice, and their fields."""

    probes: Ternary
    """(3 · pairs, n_inputs): x, y, and x + y of each pair, one kind after the other."""
    fields: npt.NDArray[np.float32]
    """(2, 3 · pairs, n_outputs)."""
    seconds: float
    """Wall time of the showings."""
    usage: Usage
    """What they took."""


@dataclass(frozen=True)
class Health:
    """What a device is like."""

    device: str
    fingerprint: str
    date: str
    """ISO 8601."""
    n_inputs: int
    n_outputs: int
    vectors: int
    """Shown, each twice."""
    lit: int
    """Inputs lit by a sum."""
    gain: float
    """√(mean field² / |x|²) without the noise; 1 is right."""
    superposition_error: float
    """|P(x+y) - P(x) - P(y)| / |P(x+y)|, without the noise."""
    repeatability: float
    """Correlation of the two showings."""
    snr_db: float
    """Signal-to-noise ratio of one showing, decibels; inf: both were the same."""
    matrix_snr_db: float | None
    """The same against the matrix that the device states, errors of gain and drift included; None: it states none."""
    saturated_fraction: float | None
    """Of the pixel readings; None without a camera."""
    dead_outputs: int
    """Outputs of less than 1 % of the median power."""
    drift: float | None
    """Correlation of the fields with those of an earlier check, without the noise of either; None: there is none."""
    since: str | None
    """Date of the earlier check."""
    vectors_per_s: float
    """Wall clock."""
    frames_per_s: float | None
    """Wall clock; None for a device without frames."""
    modelled_vectors_per_s: float | None
    """By the frame time that the device states; None for a device without frames."""


def check(device: ProjectionDevice, *, pairs: int = 32, lit: int = 4, probes: Ternary | None = None) -> Probing:
    """Show vectors x, y and x + y twice, all of them and then all again.

    Args:
        device: open, linear.
        pairs: of vectors x and y that light different inputs.
        lit: inputs lit by x + y; about what training displays.
        probes: the vectors of an earlier check, to compare with it; None: drawn, always the same ones.

    Raises:
        InputError: something given cannot be used; nothing was displayed.
        DeviceError: the device failed.
    """
    info = device.info
    if not info.linear or info.n_inputs < 2:
        raise InputError(f"device {info.name!r} must be linear and have 2 inputs or more; got {info.n_inputs} inputs")
    if pairs < 2 or not 2 <= lit <= info.n_inputs:
        raise InputError(f"pairs must be 2 or more, and lit 2 … {info.n_inputs}; got {pairs} and {lit}")
    if probes is None:
        probes = np.concatenate(pairs_and_sums(np.random.default_rng(0), pairs, info.n_inputs, lit))
    if probes.shape[1] != info.n_inputs:
        raise InputError(f"the earlier check has {probes.shape[1]} inputs, the device {info.n_inputs}: take another")
    before, start = replace(device.usage), time.perf_counter()
    fields = np.stack([device.project(probes), device.project(probes)])
    seconds = time.perf_counter() - start
    spent = Usage(**{name: value - getattr(before, name) for name, value in vars(device.usage).items()})
    return Probing(probes, fields, seconds, spent)


def health_of(
    device: ProjectionDevice, found: Probing, earlier: npt.NDArray[np.float32] | None = None, since: str | None = None
) -> Health:
    """Figures of a probing.

    Args:
        device: the device that was probed; nothing more is displayed.
        found: what it answered.
        earlier: fields of the same vectors in an earlier check, shape of `found.fields`.
        since: date of that.
    """
    one, other = found.fields.astype(np.float64)
    lit = np.abs(found.probes).sum(axis=1, dtype=np.int64)
    signal, noise = float((one * other).mean()), float(np.square(one - other).mean() / 2)
    power = (one * other / lit[:, None]).mean(axis=0)
    usage, info, count = found.usage, device.info, 2 * len(found.probes)
    shows = usage.frames > 0
    return Health(
        device=info.name,
        fingerprint=device.fingerprint,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        n_inputs=info.n_inputs,
        n_outputs=info.n_outputs,
        vectors=len(found.probes),
        lit=int(lit.max()),
        gain=math.sqrt(max(0.0, float(power.mean()))),
        superposition_error=superposition_error(one, other),
        repeatability=float(np.corrcoef(one.ravel(), other.ravel())[0, 1]),
        snr_db=decibels(signal, noise),
        matrix_snr_db=_matrix_snr_db(device, found.probes, one),
        saturated_fraction=usage.saturated_pixels / usage.pixel_readings if usage.pixel_readings else None,
        dead_outputs=int(np.count_nonzero(power < DEAD * np.median(power))),
        drift=None if earlier is None else correlation(earlier.astype(np.float64), found.fields.astype(np.float64)),
        since=since,
        vectors_per_s=count / found.seconds,
        frames_per_s=usage.frames / found.seconds if shows else None,
        modelled_vectors_per_s=count / usage.device_seconds if shows and usage.device_seconds else None,
    )


def superposition_error(one: Fields, other: Fields) -> float:
    """|P(x+y) - P(x) - P(y)| / |P(x+y)| of two showings (3 · pairs, n_outputs), without their noise."""
    misses = []
    for fields in (one, other):
        x, y, both = np.split(fields, 3)
        misses.append(both - x - y)
    sums = np.split(one, 3)[2] * np.split(other, 3)[2]
    return math.sqrt(max(0.0, float((misses[0] * misses[1]).mean())) / max(float(sums.mean()), 1e-30))


def correlation(before: Fields, now: Fields) -> float:
    """Correlation of fields (2, vectors, n_outputs) shown twice each, without their noise."""
    power = float((before[0] * before[1]).mean()) * float((now[0] * now[1]).mean())
    return float((before.mean(axis=0) * now.mean(axis=0)).mean()) / math.sqrt(max(power, 1e-30))


def decibels(signal: float, noise: float) -> float:
    """10 log₁₀ of the ratio; inf without noise, -inf without signal."""
    if noise <= 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def last_frames(device: ProjectionDevice) -> "FrameTap | None":
    """Remember the frames of the device from now on; None for a device that shows none."""
    taps: list[FrameTap] = []

    def tap(bench: Any) -> FrameTap:
        taps.append(FrameTap(bench))
        return taps[0]

    return taps[0] if device.wrap_bench(tap) else None


def _matrix_snr_db(device: ProjectionDevice, probes: Ternary, fields: Fields) -> float | None:
    if (matrix := device.effective_matrix()) is None:
        return None
    exact = probes.astype(np.float64) @ matrix.T.astype(np.float64)
    wrong = float(np.square(fields - exact).mean())
    # what float32 leaves of an exact device is no noise
    return math.inf if device.info.exact else decibels(float(np.square(exact).mean()), wrong)
