"""With everything off, every readout returns its effective matrix times the pattern, to 1e-12; so it does with maps."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from plain_bench import Complex, PlainBench, gaussian_fields, image_of_modes, tilted

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
from optical_dfa.emulator import FrameStamp
from optical_dfa.emulator.pupil import Pupil, PupilShape

REFERENCE_E = 900.0
START = FrameStamp(3, 100)


def patterns(n: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 2, (4, n), np.uint8)


def pairs(modes: Complex) -> npt.NDArray[np.float64]:
    """Rows 2m and 2m+1 of T, (2 · modes, n), of the fields (n, modes) of the elements."""
    return np.stack([modes.real.T, modes.imag.T], axis=1).reshape(-1, len(modes))


def assert_exact(readout: Readout, modes: Complex, atol: float = 1e-12) -> None:
    """Readings equal the mix of the rows of T, relative to the largest of them."""
    x = patterns(readout.n_pattern_inputs)
    reading = readout.read(x, START)
    mode_of_output = readout.mode_of_output
    assert mode_of_output.shape == (readout.n_outputs,)
    rows = pairs(modes).reshape(-1, 2, len(modes))[mode_of_output].reshape(-1, len(modes))
    effective = readout.mix(rows)
    assert effective.shape == (readout.n_outputs, readout.n_pattern_inputs)
    part = slice(3, 20, 2)
    selected = rows.reshape(-1, 2, len(modes))[part].reshape(-1, len(modes))
    np.testing.assert_array_equal(readout.mix(selected, part), effective[part])
    expected = x @ effective.T
    assert reading.amplitude.dtype == np.float64
    assert reading.frames == len(x) * readout.frames_per_pattern
    assert reading.saturated_pixels == 0
    np.testing.assert_allclose(reading.amplitude, expected, rtol=0, atol=atol * np.abs(expected).max())


@pytest.mark.parametrize("steps", [3, 4])
def test_phase_stepping(steps: Any) -> None:
    fields = gaussian_fields((6, 5, 8), 50, 0)
    bench = PlainBench(fields, math.sqrt(REFERENCE_E), gain_dn_per_e=0.7)
    readout = PhaseStepping(bench, REFERENCE_E, steps=steps)
    assert readout.mode_of_output[:4].tolist() == [0, 0, 1, 1]
    assert_exact(readout, fields.reshape(6, -1))
    assert bench.stamps == [(100, 4 * steps)]


@pytest.mark.parametrize("pupil", ["circular", "square"])
@pytest.mark.parametrize("steps", [3, 4])
def test_phase_stepping_of_large_grains(steps: Any, pupil: PupilShape) -> None:
    optics = Pupil((15, 18), 2.5, pupil)
    modes = gaussian_fields((6, optics.n_modes), 50, 0)
    bench = PlainBench(image_of_modes(modes, (15, 18), 2.5, pupil == "circular"), math.sqrt(REFERENCE_E))
    assert_exact(PhaseStepping(bench, REFERENCE_E, steps=steps, pupil=optics), modes)


@pytest.mark.parametrize("pupil", ["circular", "square"])
@pytest.mark.parametrize(("grain_px", "direction_deg"), [(4.2, 0), (4.2, 90), (4.3, 45), (6.0, 30), (5.0, 200)])
def test_off_axis(grain_px: float, direction_deg: float, pupil: PupilShape) -> None:
    """At the lowest carrier, 3 k_c, and with a signal stronger than the reference, |A|² does not reach the field."""
    shape = (50, 60)
    optics = Pupil(shape, grain_px, pupil)
    carrier = carrier_on_bin(optics, direction_deg)
    assert 3 * optics.cutoff - 0.5 / 50 <= max(np.hypot(*carrier), 0) < 3 * optics.cutoff * 1.42 + 1 / 50
    modes = gaussian_fields((6, optics.n_modes), 500, 0)
    image = image_of_modes(modes, shape, grain_px, pupil == "circular")
    bench = PlainBench(image, tilted(shape, REFERENCE_E, carrier), gain_dn_per_e=0.7, has_phase_modulator=False)
    assert_exact(OffAxis(bench, REFERENCE_E, optics, carrier), modes)


def test_off_axis_on_the_diagonal_needs_a_grain_of_3_2_pixels() -> None:
    shape = (64, 64)
    optics = Pupil(shape, 3.2)
    carrier = carrier_on_bin(optics)
    modes = gaussian_fields((6, optics.n_modes), 500, 0)
    bench = PlainBench(image_of_modes(modes, shape, 3.2, True), tilted(shape, REFERENCE_E, carrier))
    assert_exact(OffAxis(bench, REFERENCE_E, optics, carrier), modes)
    with pytest.raises(ValueError, match=r"no carrier at 45° fits: .* tilt the reference .*enlarge the grain"):
        carrier_on_bin(Pupil(shape, 3.0))
    with pytest.raises(ValueError, match="no carrier at 0° fits"):
        carrier_on_bin(Pupil(shape, 3.8), 0)


@pytest.mark.parametrize("n_anchors", [1, 3])
def test_anchored(n_anchors: int) -> None:
    fields = gaussian_fields((40, 6, 10), 50, 0)
    anchors = anchor_patterns(40, 12, n_anchors, 5)
    bench = PlainBench(fields, None, gain_dn_per_e=0.7)
    readout = Anchored(bench, 12, anchors, 40, dim=0.1, anchor_frames=1)
    assert readout.calibrate(START) == n_anchors
    assert readout.frames_per_pattern == n_anchors + 1
    assert_exact(readout, fields.reshape(40, -1))
    # each output has the quadrature in phase with the brightest anchor of its pixel, and no pixel is dim
    anchor_e = np.abs(np.tensordot(anchors.astype(float), fields, 1).reshape(n_anchors, -1)) ** 2
    bright = np.flatnonzero(anchor_e.max(axis=0) >= 0.1 * anchor_e.mean())
    np.testing.assert_array_equal(readout.mode_of_output, bright[:40])


def maps(shape: tuple[int, int]) -> dict[str, Any]:
    """Responsivity, envelope and black level that differ from pixel to pixel; one pixel is dead."""
    rng = np.random.default_rng(8)
    y, x = np.mgrid[: shape[0], : shape[1]]
    responsivity = 1 + 0.05 * rng.standard_normal(shape)
    responsivity[1, 1] = 0
    envelope = np.exp(-((y - 3) ** 2 + (x - 5) ** 2) / 200)
    return {"responsivity": responsivity, "envelope": envelope, "black_dn": 8 + rng.random(shape)}


def orthogonal_fields(n: int, shape: tuple[int, int], mean_e: float) -> Complex:
    """Random phases of one amplitude, so that the mean speckle is flat and a flat map is exact."""
    turns = np.random.default_rng(0).random((n, *shape))
    return np.asarray(math.sqrt(mean_e) * np.exp(2j * np.pi * turns))


@pytest.mark.parametrize("steps", [3, 4])
def test_maps_of_phase_stepping_give_every_pixel_unit_gain(steps: Any) -> None:
    """Responsivity, reference and envelope of each pixel are found to rounding; a dead pixel reads zero.

    The flat map is relative to its mean, which the gain of the signal then stands for.
    """
    shape = (5, 8)
    fields = orthogonal_fields(6, shape, 50)
    reference = np.asarray(math.sqrt(REFERENCE_E) * (1 - 0.04 * np.arange(8)) * np.ones(shape), np.complex128)
    effects = maps(shape)
    bench = PlainBench(fields, reference, gain_dn_per_e=0.7, **effects)
    plan = Calibration(dark_frames=2, reference_frames=3, flat_frames=6)
    readout = PhaseStepping(bench, REFERENCE_E, steps=steps, calibration=plan)
    assert readout.calibrate(START) == 11
    assert bench.stamps == [(100, 2), (102, 3), (105, 6)]
    again = PhaseStepping(bench, REFERENCE_E, steps=steps)
    again.load_state_dict(readout.state_dict())
    alive = (effects["responsivity"] > 0).ravel()
    gain = math.sqrt(np.mean(effects["responsivity"] * effects["envelope"]))
    for each in (readout, again):
        amplitude = each.read(patterns(6), START).amplitude.reshape(4, -1, 2)
        expected = np.tensordot(patterns(6).astype(float), fields, 1).reshape(4, -1) * gain
        np.testing.assert_allclose(amplitude[:, alive, 0], expected.real[:, alive], rtol=0, atol=1e-11)
        np.testing.assert_allclose(amplitude[:, alive, 1], expected.imag[:, alive], rtol=0, atol=1e-11)
        assert (amplitude[:, ~alive] == 0).all()


def test_maps_of_off_axis() -> None:
    """An uneven reference and black level are taken out exactly: what the flat map does not need to know."""
    shape = (48, 48)
    optics = Pupil(shape, 5.0)
    carrier = carrier_on_bin(optics)
    modes = gaussian_fields((6, optics.n_modes), 50, 0)
    x = np.arange(48)
    black = 8 + np.random.default_rng(8).random(shape)
    # 1/R has the frequencies 0 and 1/48, which widens the band of |A|²/R by a bin: the carrier is a bin farther away
    amplitude = 1 / (1 + 0.1 * np.cos(2 * np.pi * x / 48))
    carrier = (carrier[0] + 1 / 48, carrier[1] + 1 / 48)
    reference = np.asarray(tilted(shape, REFERENCE_E, carrier) * amplitude)
    bench = PlainBench(image_of_modes(modes, shape, 5.0, True), reference, black_dn=black)
    readout = OffAxis(bench, REFERENCE_E, optics, carrier, calibration=Calibration(1, 3))
    assert readout.calibrate(START) == 4
    assert_exact(readout, modes, 1e-11)
    again = OffAxis(bench, REFERENCE_E, optics, carrier)
    again.load_state_dict(readout.state_dict())
    assert_exact(again, modes, 1e-11)


def test_maps_and_state_of_anchored() -> None:
    shape = (5, 8)
    fields = orthogonal_fields(30, shape, 50)
    effects = maps(shape)
    bench = PlainBench(fields, None, gain_dn_per_e=0.7, **effects)
    anchors = anchor_patterns(30, 12, 2, 5)
    plan = Calibration(dark_frames=1, flat_frames=30)
    readout = Anchored(bench, 12, anchors, 20, anchor_frames=2, calibration=plan)
    assert readout.calibrate(START) == 1 + 30 + 4
    again = Anchored(bench, 12, anchors, 20)
    again.load_state_dict(readout.state_dict())
    gain = math.sqrt(np.mean(effects["responsivity"] * effects["envelope"]))
    for each in (readout, again):
        assert_exact(each, fields.reshape(30, -1) * gain, 1e-11)


def test_intensity_features() -> None:
    """|T x|² in electrons, with maps, and not linear."""
    shape = (5, 8)
    fields = orthogonal_fields(6, shape, 50)
    effects = maps(shape)
    bench = PlainBench(fields, math.sqrt(REFERENCE_E), gain_dn_per_e=0.7, **effects)
    features = IntensityFeatures(bench, calibration=Calibration(dark_frames=1, flat_frames=6))
    assert features.calibrate(START) == 7
    again = IntensityFeatures(bench)
    again.load_state_dict(features.state_dict())
    x = patterns(6)
    alive = (effects["responsivity"] > 0).ravel()
    gain = np.mean(effects["responsivity"] * effects["envelope"])
    expected = np.abs(np.tensordot(x.astype(float), fields, 1).reshape(4, -1)) ** 2 * gain
    for each in (features, again):
        reading = each.read(x, START)
        assert (reading.frames, reading.pixel_readings) == (4, 160)
        np.testing.assert_allclose(reading.amplitude[:, alive], expected[:, alive], rtol=1e-11)


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("pixels", [7, 300])
def test_three_steps_compiled_equal_numpy_to_the_bit(bits: int, pixels: int) -> None:
    fields = gaussian_fields((6, 1, pixels), 50, 0)
    bench = PlainBench(fields, math.sqrt(REFERENCE_E), gain_dn_per_e=0.1 * 2 ** (bits - 8), bits=bits)
    compiled, plain = (PhaseStepping(bench, REFERENCE_E, backend, steps=3).read(patterns(6), START)
                       for backend in ("auto", "numpy"))  # fmt: skip
    np.testing.assert_array_equal(compiled.amplitude, plain.amplitude)
    assert compiled.amplitude.dtype == np.float32
    assert compiled.saturated_pixels == plain.saturated_pixels
