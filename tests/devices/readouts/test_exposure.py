"""The exposure chosen for declared patterns: its limits are kept, and nothing near it is better."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from plain_bench import PlainBench, gaussian_fields, tilted
from scipy import stats

from optical_dfa.devices import (
    Exposure,
    Light,
    OffAxis,
    auto_exposure,
    carrier_on_bin,
    load_preset,
    make_device,
    open_device,
)
from optical_dfa.devices.readouts import noise
from optical_dfa.emulator import BenchInfo, FrameStamp
from optical_dfa.emulator.pupil import Pupil

INFO = BenchInfo(
    n_frame_inputs=10, image_shape=(2, 2), adc_bits=8, saturation_dn=255, gain_dn_per_e=0.0255,
    has_reference=True, has_phase_modulator=True, exposure_limits_us=(1.0, 1e6),
)  # fmt: skip
LIGHT = Light(signal_e_per_feature_us=0.625, saturation_e=10_000, read_noise_e=13, quantum_e=1 / 0.0255)
SPREAD = {1: 0.5, 2: 0.3, 5: 0.2}


def clipped(exposure: Exposure, anchor: int = 0, change: float = 1.0) -> float:
    """Mean of the Marcum function by scipy, with the light of everything multiplied by `change`."""
    total = 0.0
    for count, weight in exposure.on_counts:
        signal_e = (count + anchor) * exposure.signal_e_per_feature * change
        b2, a2 = 2 * 10_000 / signal_e, 2 * exposure.reference_e * change / signal_e
        total += weight * float(stats.ncx2.sf(b2, 2, a2) if a2 else math.exp(-b2 / 2))
    return total


@pytest.mark.parametrize("limit", [1e-6, 1e-4])
@pytest.mark.parametrize("on_counts", [{1: 1.0}, {4: 3.0, 100: 1.0}], ids=str)
@pytest.mark.parametrize("readout", ["phase_stepping", "off_axis"])
def test_clipped_fraction_is_kept(on_counts: dict[int, float], limit: float, readout: Any) -> None:
    exposure = auto_exposure(INFO, LIGHT, on_counts, readout, max_clipped_fraction=limit)
    assert clipped(exposure) == pytest.approx(exposure.clipped_fraction, rel=1e-5)
    # it may be better to clip less, in steps of ten
    expected = 10 ** round(math.log10(clipped(exposure)))
    assert limit / 101 < expected <= limit * 1.001
    assert clipped(exposure) == pytest.approx(expected, rel=1e-4)
    assert sum(weight for _, weight in exposure.on_counts) == pytest.approx(1)
    assert exposure.signal_e_per_feature == pytest.approx(0.625 * exposure.exposure_us)


@pytest.mark.parametrize(("steps", "limit"), [(4, 1e-2), (4, 1e-4), (3, 1e-3)])
def test_nothing_that_clips_as_little_is_better(steps: int, limit: float) -> None:
    """Against a grid of exposure times and reference levels."""
    exposure = auto_exposure(INFO, LIGHT, {1: 1.0}, steps=steps, max_clipped_fraction=limit)

    def snr_db(signal_e: float, reference_e: float) -> float:
        fixed_e = 13**2 + (1 / 0.0255) ** 2 / 12 + noise.clipping_variance_e(signal_e, reference_e, 10_000)
        return float(10 * np.log10(steps * reference_e * signal_e / (signal_e + reference_e + fixed_e)))

    assert exposure.snr_db == pytest.approx(snr_db(exposure.signal_e_per_feature, exposure.reference_e))
    grid = [(signal_e, level) for signal_e in np.geomspace(100, 3000, 15) for level in np.geomspace(200, 5000, 15)]
    allowed = [point for point in grid if noise.clipped_fraction(*point, 10_000) <= limit]
    best = max(snr_db(*point) for point in allowed)
    assert len(allowed) > 20
    assert exposure.snr_db >= best - 0.1  # the limits that are tried are a factor of ten apart


@pytest.mark.parametrize("grain_px", [3.3, 6.0])
def test_off_axis_at_the_chosen_exposure(grain_px: float) -> None:
    """What clipping costs there is an upper limit: measured, it is no worse, and at most 3 dB better.

    On a plain bench; 3,000 modes or more are known to 0.1 dB, and their few clipped grains to 0.3 dB.
    """
    optics = Pupil((400, 400), grain_px)
    carrier = carrier_on_bin(optics)
    exposure = auto_exposure(
        INFO, LIGHT, {1: 1.0}, "off_axis", kept_fraction=optics.kept_fraction, max_clipped_fraction=1e-3
    )
    modes = gaussian_fields((1, optics.n_modes), exposure.signal_e_per_feature, 1)
    wave = tilted((400, 400), exposure.reference_e, carrier)
    camera: dict[str, Any] = {"gain_dn_per_e": 0.0255, "bits": 8, "full_well_e": 1e4, "read_noise_e": 13, "shot": True}
    readout = OffAxis(PlainBench(optics.to_image(modes), wave, **camera), exposure.reference_e, optics, carrier)
    found = readout.read(np.ones((1, 1), np.uint8), FrameStamp(0, 0)).amplitude.astype(np.float64).view(np.complex128)
    measured_db = noise.decibels(np.mean(np.abs(modes) ** 2) / np.mean(np.abs(found - modes) ** 2))
    assert exposure.snr_db - 0.5 < measured_db < exposure.snr_db + 3


def test_longest_exposure() -> None:
    """A dim signal: exposure as long as it may be, the rest is reference."""
    info = dataclasses.replace(INFO, exposure_limits_us=(1.0, 400.0))
    exposure = auto_exposure(info, dataclasses.replace(LIGHT, signal_e_per_feature_us=0.01), {1: 1.0})
    assert exposure.exposure_us == pytest.approx(400, rel=1e-4)
    assert exposure.reference_e > 7000


@pytest.mark.parametrize(("readout", "anchor"), [("intensity", 0), ("anchored", 6)])
def test_without_a_reference_the_law_is_exponential(readout: Any, anchor: int) -> None:
    """exp(-FW / mean) = limit gives the mean itself."""
    exposure = auto_exposure(INFO, LIGHT, {2: 1.0}, readout, features_per_anchor=anchor, max_clipped_fraction=1e-3)
    assert exposure.reference_e == 0
    limit = exposure.clipped_fraction
    assert exposure.signal_e_per_feature * (2 + anchor) == pytest.approx(10_000 / -math.log(limit), rel=1e-6)
    assert clipped(exposure, anchor) == pytest.approx(limit, rel=1e-6)
    assert limit <= 1e-3 * (1 + 1e-9)


def test_dark_current_takes_its_part_of_the_well() -> None:
    dark = dataclasses.replace(LIGHT, dark_e_per_us=1.0)
    exposure = auto_exposure(INFO, dark, {1: 1.0}, "intensity", max_clipped_fraction=1e-3)
    room_e = 10_000 - exposure.exposure_us
    assert exposure.signal_e_per_feature == pytest.approx(room_e / -math.log(exposure.clipped_fraction), rel=1e-6)


def test_the_emulator_at_the_chosen_exposure() -> None:
    """Twenty vectors of one to five features on 10,000 pixels clip as much as expected, and are as noisy.

    Of 800,000 readings, 80 or more clip, most in fours of a pixel's neighbours in phase: 20 %. With the squares of what
    is cut off, exponential, that is 0.3 dB of their part, a third, of the noise: 0.5 dB are 5 σ.
    """
    exposure = auto_exposure(INFO, LIGHT, SPREAD, max_clipped_fraction=1e-4)
    vectors = np.zeros((20, 100), np.int8)
    counts = [1] * 10 + [2] * 6 + [5] * 4
    for number, (vector, count) in enumerate(zip(vectors, counts, strict=True)):
        vector[5 * number : 5 * number + count] = 1
    options: dict[str, Any] = {"n_inputs": 100, "n_outputs": 20_000, "photometry": exposure.photometry()}
    with open_device("emulator", **options) as device:
        found = device.project(vectors)
        fraction = device.usage.saturated_pixels / device.usage.pixel_readings
        matrix = device.effective_matrix()
    assert matrix is not None
    assert fraction == pytest.approx(exposure.clipped_fraction, rel=0.6)
    exact = vectors @ matrix.T.astype(np.float64)
    assert noise.decibels(np.mean(exact**2) / np.mean((found - exact) ** 2)) == pytest.approx(exposure.snr_db, abs=0.5)
    # recorded where the device is: in its settings
    settings = make_device("emulator", **options).settings
    assert settings["photometry"] == exposure.photometry()
    assert load_preset("phase-stepping", {"photometry": exposure.photometry()}).bench.photometry.reference_e > 0


@pytest.mark.parametrize(
    ("on_counts", "options", "message"),
    [
        ({}, {}, "on_counts must be numbers of ON features ≥ 1 with weights ≥ 0, not all 0"),
        ({0: 1.0}, {}, "on_counts must be numbers of ON features"),
        ({1: 0.0}, {}, "on_counts must be numbers of ON features"),
        ({1: 1.0}, {"readout": "holography"}, "readout must be phase_stepping, off_axis, anchored or intensity"),
        ({1: 1.0}, {"readout": "anchored"}, "features_per_anchor must be 1 or more for anchored"),
        ({1: 1.0}, {"max_clipped_fraction": 0.0}, "max_clipped_fraction must be a number between 0 and 1"),
        ({100_000: 1.0}, {}, "the shortest exposure, 1 µs, saturates .* of the readings"),
    ],
)
def test_refusals(on_counts: dict[int, float], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auto_exposure(INFO, LIGHT, on_counts, **options)
