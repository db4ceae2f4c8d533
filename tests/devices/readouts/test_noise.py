"""The noise of each readout on a plain simulated bench against its closed formula, where nothing is clipped.

Shot noise is Poisson, read noise 13 e-, a converter of 8 or 12 bits. A power of N independent numbers is known to
√(2/N), or √(1/N) for complex ones.
"""

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from plain_bench import PlainBench, gaussian_fields, tilted
from scipy import stats

from optical_dfa.devices import (
    Anchored,
    Calibration,
    IntensityFeatures,
    OffAxis,
    PhaseStepping,
    Readout,
    anchor_patterns,
    carrier_on_bin,
)
from optical_dfa.devices.readouts import noise
from optical_dfa.emulator import FrameStamp
from optical_dfa.emulator.pupil import Pupil

READ_NOISE_E, Q_E = 13.0, 1 / 0.0255
CAMERA: dict[str, Any] = {"gain_dn_per_e": 1 / Q_E, "bits": 8, "read_noise_e": READ_NOISE_E, "shot": True}
SHAPE = (200, 500)
START = FrameStamp(0, 0)

Ternary = npt.NDArray[np.int8]


def read_ternary(readout: Readout, vector: Ternary) -> npt.NDArray[np.float64]:
    """Outputs of the displayed patterns of a vector, subtracted: a dark side is left out."""
    sides = [(1, vector > 0), (-1, vector < 0)]
    found = [sign * readout.read(on[None].astype(np.uint8), START).amplitude[0] for sign, on in sides if on.any()]
    return np.asarray(np.sum(found, axis=0), np.float64)


def measured_db(true: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    return float(10 * np.log10(np.mean(np.abs(true) ** 2) / np.mean(np.abs(found - true) ** 2)))


def ternary(plus: int, minus: int) -> Ternary:
    return np.array([1] * plus + [0] * (5 - plus) + [-1] * minus + [0] * (5 - minus), np.int8)


@functools.cache
def phase_stepped_db(steps: Any, signal_e: float, reference_e: float, plus: int, minus: int) -> float:
    """100,000 pixels, `signal_e` for each feature."""
    fields = gaussian_fields((10, *SHAPE), signal_e, 1)
    bench = PlainBench(fields, math.sqrt(reference_e), **CAMERA)
    readout = PhaseStepping(bench, reference_e, steps=steps)
    vector = ternary(plus, minus)
    found = read_ternary(readout, vector).view(np.complex128).reshape(SHAPE)
    return measured_db(np.tensordot(vector.astype(float), fields, 1), found)


@pytest.mark.parametrize("steps", [3, 4])
@pytest.mark.parametrize(
    ("signal_e", "reference_e", "plus", "minus"),
    [(100, 1000, 1, 0), (250, 1500, 1, 0), (50, 500, 1, 0), (100, 1500, 1, 1), (100, 1500, 3, 1), (50, 2000, 0, 4)],
)
def test_phase_stepping(steps: int, signal_e: float, reference_e: float, plus: int, minus: int) -> None:
    """N R² (Is₊ + Is₋) / Σ± (Is± + R² + s² + q²/12) over the displayed sides.

    Signal and noise are each known to 0.014 dB: 0.1 dB are 5 σ, false alarms 6e-7 each.
    """
    signals = [signal_e * side for side in (plus, minus) if side]
    expected = noise.snr(signals, lambda e: noise.phase_stepping_variance_e(e, reference_e, steps, READ_NOISE_E, Q_E))
    fixed_e = reference_e + READ_NOISE_E**2 + Q_E**2 / 12
    assert expected == pytest.approx(steps * reference_e * sum(signals) / sum(e + fixed_e for e in signals))
    measured = phase_stepped_db(steps, signal_e, reference_e, plus, minus)
    assert measured == pytest.approx(noise.decibels(expected), abs=0.1)


def test_a_dark_side_that_is_displayed_costs_decibels() -> None:
    """With Is 100, R² 1000: (2100 + 2F) / (1100 + F) is 2.8 dB; for Is → 0, 3 dB."""
    variance = functools.partial(
        noise.phase_stepping_variance_e, reference_e=1000.0, read_noise_e=READ_NOISE_E, quantum_e=Q_E
    )
    gain = noise.decibels(noise.snr([100.0], variance) / noise.snr([100.0, 0.0], variance))
    fixed_e = 1000 + READ_NOISE_E**2 + Q_E**2 / 12
    assert gain == pytest.approx(10 * math.log10((100 + 2 * fixed_e) / (100 + fixed_e)))
    assert 2.7 < gain < 3


@pytest.mark.parametrize("steps", [3, 4])
def test_phase_stepping_of_large_grains(steps: Any) -> None:
    """Noise of the pixels is white, and the pupil keeps f of it: 10,000 modes, 0.5 dB are 8 σ."""
    optics = Pupil((300, 300), 2.7)
    modes = gaussian_fields((1, optics.n_modes), 100, 1)
    bench = PlainBench(optics.to_image(modes), math.sqrt(1500), **CAMERA)
    reading = PhaseStepping(bench, 1500, steps=steps, pupil=optics).read(np.ones((1, 1), np.uint8), START)
    found = reading.amplitude.astype(np.float64).view(np.complex128)
    expected = 100 / noise.phase_stepping_variance_e(
        100, 1500, steps, READ_NOISE_E, Q_E, kept_fraction=optics.kept_fraction
    )
    assert reading.amplitude.dtype == np.float32
    assert optics.n_modes > 9500
    assert measured_db(modes, found) == pytest.approx(noise.decibels(expected), abs=0.2)


@pytest.mark.parametrize(("grain_px", "direction_deg"), [(6.0, 45), (6.0, 0), (4.5, 0), (3.3, 45)])
@pytest.mark.parametrize(("plus", "minus"), [(1, 0), (2, 1)])
def test_off_axis(grain_px: float, direction_deg: float, plus: int, minus: int) -> None:
    """R² (Is₊ + Is₋) / Σ± f (Is± + R² + s² + q²/12).

    2,400 modes or more: signal and noise are each known to 0.09 dB; 0.5 dB are 4 σ, false alarms 6e-5. The grain of a
    dim spot changes shot noise from pixel to pixel, but its mean over the image counts in the Fourier plane.
    """
    optics = Pupil((330, 330), grain_px)
    carrier = carrier_on_bin(optics, direction_deg)
    modes = gaussian_fields((10, optics.n_modes), 100, 1)
    bench = PlainBench(optics.to_image(modes), tilted((330, 330), 1500, carrier), has_phase_modulator=False, **CAMERA)
    readout = OffAxis(bench, 1500, optics, carrier)
    vector = ternary(plus, minus)
    found = read_ternary(readout, vector).view(np.complex128)
    signals = [100.0 * side for side in (plus, minus) if side]
    f = optics.kept_fraction
    assert f == pytest.approx(math.pi / 4 / grain_px**2, rel=0.02)
    expected = noise.snr(signals, lambda e: noise.off_axis_variance_e(e, 1500, f, READ_NOISE_E, Q_E))
    assert measured_db(vector @ modes, found) == pytest.approx(noise.decibels(expected), abs=0.4)


FEATURE_E, PER_ANCHOR = 100.0, 12


@functools.cache
def calibrated_anchors(n_anchors: int, dim: float) -> tuple[Anchored, npt.NDArray[np.float64]]:
    """12 bits, so that bright anchors do not clip; the readout and its effective matrix."""
    fields = gaussian_fields((10 + n_anchors * PER_ANCHOR, 100, 250), FEATURE_E, 1)
    bench = PlainBench(fields, None, **(CAMERA | {"gain_dn_per_e": 0.15, "bits": 12}))
    anchors = anchor_patterns(len(fields), 10, n_anchors, PER_ANCHOR)
    readout = Anchored(bench, 10, anchors, 15_000, dim=dim, anchor_frames=50)
    assert readout.calibrate(START) == 50 * n_anchors
    at_outputs = fields.reshape(len(fields), -1)[:, readout.mode_of_output].T
    return readout, readout.mix(np.stack([at_outputs.real, at_outputs.imag], 1).reshape(-1, len(fields)))


@pytest.mark.parametrize(("n_anchors", "dim"), [(1, 0.1), (1, 0.5), (2, 0.1), (4, 0.3)])
@pytest.mark.parametrize(("plus", "minus"), [(1, 0), (1, 1), (4, 2)])
def test_anchored(n_anchors: int, dim: float, plus: int, minus: int) -> None:
    """Averaged over the pixels that are not dim; I_r from 50 frames, whose error is 1/50 of the noise or less.

    15,000 outputs of uneven noise, worst for one anchor and dim 0.1: Σ error² is known to 1.6 %, with the mean 1/I_r
    of the pixels 2 %, 0.1 dB, and the error of I_r adds 0.09 dB at most: 0.5 dB are 4 σ, false alarms 6e-5 each.
    """
    vector = ternary(plus, minus)
    readout, effective = calibrated_anchors(n_anchors, dim)
    expected = noise.anchored_snr(
        [FEATURE_E * side for side in (plus, minus) if side],
        lambda e: noise.anchored_variance_e(e, FEATURE_E * PER_ANCHOR, n_anchors, dim, READ_NOISE_E, 1 / 0.15),
    )
    measured = measured_db(effective @ vector, read_ternary(readout, vector))
    assert measured == pytest.approx(noise.decibels(expected), abs=0.5)


def test_anchor_identity_at_one_pixel() -> None:
    """Is 500, I_r 1500, no converter: (2500 + 2·169) / 6000 = .47; with I_r of one frame, noisier.

    40,000 readings: 0.7 % of the variance, 4 % are 5 σ. The phase between the two fields is random.
    """
    shape = (100, 400)
    columns = np.empty((2, *shape), complex)
    columns[0] = gaussian_fields(shape, 500, 0)
    columns[1] = math.sqrt(1500)
    bench = PlainBench(columns, None, shot=True, read_noise_e=READ_NOISE_E)
    errors = {}
    for frames in (1, 100):
        readout = Anchored(bench, 1, np.array([[0, 1]], np.uint8), math.prod(shape), anchor_frames=frames, dim=0.01)
        readout.calibrate(START)
        found = readout.read(np.ones((1, 1), np.uint8), START).amplitude[0]
        errors[frames] = np.mean((found - columns[0].real.ravel()) ** 2)
    expected = (500 + 1500 + 500 + 2 * READ_NOISE_E**2) / 6000
    assert errors[100] == pytest.approx(expected + (1500 + READ_NOISE_E**2) / 6000 / 100, rel=0.04)
    # I_r of a single frame brings its own noise, and through √I_r a gain error of variance (I_r + s²)/(4 I_r²): .80
    once = (1500 + READ_NOISE_E**2) * (1 / 6000 + 250 / 1500**2 / 4)
    assert errors[1] == pytest.approx(expected + once, rel=0.04)


def test_intensity() -> None:
    """I + s² + q²/12: the mean over exponential intensities. 100,000 pixels, 2.5 % are 5 σ."""
    fields = gaussian_fields((1, *SHAPE), 300, 0)
    bench = PlainBench(fields, None, **(CAMERA | {"gain_dn_per_e": 0.15, "bits": 12}), black_dn=20.0)
    features = IntensityFeatures(bench, calibration=Calibration(dark_frames=100))
    features.calibrate(START)
    found = features.read(np.ones((1, 1), np.uint8), START).amplitude
    error = np.mean((found - np.abs(fields.reshape(1, -1)) ** 2) ** 2)
    dark = (READ_NOISE_E**2 + (1 / 0.15) ** 2 / 12) / 100
    assert error == pytest.approx(noise.image_variance_e(300, READ_NOISE_E, 1 / 0.15) + dark, rel=0.025)


def test_flat_map_of_finite_frames() -> None:
    """Speckle of N patterns averages to a relative intensity error of 1/√N, a gain error of 1/(2√N): 40,000 pixels."""
    bench = PlainBench(gaussian_fields((25, 100, 400), 50, 0), 30.0)
    readout = PhaseStepping(bench, 900.0, calibration=Calibration(dark_frames=1, flat_frames=25))
    readout.calibrate(START)
    found = readout.maps.interference_gain(900.0)
    assert found is not None
    assert np.std(found) == pytest.approx(1 / (2 * 5), rel=0.03)


def test_kernel_of_intensity_features() -> None:
    """mean |Ax|²|Ay|² = Is_x Is_y (1 + cos²): of four and three features, two in common, cos² = 4/12.

    The product of two exponential numbers has a relative deviation of some 3; of 160,000, 0.75 %: 4 % are 5 σ.
    """
    fields = gaussian_fields((5, 400, 400), 50, 0)
    patterns = np.array([[1, 1, 1, 1, 0], [0, 0, 1, 1, 1]], np.uint8)
    x, y = IntensityFeatures(PlainBench(fields, None)).read(patterns, START).amplitude
    assert np.mean(x * y) == pytest.approx(200 * 150 * (1 + 4 / 12), rel=0.04)


@pytest.mark.parametrize("bits", [8, 12])
def test_reference_map_of_finite_frames(bits: int) -> None:
    """Its noise leaves a gain error of relative variance (R² + s² + q²/12) / (4 N R⁴), as `Calibration` says."""
    reference_e, gain = 1500.0, 0.0255 * 2 ** (bits - 8)
    camera = CAMERA | {"gain_dn_per_e": gain, "bits": bits}
    bench = PlainBench(np.zeros((1, *SHAPE), complex), math.sqrt(reference_e), **camera)
    readout = PhaseStepping(bench, reference_e, calibration=Calibration(dark_frames=100, reference_frames=9))
    readout.calibrate(START)
    found = readout.maps.interference_gain(reference_e)
    assert found is not None
    fixed_e = READ_NOISE_E**2 + 1 / gain**2 / 12
    dark_e = READ_NOISE_E**2 / 100  # a dark of 13 e- is clipped below at half, and no worse than that
    expected = (reference_e + fixed_e) / (4 * 9 * reference_e**2) + dark_e / (4 * reference_e**2)
    assert np.var(found) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("a", "b"), [(0.0, 0.3), (0.0, 8.0), (0.5, 0.5), (1.0, 6.0), (8.0, 3.0), (5.0, 30.0), (40.0, 45.0), (400.0, 390.0),
                 (38.9, 39.1), (100.0, 132.0), (2000.0, 2001.0)]
)  # fmt: skip
def test_marcum(a: float, b: float) -> None:
    """scipy's non-central χ² is the other way to it; without a reference it is exponential."""
    expected = stats.ncx2.sf(b**2, 2, a**2) if a else math.exp(-(b**2) / 2)
    assert noise.marcum_q1(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("signal_e", "reference_e"), [(1500.0, 1500.0), (2500.0, 0.0), (1000.0, 2000.0)])
def test_clipped_fraction_of_a_bench(signal_e: float, reference_e: float) -> None:
    """100,000 pixels times steps, of which those of one pixel are not independent: at least 1,000 clipped pixels.

    3 % at 1 σ or less: 15 % are 5 σ. What a full well saturates, a readout counts.
    """
    fields = gaussian_fields((1, *SHAPE), signal_e, 3)
    bench = PlainBench(fields, math.sqrt(reference_e) or None, gain_dn_per_e=0.1, full_well_e=10_000.0)
    readout: Any = PhaseStepping(bench, reference_e) if reference_e else IntensityFeatures(bench)
    reading = readout.read(np.ones((1, 1), np.uint8), START)
    expected = noise.clipped_fraction(signal_e, reference_e, 10_000.0)
    assert 0.005 < expected < 0.05
    if not reference_e:
        assert expected == pytest.approx(math.exp(-4), rel=1e-9)
    assert reading.saturated_pixels / reading.pixel_readings == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(("signal_e", "reference_e"), [(1000.0, 2000.0), (1250.0, 1500.0), (3000.0, 0.0)])
def test_clipping_variance(signal_e: float, reference_e: float) -> None:
    """Two million exponential tails cut off at 10,000 e-, 20,000 or more of them: Σ square is known to √(5/20,000)."""
    field = gaussian_fields((2_000_000,), signal_e, 0) + math.sqrt(reference_e)
    plain = np.mean(np.maximum(np.abs(field) ** 2 - 10_000, 0) ** 2)
    found = noise.clipping_variance_e(signal_e, reference_e, 10_000)
    assert found == pytest.approx(plain, rel=0.08)
    if not reference_e:  # 2 Is² exp(-FW/Is)
        assert found == pytest.approx(2 * signal_e**2 * math.exp(-10_000 / signal_e), rel=1e-9)


@pytest.mark.parametrize(
    ("signal_e", "reference_e", "published_db"),
    [(100, 1000, 24.6), (500, 1500, 30.9), (1000, 2000, 21.8), (2000, 2000, 12.2)],
)
def test_snr_with_clipping_against_an_earlier_simulation(
    signal_e: float, reference_e: float, published_db: float
) -> None:
    """Four steps, full well 10,000 e-, 8 bits; 1.1 and 6.8 % clipped in the last rows, where readings clip together."""
    cut_e = noise.clipping_variance_e(signal_e, reference_e, 10_000)
    variance = noise.phase_stepping_variance_e(signal_e, reference_e, 4, READ_NOISE_E, Q_E, dark_e=cut_e)
    abs_db = 0.8 if signal_e == 2000 else 0.3
    assert noise.decibels(signal_e / variance) == pytest.approx(published_db, abs=abs_db)


def test_clipped_fraction_at_the_ends() -> None:
    assert noise.clipped_fraction(500.0, 1500.0, math.inf) == 0
    assert noise.clipped_fraction(0.0, 1500.0, 10_000.0) == 0
    assert noise.clipped_fraction(0.0, 15_000.0, 10_000.0) == 1


def test_expected_cosine() -> None:
    """Of 200,000 pairs of field and field + noise: known to 1e-3."""
    rng = np.random.default_rng(0)
    field, error = rng.standard_normal((2, 200_000)) * np.array([[1.0], [0.5]])
    cosine = field @ (field + error) / np.linalg.norm(field) / np.linalg.norm(field + error)
    assert noise.expected_cosine(4.0) == pytest.approx(cosine, abs=3e-3)
