"""Four-step phase stepping against its closed formula, a plain simulation, and a table of an earlier simulation."""

import dataclasses
import functools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from optical_dfa.devices import (
    PhaseStepping,
    ProjectionDevice,
    SaturationWarning,
    load_preset,
    make_device,
    measured_snr_db,
)
from optical_dfa.emulator import BenchInfo, EmulatedBench, FrameStamp
from optical_dfa.emulator.matrix import VARIANCE

FULL_WELL_E, READ_NOISE_E, GAIN = 10_000.0, 13.0, 0.0255
Q_E = 1 / GAIN  # electrons per digital number
FIXED_E = READ_NOISE_E**2 + Q_E**2 / 12
MODES = 400_000

FEATURES, PATTERNS = 50, 20
"""On the device, 50 features give Gaussian fields, and patterns without a common feature independent ones."""

Ternary = npt.NDArray[np.int8]


def power_ratio_db(signal: npt.NDArray[Any], noise: npt.NDArray[Any]) -> float:
    return float(10 * np.log10(np.mean(np.square(signal)) / np.mean(np.square(noise))))


@functools.cache
def measured(signal_e: float, reference_e: float) -> tuple[float, float]:
    """SNR, decibels, and saturated fraction of a binary pattern: bench and readout on MODES Gaussian fields."""
    preset = load_preset(
        "phase-stepping", {"photometry": {"signal_e_per_feature": signal_e, "reference_e": reference_e}}
    )
    bench = EmulatedBench(1, MODES, 0, preset.bench)
    pixels = math.prod(bench.info.image_shape)
    field = np.rint(np.random.default_rng(1).standard_normal((1, 2 * pixels)) * VARIANCE**0.5).astype(np.int32)
    one_feature_on = SimpleNamespace(stream=lambda frames, consume: consume(0, 0, field))
    bench.propagation.product = one_feature_on  # type: ignore[assignment]
    reading = PhaseStepping(bench, reference_e).read(np.ones((1, 1), np.uint8), FrameStamp(0, 0))
    exact = field * math.sqrt(signal_e / (2 * VARIANCE))
    return power_ratio_db(exact, reading.amplitude - exact), reading.saturated_pixels / reading.pixel_readings


def simulated_snr_db(signal_e: float, reference_e: float) -> float:
    """Plain simulation of one binary pattern: complex Gaussian fields, Poisson and read noise, full well, 8 bits."""
    generator = np.random.default_rng(0)
    real, imaginary = generator.standard_normal((2, MODES)) * math.sqrt(signal_e / 2)
    wave = real + 1j * imaginary
    steps = []
    for turn in range(4):
        electrons = np.abs(wave + math.sqrt(reference_e) * 1j**turn) ** 2
        electrons = generator.poisson(electrons) + READ_NOISE_E * generator.standard_normal(MODES)
        steps.append(np.clip(np.rint(np.minimum(electrons, FULL_WELL_E) * GAIN), 0, 255) / GAIN)
    found = ((steps[0] - steps[2]) + 1j * (steps[1] - steps[3])) / (4 * math.sqrt(reference_e))
    return power_ratio_db(np.abs(wave), np.abs(found - wave))


@pytest.mark.parametrize(
    ("signal_e", "reference_e"), [(50, 500), (100, 1000), (250, 1500), (100, 3000), (20, 4000), (300, 300)]
)
def test_snr_of_a_binary_pattern(signal_e: float, reference_e: float) -> None:
    """4 Is R² / (Is + R² + s² + q²/12), where clipping is below 1e-6.

    Signal and noise power of 800,000 quadratures are each known to √(2/N) = 0.16 %, together to 0.01 dB: 0.06 dB are
    6 σ, false alarms below 1e-7.
    """
    expected = 10 * math.log10(4 * signal_e * reference_e / (signal_e + reference_e + FIXED_E))
    assert measured(signal_e, reference_e)[0] == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    ("signal_e", "reference_e", "published_db"), [(100, 1000, 24.6), (500, 1500, 30.9), (1000, 2000, 21.8)]
)
def test_published_table(signal_e: float, reference_e: float, published_db: float) -> None:
    """An earlier simulation: full well 10,000 e-, read noise 13 e-, 8 bits; the last row clips 1.1 % of the readings.

    There, the errors of some 16,000 clipped readings decide, exponential in size: Σ error² is known to √(5/16,000),
    0.08 dB. False alarms are below 1e-6 if the table is right to 0.1 dB.
    """
    assert measured(signal_e, reference_e)[0] == pytest.approx(published_db, abs=0.5)


@pytest.mark.parametrize(("signal_e", "reference_e"), [(1000, 2000), (2000, 2000)])
def test_clipping_against_a_plain_simulation(signal_e: float, reference_e: float) -> None:
    """1.1 and 6.6 % clipped: bench and simulation are each right to 0.08 dB (as above), 0.55 dB are 4.9 σ: 1e-6."""
    assert measured(signal_e, reference_e)[0] == pytest.approx(simulated_snr_db(signal_e, reference_e), abs=0.55)


def marcum(signal_e: float, reference_e: float) -> float:
    """Q₁(√(2R²/Is), √(2·FW/Is)), the survival function of a non-central χ² with two degrees of freedom."""
    return float(stats.ncx2.sf(2 * FULL_WELL_E / signal_e, 2, 2 * reference_e / signal_e))


@pytest.mark.parametrize(("signal_e", "reference_e"), [(1000, 2000), (1500, 1500), (1200, 2000)])
def test_saturated_fraction_is_the_marcum_function(signal_e: float, reference_e: float) -> None:
    """At least 16,000 of 1.6 million readings saturate: their number is known to 0.8 %.

    So 5 % are 5 σ, false alarms 6e-7, beyond the 1 % that noise and rounding near the full well may add.
    """
    expected = marcum(signal_e, reference_e)
    assert 0.01 < expected < 0.05
    assert measured(signal_e, reference_e)[1] == pytest.approx(expected, rel=0.05)


def device_with(signal_e: float, reference_e: float, n_outputs: int) -> ProjectionDevice:
    """The emulator whose mean signal is `signal_e` with FEATURES features ON."""
    photometry = {"signal_e_per_feature": signal_e / FEATURES, "reference_e": reference_e}
    return make_device("emulator", n_inputs=PATTERNS * FEATURES, n_outputs=n_outputs, photometry=photometry)


def patterns(plus: int = FEATURES, minus: int = 0, count: int = PATTERNS) -> Ternary:
    """Vectors with `plus` features of their own at +1 and `minus` of their neighbour's at -1."""
    vectors = np.zeros((count, PATTERNS, FEATURES), np.int8)
    for number in range(count):
        vectors[number, number, :plus] = 1
        vectors[number, (number + 1) % PATTERNS, :minus] = -1
    return vectors.reshape(count, -1)


@pytest.mark.parametrize("minus", [0, 10, 50])
def test_snr_of_ternary_vectors_on_the_device(minus: int) -> None:
    """4 R² (Is₊ + Is₋) / Σ± (Is± + R² + s² + q²/12), a dark side left out: a weak side costs, a dark one does not.

    Twenty vectors on 5,000 pixels, of which neighbours share features, have 100,000 independent quadratures or more:
    the SNR is known to 0.03 dB, 0.15 dB are 5 σ, false alarms 6e-7.
    """
    plus_e, minus_e = 300.0, 300.0 * minus / FEATURES
    fixed = (1500 + FIXED_E) * (2 if minus else 1)
    expected = 10 * math.log10(4 * 1500 * (plus_e + minus_e) / (plus_e + minus_e + fixed))
    with device_with(300, 1500, 10_000) as device:
        assert measured_snr_db(device, patterns(FEATURES, minus)) == pytest.approx(expected, abs=0.15)


@pytest.mark.filterwarnings("ignore::optical_dfa.devices.SaturationWarning")
def test_saturated_fraction_in_the_usage_of_the_device() -> None:
    """Is 1500 e-, R² 1500 e-: 2.2 % of 800,000 readings, 17,000, within 5 % (as above)."""
    with device_with(1500, 1500, 20_000) as device:
        device.project(patterns())
        usage = device.usage
    assert usage.pixel_readings == 4 * PATTERNS * 10_000
    assert usage.saturated_pixels / usage.pixel_readings == pytest.approx(marcum(1500, 1500), rel=0.05)


def test_saturation_is_warned_of_once() -> None:
    """6.6 % of the readings saturate at Is and R² 2000 e-; the warning points at the caller and says what to do."""
    with device_with(2000, 2000, n_outputs=2000) as device:
        with pytest.warns(SaturationWarning, match=r"^\d\.\d% of the pixel readings are saturated") as caught:
            device.project(patterns(count=1))
        assert str(caught[0].message).endswith(
            "(preset 'phase-stepping'): lower photometry.signal_e_per_feature or photometry.reference_e"
        )
        assert caught[0].filename == __file__
        device.project(patterns(count=1))  # warnings are errors here


def test_little_saturation_is_not_warned_of() -> None:
    """Is 1000 e-, R² 1500 e-: 0.5 % of the readings saturate, below 1 %."""
    with device_with(1000, 1500, n_outputs=4000) as device:
        device.project(patterns(count=1))  # warnings are errors here
        assert 0 < device.usage.saturated_pixels < 0.01 * device.usage.pixel_readings


def test_a_warning_made_an_error_counts_nothing() -> None:
    """A call that raises, for whatever reason, can be repeated to the same result."""
    options = {"signal_e": 2000.0, "reference_e": 2000.0, "n_outputs": 500}
    with device_with(**options) as undisturbed, pytest.warns(SaturationWarning):  # type: ignore[arg-type]
        expected = undisturbed.project(patterns(count=1))
    with device_with(**options) as device:  # type: ignore[arg-type]
        state = device.state_dict()
        with pytest.raises(SaturationWarning):
            device.project(patterns(count=1))
        assert device.state_dict() == state
        assert device.usage.frames == 0
        np.testing.assert_array_equal(device.project(patterns(count=1)), expected)


class LabBench:
    """A bench that is not ours: it shows each pattern's known amplitudes beside a reference, without noise."""

    def __init__(
        self, amplitudes: npt.NDArray[np.complex128], reference_e: float, gain: float, bits: int | None
    ) -> None:
        self.amplitudes, self.reference_e = amplitudes, reference_e
        self.info = BenchInfo(
            n_frame_inputs=1, image_shape=(2, amplitudes.shape[1] // 2), adc_bits=bits,
            saturation_dn=math.inf if bits is None else 2**bits - 1, gain_dn_per_e=gain,
            has_reference=True, has_phase_modulator=True, exposure_limits_us=(1.0, 1e6),
        )  # fmt: skip
        self.frame_time_us = 500.0
        self.stamps: list[FrameStamp | None] = []

    def configure(self, *, exposure_us: float, reference_e: float) -> None: ...

    def expose(
        self,
        frames: npt.NDArray[np.uint8],
        *,
        phases: npt.NDArray[np.floating[Any]] | None = None,
        reference: bool = True,
        at: FrameStamp | None = None,
    ) -> npt.NDArray[Any]:
        assert phases is not None
        assert reference
        self.stamps.append(at)
        wave = np.sqrt(self.reference_e) * np.exp(1j * phases)[:, None]
        images = self.info.gain_dn_per_e * np.abs(np.repeat(self.amplitudes, 4, axis=0) + wave) ** 2
        if self.info.adc_bits:
            images = np.clip(np.rint(images), 0, self.info.saturation_dn).astype(np.uint16)
        shaped: npt.NDArray[Any] = images.reshape(-1, *self.info.image_shape)
        return shaped


def amplitudes() -> npt.NDArray[np.complex128]:
    real, imaginary = np.random.default_rng(1).standard_normal((2, 3, 8)) * 10
    return np.asarray(real + 1j * imaginary, np.complex128)


def test_the_readout_recovers_the_amplitudes_of_any_bench() -> None:
    """Quadratures of pixel p, in root electrons, at 2p and 2p+1: without a converter, in float64."""
    true, stamp = amplitudes(), FrameStamp(4, 44)
    bench = LabBench(true, 900.0, 0.7, None)
    reading = PhaseStepping(bench, 900.0).read(np.ones((3, 1), np.uint8), stamp)
    assert reading.amplitude.dtype == np.float64
    np.testing.assert_allclose(reading.amplitude[:, 0::2], true.real, rtol=0, atol=1e-12)
    np.testing.assert_allclose(reading.amplitude[:, 1::2], true.imag, rtol=0, atol=1e-12)
    assert (reading.frames, reading.pixel_readings, reading.saturated_pixels) == (12, 96, 0)
    assert bench.stamps == [stamp]


def test_the_readout_takes_unsigned_images() -> None:
    """12-bit images are subtracted without wrapping round: the error is at most 2 · 0.5 DN / (4 R K)."""
    true = amplitudes()
    reading = PhaseStepping(LabBench(true, 900.0, 0.7, 12), 900.0).read(np.ones((3, 1), np.uint8), FrameStamp(0, 0))
    assert np.abs(reading.amplitude[:, 0::2] - true.real).max() <= 1 / (4 * 30 * 0.7) + 1e-5
    assert np.abs(reading.amplitude[:, 1::2] - true.imag).max() <= 1 / (4 * 30 * 0.7) + 1e-5


def test_the_readout_counts_saturated_readings() -> None:
    """Of 96 readings, those that the formula puts at or above the saturation of the camera."""
    true = amplitudes()
    bench = LabBench(true, 900.0, 0.1, 8)
    steps = np.abs(true[:, None, :] + 30 * 1j ** np.arange(4)[:, None]) ** 2
    for limit, count in ((255, 3), (100, 50), (10_000, 0)):
        bench.info = dataclasses.replace(bench.info, saturation_dn=limit)
        reading = PhaseStepping(bench, 900.0).read(np.ones((3, 1), np.uint8), FrameStamp(0, 0))
        assert reading.saturated_pixels == np.count_nonzero(np.rint(0.1 * steps) >= limit) == count


@pytest.mark.parametrize("missing", ["has_reference", "has_phase_modulator"])
def test_the_readout_refuses_a_bench_without_an_arm_or_a_modulator(missing: str) -> None:
    bench = LabBench(amplitudes(), 900.0, 1.0, None)
    bench.info = dataclasses.replace(bench.info, **{missing: False})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs a bench with a reference arm and a phase modulator"):
        PhaseStepping(bench, 900.0)
