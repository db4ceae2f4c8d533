"""The emulated device with each readout: SNR by the formula, effective matrix, and what is refused."""

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from plain_bench import PlainBench, gaussian_fields, tilted

from optical_dfa.devices import (
    Anchored,
    Calibration,
    IntensityFeatures,
    InvalidConfig,
    OffAxis,
    PhaseStepping,
    ProjectionDevice,
    anchor_patterns,
    load_preset,
    make_device,
    measured_snr_db,
    open_device,
)
from optical_dfa.devices.readouts import noise
from optical_dfa.emulator import EmulatedBench, FrameStamp
from optical_dfa.emulator.pupil import Pupil

FEATURES, VECTORS = 50, 20
FEATURE_E = 2.0
THREE_STEPS: dict[str, Any] = {"steps": 3}
ONE_ANCHOR: dict[str, Any] = {"kind": "anchored", "n_anchors": 1, "features_per_anchor": 300, "dim": 0.3}
TWO_ANCHORS: dict[str, Any] = {"kind": "anchored", "n_anchors": 2, "features_per_anchor": 300}
CAMERA = {"adc_bits": 12, "gain_dn_per_e": 0.4}
FIXED = {"read_noise_e": 13.0, "quantum_e": 1 / 0.4}


def device_with(readout: dict[str, Any], **options: Any) -> ProjectionDevice:
    options = {"n_inputs": FEATURES * VECTORS, "n_outputs": 4001, "camera": CAMERA} | options
    photometry = {"signal_e_per_feature": FEATURE_E, "reference_e": 1500.0}
    return make_device("emulator", readout=readout, **({"photometry": photometry} | options))


def vectors(plus: int, minus: int) -> npt.NDArray[np.int8]:
    """Vectors with `plus` features of their own at +1 and `minus` of their neighbour's at -1."""
    shown = np.zeros((VECTORS, VECTORS, FEATURES), np.int8)
    for number in range(VECTORS):
        shown[number, number, :plus] = 1
        shown[number, (number + 1) % VECTORS, :minus] = -1
    return shown.reshape(VECTORS, -1)


@pytest.mark.parametrize("readout", [THREE_STEPS, ONE_ANCHOR, TWO_ANCHORS], ids=str)
@pytest.mark.parametrize(("plus", "minus"), [(50, 0), (50, 25)])
def test_snr_of_the_device(readout: dict[str, Any], plus: int, minus: int) -> None:
    """Twenty vectors on 4,001 outputs: anchored, with 2 % on the noise of dim pixels, 0.1 dB; 0.5 dB are 5 σ."""
    if readout == THREE_STEPS:
        variance = functools.partial(noise.phase_stepping_variance_e, reference_e=1500.0, steps=3, **FIXED)
        ratio, frames = noise.snr, 6
    else:
        anchors, dim = readout["n_anchors"], readout.get("dim", 0.1)
        variance = functools.partial(
            noise.anchored_variance_e, anchor_e=300 * FEATURE_E, n_anchors=anchors, dim=dim, **FIXED
        )
        ratio, frames = noise.anchored_snr, 2 * (anchors + 1)
    expected = noise.decibels(ratio([FEATURE_E * side for side in (plus, minus) if side], variance))
    with device_with(readout) as device:
        assert device.info.frames_per_vector == frames
        calibration = device.usage.frames
        assert calibration == 64 * readout.get("n_anchors", 0)
        assert measured_snr_db(device, vectors(plus, minus)) == pytest.approx(expected, abs=0.5)
        assert device.usage.frames - calibration == VECTORS * frames // (1 if minus else 2)


@pytest.mark.parametrize("readout", [THREE_STEPS, ONE_ANCHOR, TWO_ANCHORS], ids=str)
def test_with_everything_off_the_device_is_its_effective_matrix(readout: dict[str, Any]) -> None:
    """To float32, in which fields and the matrix are given; the readout itself is right to 1e-12 (below)."""
    options = {"preset": "ideal", "camera": {}, "photometry": {}, "n_inputs": 300, "n_outputs": 501}
    shown = np.random.default_rng(0).integers(-1, 2, (8, 300), np.int8)
    with device_with(readout, **options) as device:
        effective = device.effective_matrix()
        assert effective is not None
        assert effective.shape == (501, 300)
        assert not device.info.exact
        expected = shown @ effective.T.astype(np.float64)
        np.testing.assert_allclose(device.project(shown), expected, rtol=0, atol=1e-5)
        part = slice(7, 400, 3)
        np.testing.assert_array_equal(device.effective_matrix(part), effective[part])
        assert device.effective_matrix(slice(0, 0)).shape == (0, 300)  # type: ignore[union-attr]
    # unit gain and independence: 150,300 entries of variance 1, known to 0.4 %, and of mean 0
    assert effective.var() == pytest.approx(1, abs=0.02)
    assert abs(effective.mean()) < 5 / math.sqrt(effective.size)


def test_readouts_of_the_emulated_bench_are_exact() -> None:
    """Everything off: the readout equals the mix of the integer rows of T to 1e-12, through the frames."""
    bench = EmulatedBench(60, 400, 0, load_preset("ideal").bench)  # its unit of field is one root electron
    rows = bench.product.matrix(slice(0, 800)).astype(np.float64)
    patterns = np.random.default_rng(0).integers(0, 2, (5, 40), np.uint8)
    anchored = Anchored(bench, 40, anchor_patterns(60, 40, 2, 10), 300)
    whole = np.concatenate([patterns, np.zeros((5, 20), np.uint8)], axis=1)
    for readout, shown in ((PhaseStepping(bench, 4096.0**2, steps=3), whole), (anchored, patterns)):
        readout.calibrate(FrameStamp(0, 0))
        pairs = rows.reshape(-1, 2, 60)[readout.mode_of_output].reshape(-1, 60)
        expected = shown @ readout.mix(pairs).T
        found = readout.read(shown, FrameStamp(0, 0)).amplitude
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * 4096.0)  # what R² adds to, and is taken from
    intensity = IntensityFeatures(bench).read(whole, FrameStamp(0, 0)).amplitude
    field = whole @ rows.T
    np.testing.assert_allclose(intensity, field[:, 0::2] ** 2 + field[:, 1::2] ** 2, rtol=1e-12)


def test_ranks_share_the_outputs_of_an_anchored_device() -> None:
    """Calibration and choice of pixels do not depend on the stream; nor does noise decide the choice."""
    first, second = (device_with(TWO_ANCHORS, stream=stream, n_outputs=300) for stream in (0, 7))
    with first, second:
        np.testing.assert_array_equal(first.effective_matrix(), second.effective_matrix())
        assert first.fingerprint == second.fingerprint
    other = device_with(TWO_ANCHORS, camera={"read_noise_e": 100.0}, n_outputs=300)
    np.testing.assert_array_equal(first.effective_matrix(), other.effective_matrix())
    assert other.fingerprint == first.fingerprint
    assert device_with(ONE_ANCHOR, n_outputs=300).fingerprint != first.fingerprint
    assert device_with(THREE_STEPS).fingerprint == device_with({}).fingerprint


def test_reopening_does_not_calibrate_again() -> None:
    device = device_with(ONE_ANCHOR, n_outputs=10)
    for _ in range(2):
        with device:
            assert device.usage.frames == 64


def test_settings_of_presets() -> None:
    preset = load_preset("phase-stepping", {"readout": {"kind": "anchored", "n_anchors": 3}})
    assert preset.readout.kind == "anchored"
    again = load_preset(preset, {"readout": {"dim": 0.2}})
    assert (again.readout.n_anchors, again.readout.dim) == (3, 0.2)  # type: ignore[union-attr]
    assert load_preset(preset, {"readout": {"kind": "phase_stepping"}}) == load_preset("phase-stepping")


@pytest.mark.parametrize(
    ("readout", "message"),
    [
        ({"kind": "phase-stepping"}, "must be one of phase_stepping, off_axis, anchored; got 'phase-stepping'. Di"),
        ({"step": 3}, "readout.step: unknown key. Did you mean 'steps'?"),
        ({"steps": 5}, "readout.steps: must be one of 3, 4; got 5"),
        ({"kind": "anchored", "n_anchors": 0}, "n_anchors must be an int ≥ 1; got 0"),
        ({"kind": "anchored", "dim": 1.5}, "dim must be a number between 0 and 1; got 1.5"),
        ({"calibration": {"reference_frames": 8}}, "dark_frames must be > 0 where lit frames are calibrated"),
        ({"kind": "anchored", "features_per_anchor": 2_000_000}, "inputs must be 1 … 1,039,680"),
    ],
)  # fmt: skip
def test_bad_settings(readout: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=r"device 'emulator' cannot be made") as raised:
        open_device("emulator", n_inputs=10, n_outputs=10, readout=readout)
    assert message in str(raised.value)


def bench(**options: Any) -> PlainBench:
    options = {"reference": 30.0} | options
    return PlainBench(gaussian_fields((10, 20, 20), 10, 0), **options)


ANCHOR = anchor_patterns(10, 5, 1, 2)


def not_calibrated() -> Any:
    return Anchored(bench(), 5, ANCHOR, 5)


def loaded(state: dict[str, Any]) -> None:
    not_calibrated().load_state_dict(state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OffAxis(bench(reference=None), 900, Pupil((20, 20), 5), (0.3, 0.3)), "needs a bench with a reference"),
        (lambda: OffAxis(bench(), 900, Pupil((20, 21), 5), (0.3, 0.3)), "pupil.image_shape must be that of the images"),
        (lambda: OffAxis(bench(), 900, Pupil((20, 20), 5), (0.33, 0.3)), r"the nearest is \(0.35, 0.3\)"),
        (lambda: OffAxis(bench(), 900, Pupil((20, 20), 5), (0.2, 0.1)), "3 k_c = 0.3 .* tilt the reference more"),
        (lambda: OffAxis(bench(), 900, Pupil((20, 20), 5), (0.45, 0.0)), "tilt the reference less"),
        (lambda: PhaseStepping(bench(), 900, steps=5), "steps must be 3 or 4; got 5"),  # type: ignore[arg-type]
        (lambda: PhaseStepping(bench(), 0.0), "reference_e must be a finite number > 0"),
        (lambda: PhaseStepping(bench(), 900, pupil=Pupil((4, 4), 2)), "pupil.image_shape must be that of the images"),
        (lambda: anchor_patterns(10, 8, 2, 2), "8 features and 2 anchors of 2 elements need 12 elements .* has 10"),
        (lambda: Anchored(bench(), 10, np.ones((1, 10), np.uint8), 5), "n_features must be 1 … 9"),
        (lambda: Anchored(bench(), 5, np.ones((1, 10), np.uint8), 5), "anchors must be 0 on the features 0 … 4"),
        (lambda: Anchored(bench(), 5, np.zeros((1, 10), np.uint8), 5), "anchors must be 1 somewhere"),
        (lambda: Anchored(bench(), 5, ANCHOR, 401), "n_outputs must be 1 … 400"),
        (lambda: Anchored(bench(), 5, ANCHOR, 5, calibration=Calibration(1, 1)), "no reference arm"),
        (lambda: not_calibrated().read(np.zeros((1, 5), np.uint8), FrameStamp(0, 0)), "call calibrate"),
        (lambda: Anchored(bench(), 5, ANCHOR, 399).calibrate(FrameStamp(0, 0)), "pixels are not dim"),
        (lambda: loaded({}), "holds no calibration of an anchored readout"),
        (lambda: loaded({"pixels": np.arange(4), "anchor_of": np.zeros(4), "anchor_e": np.ones(4)}), "is of 4 outputs"),
        (lambda: PhaseStepping(bench(), 900).load_state_dict({"dark_dn": np.zeros(5)}), r"'dark_dn' has the shape"),
        (lambda: IntensityFeatures(bench(), calibration=Calibration(1, 1)), "reference arm is blocked"),
        (lambda: IntensityFeatures(bench(), calibration=Calibration(1, 0, 6, 2)).calibrate(FrameStamp(0, 0)),
         "flat_frames must be at most 10 features / flat_features = 5; got 6"),
        (lambda: Calibration(-1), "dark_frames must be an int ≥ 0"),
    ],
)  # fmt: skip
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_off_axis_counts_saturated_readings() -> None:
    """Those that lie at the full well: as many as the plain intensity says."""
    shape, optics = (20, 20), Pupil((20, 20), 5)
    image = optics.to_image(gaussian_fields((1, optics.n_modes), 300, 0))
    wave = tilted(shape, 900, (0.3, 0.3))
    off_axis = OffAxis(PlainBench(image, wave, full_well_e=2000.0), 900, optics, (0.3, 0.3))
    reading = off_axis.read(np.ones((1, 1), np.uint8), FrameStamp(0, 0))
    assert reading.saturated_pixels == np.count_nonzero(np.abs(image + wave) ** 2 >= 2000) > 0
    assert (reading.frames, reading.pixel_readings) == (1, 400)
