"""Choosing exposure time and reference level once, at calibration, for the vectors that will be displayed."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from optical_dfa.devices.readouts import noise
from optical_dfa.devices.readouts.anchored import DIM
from optical_dfa.emulator import BenchInfo
from optical_dfa.emulator.checks import require

_GOLDEN = (math.sqrt(5) - 1) / 2
_CUT_IN_BAND = 1 / 3
"""Most of what clipping cuts off that can lie in the band of an off-axis field.

It is cut off at the crests of the fringes: in the Fourier plane the bands at 0 and ±k have equal parts of it at most.
"""

_LEAST_E = 1e-6  # a reference level that can be divided by


@dataclass(frozen=True)
class Light:
    """What limits and blurs a reading of a given bench, before its exposure is chosen."""

    signal_e_per_feature_us: float
    """Mean electrons per pixel that one ON feature gives in a microsecond."""
    saturation_e: float
    """Electrons at which a reading saturates: min(full well, (2^bits - 1 - black level)/K)."""
    read_noise_e: float
    quantum_e: float
    """Electrons per digital number, 1/K; 0 without a converter."""
    dark_e_per_us: float = 0.0
    """Dark current, electrons per pixel and microsecond."""

    def __post_init__(self) -> None:
        for name in ("signal_e_per_feature_us", "saturation_e"):
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "a finite number > 0")
        for name in ("read_noise_e", "quantum_e", "dark_e_per_us"):
            require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "a finite number ≥ 0")


@dataclass(frozen=True)
class Exposure:
    """A chosen exposure, and what it was chosen for: record it with the results."""

    exposure_us: float
    reference_e: float
    """Level of the reference arm, electrons per pixel and exposure; 0 for readouts without one."""
    signal_e_per_feature: float
    """Mean electrons per pixel and exposure that one ON feature gives."""
    clipped_fraction: float
    """Expected fraction of saturated readings, at most `max_clipped_fraction`."""
    snr_db: float
    """Expected signal-to-noise ratio over the declared patterns, decibels. With the cost of clipping:
    for `off_axis` an upper limit of that, for `anchored` without it."""
    readout: str
    on_counts: tuple[tuple[int, float], ...]
    """Features ON in a pattern, and how often, adding up to 1."""
    max_clipped_fraction: float

    def photometry(self) -> dict[str, float]:
        """The section `photometry` of an emulated bench, to be given to it as overrides."""
        return {
            "signal_e_per_feature": self.signal_e_per_feature,
            "reference_e": self.reference_e,
            "exposure_us": self.exposure_us,
        }


def auto_exposure(
    info: BenchInfo,
    light: Light,
    on_counts: Mapping[int, float],
    readout: Literal["phase_stepping", "off_axis", "anchored", "intensity"] = "phase_stepping",
    *,
    steps: int = 4,
    kept_fraction: float = 1.0,
    features_per_anchor: int = 0,
    n_anchors: int = 1,
    max_clipped_fraction: float = 1e-4,
) -> Exposure:
    """The exposure time and reference level of highest SNR at which few enough readings saturate.

    For the declared patterns, the SNR is Σ signal / Σ variance over them (`noise`), and the clipped fraction is the
    mean of the Marcum function. A brighter reference always lessens the noise until it clips, so the level is the
    highest that clips little enough. What clipping itself costs counts too, but for `anchored`: clipping less than the
    limit may be better, and is then chosen (a tenth or a hundredth of it).

    Args:
        info: of the bench; its exposure limits are kept.
        light: how much light a feature gives, and what the camera makes of it.
        on_counts: number of ON features of a pattern → weight; the patterns that are displayed, so 1 or more.
        readout: which; without a reference arm, `anchored` and `intensity`, there is the exposure time alone.
        steps: of `phase_stepping`, 3 or 4.
        kept_fraction: of a pupil, see `noise`.
        features_per_anchor: ON elements of an anchor, for `anchored`.
        n_anchors: anchors of `anchored`.
        max_clipped_fraction: most saturated readings.

    Raises:
        ValueError: a distribution without weight or with an empty pattern; no exposure is short enough.
    """
    weights = _distribution(on_counts)
    require(0 < max_clipped_fraction < 1, "max_clipped_fraction", max_clipped_fraction, "a number between 0 and 1")
    has_reference = readout in ("phase_stepping", "off_axis")
    require(has_reference or readout in ("anchored", "intensity"), "readout", readout,
            "phase_stepping, off_axis, anchored or intensity")  # fmt: skip
    require((features_per_anchor > 0) == (readout == "anchored"), "features_per_anchor", features_per_anchor,
            "1 or more for anchored, 0 for other readouts")  # fmt: skip

    def clipped(exposure_us: float, reference_e: float) -> float:
        feature_e = light.signal_e_per_feature_us * exposure_us
        saturation_e = light.saturation_e - light.dark_e_per_us * exposure_us
        if saturation_e <= 0:
            return 1.0
        # frames with an anchor are the bright ones: the limit holds for them
        signals = [((count + features_per_anchor) * feature_e, weight) for count, weight in weights]
        return sum(
            weight * noise.clipped_fraction(signal_e, reference_e, saturation_e)
            for signal_e, weight in signals
            if not _is_far(signal_e, reference_e, saturation_e)
        )

    def signal_to_noise(exposure_us: float, reference_e: float) -> float:
        feature_e = light.signal_e_per_feature_us * exposure_us
        signal_e = feature_e * sum(count * weight for count, weight in weights)
        dark_e = light.dark_e_per_us * exposure_us
        camera = (light.read_noise_e, light.quantum_e, dark_e)
        if readout == "anchored":
            anchor_e = feature_e * features_per_anchor
            return signal_e / 2 / noise.anchored_variance_e(signal_e, anchor_e, n_anchors, DIM, *camera)
        room_e = light.saturation_e - dark_e
        cut_e = sum(
            weight * noise.clipping_variance_e(count * feature_e, reference_e, room_e)
            for count, weight in weights
            if not _is_far(count * feature_e, reference_e, room_e)
        )
        if readout == "intensity":
            return signal_e**2 / (noise.image_variance_e(signal_e, *camera) + cut_e)
        if readout == "off_axis":
            variance_e = noise.off_axis_variance_e(signal_e, reference_e, kept_fraction, *camera)
            return signal_e / (variance_e + cut_e * _CUT_IN_BAND / reference_e)
        variance_e = noise.phase_stepping_variance_e(signal_e, reference_e, steps, *camera)
        return signal_e / (variance_e + cut_e / (steps * reference_e)) / kept_fraction

    def best_at(limit: float) -> tuple[float, float, float]:
        """SNR, exposure time and reference level that are best where the clipped fraction is at most `limit`."""

        def reference_at(exposure_us: float, halvings: int = 14) -> float:
            if not has_reference:
                return 0.0
            return max(_LEAST_E, _last(lambda e: clipped(exposure_us, e) <= limit, 0.0, light.saturation_e, halvings))

        # a longer exposure leaves less room for the reference
        longest = _last(lambda us: clipped(us, 0.0) <= limit, *info.exposure_limits_us)
        exposure_us = _best(lambda us: signal_to_noise(us, reference_at(us)), info.exposure_limits_us[0], longest)
        if signal_to_noise(longest, reference_at(longest)) >= signal_to_noise(exposure_us, reference_at(exposure_us)):
            exposure_us = longest
        reference_e = reference_at(exposure_us, 30)
        return signal_to_noise(exposure_us, reference_e), exposure_us, reference_e

    shortest = info.exposure_limits_us[0]
    if clipped(shortest, 0.0) > max_clipped_fraction:
        raise ValueError(
            f"the shortest exposure, {shortest:g} µs, saturates {clipped(shortest, 0.0):.2%} of the readings, at most "
            f"{max_clipped_fraction:.2%} are wanted: lower the light of the signal, or show fewer ON features"
        )
    limits = [max_clipped_fraction]
    if readout != "anchored":
        limits += [part * max_clipped_fraction for part in (0.1, 0.01)]
    found = [best_at(limit) for limit in limits if clipped(shortest, 0.0) <= limit]
    best, exposure_us, reference_e = max(found)
    return Exposure(
        exposure_us=exposure_us,
        reference_e=reference_e,
        signal_e_per_feature=light.signal_e_per_feature_us * exposure_us,
        clipped_fraction=clipped(exposure_us, reference_e),
        snr_db=noise.decibels(best),
        readout=readout,
        on_counts=weights,
        max_clipped_fraction=max_clipped_fraction,
    )


def _distribution(on_counts: Mapping[int, float]) -> tuple[tuple[int, float], ...]:
    total = sum(on_counts.values())
    fits = all(count >= 1 and 0 <= weight < math.inf for count, weight in on_counts.items()) and total > 0
    require(fits, "on_counts", dict(on_counts), "numbers of ON features ≥ 1 with weights ≥ 0, not all 0")
    return tuple((count, weight / total) for count, weight in sorted(on_counts.items()) if weight)


def _is_far(signal_e: float, reference_e: float, saturation_e: float) -> bool:
    """Whether next to nothing is clipped, by the bound Q₁(a, b) ≤ exp(-(b - a)²/2): below 1e-26."""
    apart = math.sqrt(max(saturation_e, 0)) - math.sqrt(reference_e)
    return apart > 0 and apart**2 > 60 * signal_e


def _last(holds: Callable[[float], bool], low: float, high: float, halvings: int = 30) -> float:
    """The largest number at which a condition holds that holds from `low` on and then no more."""
    if holds(high):
        return high
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _best(value: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one maximum has it: golden-section search over the logarithm."""
    start, stop = math.log(low), math.log(high)
    left, right = stop - _GOLDEN * (stop - start), start + _GOLDEN * (stop - start)
    at_left, at_right = value(math.exp(left)), value(math.exp(right))
    while stop - start > 0.003:  # the maximum is flat: 0.3 % are nothing
        if at_left < at_right:
            start, left, at_left = left, right, at_right
            right = start + _GOLDEN * (stop - start)
            at_right = value(math.exp(right))
        else:
            stop, right, at_right = right, left, at_left
            left = stop - _GOLDEN * (stop - start)
            at_left = value(math.exp(left))
    return math.exp((start + stop) / 2)
