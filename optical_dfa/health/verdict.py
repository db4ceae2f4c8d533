"""When a device is well: the limits, and where they come from."""

import math
from dataclasses import dataclass
from typing import Literal

from optical_dfa.health.check import Health

Word = Literal["pass", "warn", "fail", ""]

GAIN = (0.05, 0.2)
"""|gain - 1|: a learning rate is not chosen more finely than 5 %; at 20 % something is wrong with the calibration."""
SUPERPOSITION = (0.03, 0.1)
"""10 % error costs 0.5 % of the cosine of the feedback, as an SNR of 20 dB does."""
SNR_DB = (10.0, 0.0)
"""On MNIST nothing is lost at 10 dB; at 0 dB the cosine of the feedback is below 0.71."""
REPEATABILITY = (10 / 11, 0.5)
"""The same limits as a correlation, SNR/(1 + SNR)."""
SATURATED = (1e-3, 1e-2)
"""Readings: at 1 % the devices warn; clipping is what fails first."""
DEAD = (1e-3, 1e-2)
"""Outputs: those weights get no feedback."""
DRIFT = (0.98, 0.9)
"""Correlation with the earlier check: what is left of the cosine between old and new feedback."""


@dataclass(frozen=True)
class Verdict:
    """One figure and what it means."""

    name: str
    value: str
    passes: str
    """What passes."""
    warns: str
    """What is not good, but no failure."""
    word: Word
    """Empty for what is neither good nor bad."""


def verdicts(health: Health) -> list[Verdict]:
    """Every figure of a check, judged."""
    sampling = 3 / math.sqrt(2 * health.n_outputs)  # 3 σ of the mean power of so many random rows
    gain_limits = GAIN[0] + sampling, GAIN[1] + sampling
    dead = health.dead_outputs / health.n_outputs
    of_chance = _dead_by_chance(min(health.vectors // 3, health.n_inputs))
    rows = [
        _below("gain", abs(health.gain - 1), gain_limits, f"{health.gain:.3f}", "1 ± {:.2f}"),
        _below("superposition error", health.superposition_error, SUPERPOSITION,
               f"{health.superposition_error:.2%}", "≤ {:.0%}"),
        _above("repeatability", health.repeatability, REPEATABILITY, f"{health.repeatability:.4f}", "≥ {:.2f}"),
        _above("SNR", health.snr_db, SNR_DB, _decibels(health.snr_db), "≥ {:.0f} dB"),
        _below("dead outputs", max(0.0, dead - of_chance), DEAD,
               f"{health.dead_outputs:,} of {health.n_outputs:,}", "≤ {:.1%}"),
    ]  # fmt: skip
    if health.matrix_snr_db is not None:
        value = _decibels(health.matrix_snr_db)
        rows.append(_above("SNR against its matrix", health.matrix_snr_db, SNR_DB, value, "≥ {:.0f} dB"))
    if health.saturated_fraction is not None:
        value = f"{health.saturated_fraction:.3%}"
        rows.append(_below("saturated readings", health.saturated_fraction, SATURATED, value, "≤ {:.1%}"))
    if health.drift is not None:
        name = f"correlation with {(health.since or '')[:16]}"
        rows.append(_above(name, health.drift, DRIFT, f"{health.drift:.4f}", "≥ {:.2f}"))
    speed = f"{health.vectors_per_s:,.0f} vectors/s"
    if health.frames_per_s is not None:
        speed += f", {health.frames_per_s:,.0f} frames/s"
    rows.append(Verdict("throughput, wall clock", speed, "", "", ""))
    if health.modelled_vectors_per_s is not None:
        rows.append(Verdict("by its frame time", f"{health.modelled_vectors_per_s:,.0f} vectors/s", "", "", ""))
    return rows


def worst(rows: list[Verdict]) -> Word:
    """The worst word of a check."""
    words = {row.word for row in rows}
    return "fail" if "fail" in words else "warn" if "warn" in words else "pass"


def _below(name: str, value: float, limits: tuple[float, float], shown: str, form: str) -> Verdict:
    word: Word = "pass" if value <= limits[0] else "warn" if value <= limits[1] else "fail"
    return Verdict(name, shown, form.format(limits[0]), form.format(limits[1]), word)


def _above(name: str, value: float, limits: tuple[float, float], shown: str, form: str) -> Verdict:
    word: Word = "pass" if value >= limits[0] else "warn" if value >= limits[1] else "fail"
    return Verdict(name, shown, form.format(limits[0]), form.format(limits[1]), word)


def _decibels(value: float) -> str:
    return "exact" if value == math.inf else f"{value:.1f} dB"


def _dead_by_chance(freedom: int) -> float:
    """Fraction of live outputs of less than 1 % of the median power: chi-squared of so many degrees, leading term."""
    half = freedom / 2
    return (0.01 * half) ** half / math.gamma(half + 1) if freedom < 20 else 0.0
