"""The values of a bench, in the units of a preset, from what was fitted."""

import math

import numpy as np

from optical_dfa.twin.camera import CLEAR, Dark, PhotonTransfer, dark_frames, digital_step
from optical_dfa.twin.drift import Drift, Fitted
from optical_dfa.twin.estimate import Estimate, at_least, at_most, measured, not_told
from optical_dfa.twin.light import Light
from optical_dfa.twin.observed import Floats, Observed

HOT = 12.0
"""A pixel so many standard deviations of all above their median in the dark is a defect of its own."""

NOT_TOLD = (
    ("camera.quantum_efficiency", "photons are not counted here: it needs a calibrated source of light"),
    ("camera.dark_current_e_per_s", "frames of one exposure time: it is part of the black level"),
    ("camera.prnu", "not told apart from the beams: both are in the maps"),
    ("dmd.envelope_waist", "in the matrix: features are as bright as they were measured"),
    ("laser.signal_waist", "in the matrix"),
    ("apparatus.power_w", "no frame tells it: that of the preset phase-stepping is kept"),
)


def estimates(
    seen: Observed, light: Light, transfer: PhotonTransfer, drift: Drift, variance: Floats, dark: Dark
) -> tuple[Estimate, ...]:
    """Every value, in the order of a preset.

    Args:
        seen: frames.
        light: of all their pixels.
        transfer: photon transfer curve.
        drift: what changes from frame to frame.
        variance: (P,) of a reading, DN².
        dark: readings without light.
    """
    return (
        *_photometry(seen, light, transfer, variance),
        *_camera(seen, light, transfer, dark),
        *_optics(seen, light, transfer, variance, dark, drift),
        *_drift(drift),
        *(not_told(name, why) for name, why in NOT_TOLD),
    )


def gain_of(seen: Observed, transfer: PhotonTransfer) -> tuple[float, float]:
    """Gain and its standard error; that of the bench's own info, and inf, where no shot noise was seen."""
    error = math.sqrt(float(transfer.covariance[0, 0]))
    return (transfer.gain, error) if transfer.gain > 5 * error else (seen.info.gain_dn_per_e, math.inf)


def quantisation(seen: Observed) -> float:
    """Variance of rounding to whole digital numbers, DN²."""
    return 0.0 if seen.info.adc_bits is None else digital_step(seen.images)[0] ** 2 / 12


def _photometry(seen: Observed, light: Light, transfer: PhotonTransfer, variance: Floats) -> list[Estimate]:
    gain, gain_error = gain_of(seen, transfer)
    relative = gain_error / gain if math.isfinite(gain_error) else 0.0
    alive = light.alive
    power = np.abs(light.columns[:, alive]) ** 2
    noise = 2 * float(np.mean(light.field_error(variance)[alive] ** 2))
    signal = float(power.mean()) - noise
    # the mean of so many exponential intensities is that far from what a medium of this kind has on average
    spread = 1 / math.sqrt(power.size)
    level = light.reference[alive]
    level_error = math.sqrt(_reference_variance(seen, light, variance) / len(level))
    why = "mean over the pixels, by the gain" if math.isfinite(gain_error) else "by the gain that the bench states"
    return [
        measured("photometry.signal_e_per_feature", signal / gain, signal / gain * math.hypot(relative, spread), why),
        measured(
            "photometry.reference_e",
            float(level.mean()) / gain,
            math.hypot(float(level.mean()) / gain * relative, level_error / gain),
            why,
        ),
    ]


def _camera(seen: Observed, light: Light, transfer: PhotonTransfer, dark: Dark) -> list[Estimate]:
    gain, gain_error = gain_of(seen, transfer)
    found = []
    if math.isfinite(gain_error):
        found.append(measured("camera.gain_dn_per_e", gain, gain_error, "slope of the photon transfer curve"))
    else:
        found.append(not_told("camera.gain_dn_per_e", "no shot noise was seen: that which the bench states is kept"))
    found.append(_read_noise(seen, transfer, gain))
    found.append(_bits(seen))
    found += _dark(seen, dark, gain)
    found.append(_well(seen, gain, gain_error if math.isfinite(gain_error) else 0.0, float(np.median(light.dark))))
    alive = light.alive
    found.append(_fraction("camera.dead_pixels", int((~alive).sum()), len(alive), "answers to no light"))
    return found


def _read_noise(seen: Observed, transfer: PhotonTransfer, gain: float) -> Estimate:
    name = "camera.read_noise_e"
    square = transfer.floor - quantisation(seen)
    error = math.sqrt(float(transfer.covariance[1, 1]))
    if square < 2 * error:
        limit = math.sqrt(max(square, 0) + 2 * error) / gain
        return at_most(name, limit, "hidden by shot noise and quantisation")
    value = math.sqrt(square) / gain
    # σ = √s/K: relative errors of s and K, which the fit ties together
    both = float(transfer.covariance[0, 1]) / (square * gain)
    relative = error**2 / (4 * square**2) + float(transfer.covariance[0, 0]) / gain**2 - both
    return measured(name, value, value * math.sqrt(max(relative, 0)), "photon transfer curve at no light")


def _bits(seen: Observed) -> Estimate:
    name = "camera.adc_bits"
    if seen.info.adc_bits is None:
        return not_told(name, "images are no whole numbers: no converter")
    step, largest, _ = digital_step(seen.images)
    least = max(1, math.ceil(math.log2(largest + 1)))
    why = f"stated; numbers to {largest:,}: {least} or more, steps of {step}"
    return Estimate(name, "measured", seen.info.adc_bits, seen.info.adc_bits, seen.info.adc_bits, why)


def _dark(seen: Observed, dark: Dark, gain: float) -> list[Estimate]:
    black, dsnu, hot = "camera.black_level_dn", "camera.dsnu_e", "camera.hot_pixels"
    images = dark_frames(seen)
    if images is None:
        why = "noise in the dark is rounded off" if (~seen.reference & ~seen.lit).any() else "no dark frame"
        level = measured(black, float(dark.level[0]), dark.error, f"stepped frames: {why}")
        return [level, not_told(dsnu, why), not_told(hot, why)]
    pixels = len(dark.level)
    own = float(np.mean(images.var(axis=0, ddof=1))) / len(images)
    scatter = 1.4826 * float(np.median(np.abs(dark.level - np.median(dark.level))))
    odd = dark.level > np.median(dark.level) + HOT * max(scatter, math.sqrt(own))
    kept = dark.level[~odd]
    spread = float(kept.var(ddof=1))
    found = [measured(black, float(kept.mean()), math.sqrt(dark.error**2 + spread / pixels), "dark frames")]
    excess, width = spread - own, spread * math.sqrt(2 / pixels)
    if excess > 3 * width:
        value = math.sqrt(excess) / gain
        found.append(measured(dsnu, value, value * width / (2 * excess), "scatter of the pixels in the dark"))
    else:
        limit = math.sqrt(max(excess, 0) + 3 * width) / gain
        found.append(at_most(dsnu, limit, "pixels differ by no more than their noise"))
    return [*found, _fraction(hot, int(odd.sum()), pixels, "bright in the dark")]


def _fraction(name: str, count: int, pixels: int, why: str) -> Estimate:
    """So many of the pixels: Poisson's law."""
    if not count:
        return at_most(name, 3 / pixels, f"none of {pixels:,}")
    return Estimate(
        name, "measured", count / pixels, max(count - 2 * math.sqrt(count), 0) / pixels,
        (count + 2 * math.sqrt(count) + 2) / pixels, why,
    )  # fmt: skip


def _well(seen: Observed, gain: float, gain_error: float, dark: float) -> Estimate:
    name, info = "camera.full_well_e", seen.info
    largest = float(seen.images.max())
    often = int(np.count_nonzero(seen.images == largest))
    top = math.inf if info.adc_bits is None else 2.0**info.adc_bits - 1
    if largest < top and often > 100:
        value = (largest - dark) / gain
        error = math.hypot(0.5 / gain, value * gain_error / gain)
        return measured(name, value, error, f"{often:,} readings stop at {largest:g}")
    why = "the converter ends first" if largest == top else "nothing was saturated"
    return at_least(name, (largest - 0.5 - dark) / (gain + 2 * gain_error), why)


def _optics(
    seen: Observed, light: Light, transfer: PhotonTransfer, variance: Floats, dark: Dark, drift: Drift
) -> list[Estimate]:
    gain, _ = gain_of(seen, transfer)
    alive = light.alive
    level = light.reference[alive]
    own = _reference_variance(seen, light, variance)
    spread, width = float(level.var(ddof=1)), float(level.var(ddof=1)) * math.sqrt(2 / len(level))
    mean = float(level.mean())
    if not dark.each:
        uneven = not_told("unevenness of the reference", "not told apart from dark readings of the pixels")
    elif spread - own > 3 * width:
        uneven = measured(
            "unevenness of the reference", math.sqrt(spread - own) / mean, width / (2 * math.sqrt(spread - own) * mean),
            "beam, and response of the pixels",
        )  # fmt: skip
    else:
        limit = math.sqrt(max(spread - own, 0) + 3 * width) / mean
        uneven = at_most("unevenness of the reference", limit, "pixels differ by no more than their noise")
    return [
        _contrast(light, variance),
        _always_on(light, gain),
        _coherence(seen, light, transfer, dark, drift.power),
        uneven,
    ]


def _reference_variance(seen: Observed, light: Light, variance: Floats) -> float:
    """Mean over pixels of the variance of ρ: that of the even part, of slope 1 - |A|²/ρ, and of the dark reading."""
    alive = light.alive
    patterns, count = np.unique(seen.patterns[seen.reference], axis=0, return_counts=True)
    slope = 1 - np.abs(light.amplitude(patterns)[:, alive]) ** 2 / light.reference[alive]
    even = variance[alive] / (count @ slope**2)
    dark = dark_frames(seen)
    return float(even.mean()) + (0.0 if dark is None else float(dark[:, alive].var(axis=0, ddof=1).mean()) / len(dark))


def _contrast(light: Light, variance: Floats) -> Estimate:
    """B = κ/(1 - κ) · Σ C + padding: the part of the background that is the sum of all features."""
    name = "dmd.contrast"
    alive = light.alive
    whole, background = light.columns[:, alive].sum(axis=0), light.background[alive]
    power = float(np.sum(np.abs(whole) ** 2))
    n = len(light.columns)
    noise = variance[alive] * float(np.diag(light.covariance)[n]) / (4 * light.reference[alive])
    if not background.any():
        error = math.sqrt(float(noise.sum()) / len(noise) / max(power, 1e-12))
        return at_least(name, (1 + 1 / (2 * error)) ** 2, "no light where nothing is ON")
    slope = float(np.vdot(whole, background).real) / power
    left = background - slope * whole
    error = math.sqrt(float(np.sum(np.abs(left) ** 2)) / 2 / len(noise) / power)
    if slope < 3 * error:
        return at_least(name, (1 + 1 / (max(slope, 0) + 2 * error)) ** 2, "what is always there is not the features")
    value = (1 + 1 / slope) ** 2
    return measured(name, value, 2 * (1 + 1 / slope) * error / slope**2, "light always there, as sum of all features")


def _always_on(light: Light, gain: float) -> Estimate:
    name = "light always there"
    if not light.background.any():
        return Estimate(name, "limit", 0.0, 0.0, 0.0, "none beyond its noise")
    power = np.abs(light.background[light.alive]) ** 2 / gain
    return measured(
        name, float(power.mean()), float(power.std()) / math.sqrt(len(power)), "leak, and mirrors left over"
    )


def _coherence(seen: Observed, light: Light, transfer: PhotonTransfer, dark: Dark, power: Fitted) -> Estimate:
    """Contrast of the interferometer: the signal found by interference over the signal seen without the reference."""
    name = "contrast of the interferometer"
    alone = seen.frames(~seen.reference & seen.lit)
    if not len(alone):
        return not_told(name, "no frame of features without the reference arm")
    expected = np.abs(light.amplitude(alone.patterns)) ** 2
    clear = expected > CLEAR * np.sqrt(transfer.of(expected)) - light.dark[None, :]
    clear &= light.alive & (alone.images < seen.info.saturation_dn)
    rows = np.concatenate([alone.patterns, np.ones((len(alone), 1))], axis=1)
    n = rows.shape[1]
    of_field = 2 * np.einsum("fi,ij,fj->f", rows, light.covariance[:n, :n], rows)[:, None]
    total = light.reference + expected
    noise = of_field * transfer.of(total) / (4 * np.where(light.alive, light.reference, 1))
    seen_e, told_e = (alone.images - light.dark)[clear], (expected - noise)[clear]
    ratio = float(told_e.sum() / seen_e.sum())
    readings_error = math.sqrt(float(transfer.of(expected)[clear].sum()))
    fields_error = math.sqrt(float((2 * expected * noise)[clear].sum()) * len(alone.patterns) / max(n, 1))
    level_error = dark.error * int(clear.sum())
    error = math.hypot(readings_error, fields_error, level_error) / float(seen_e.sum())
    if math.isfinite(power.high):  # the power of these frames is not known: it has the mean of the others
        error = math.hypot(error, power.value / math.sqrt(len(alone)))
    value = math.sqrt(max(ratio, 0))
    return measured(name, value, max(value * error / 2, 1e-4), "signal that interferes, over all signal")


def _drift(drift: Drift) -> list[Estimate]:
    def not_negative(name: str, fitted: Fitted, why: str) -> Estimate:
        if not math.isfinite(fitted.high) or math.isnan(fitted.value):
            return not_told(name, "too few frames tell it")
        if not fitted.seen:
            return at_most(name, fitted.high, "not more than the noise of measuring it")
        return Estimate(name, "measured", fitted.value, fitted.low, fitted.high, why)

    found = [
        not_negative("medium.piston_walk_rad", drift.walk, "phase of each frame"),
        not_negative("medium.vibration_rad", drift.vibration, "phase of each frame"),
        not_negative("laser.intensity_noise", drift.power, "power of each frame"),
    ]
    name, step = "laser.phase_step_error", drift.step
    if not math.isfinite(step.error):
        found.append(not_told(name, "no neighbouring frames of different phase"))
    else:
        found.append(measured(name, step.value, step.error, "turn of the field at each step"))
    name, medium = "medium.decorrelation_tau_s", drift.medium
    if medium is None:
        return [*found, not_told(name, "no pattern was seen again and again")]
    if not medium.changed:
        why = f"correlation still {medium.correlation[-1]:.3f} after {medium.lag_s[-1]:.3g} s: watch it longer"
        return [*found, at_least(name, medium.tau.low, why)]
    return [*found, Estimate(name, "measured", medium.tau.value, medium.tau.low, medium.tau.high, "looks at the probe")]
