"""The emulated device with a grain larger than a pixel: it returns modes, rows of T, by off-axis or phase stepping."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optical_dfa.devices import (
    DigitalDevice,
    EmulatedDevice,
    InvalidConfig,
    load_preset,
    make_device,
    measured_snr_db,
    open_device,
)
from optical_dfa.devices.presets import preset_names
from optical_dfa.devices.readouts import noise, off_axis
from optical_dfa.devices.readouts.off_axis import carrier_on_bin, least_grain_px
from optical_dfa.emulator import EmulatedBench, FrameStamp, Pupil
from optical_dfa.emulator.pupil import PupilShape

OFF_AXIS: dict[str, Any] = {"readout": {"kind": "off_axis"}, "grain": {"size_px": 6.0}}
STEPPED: dict[str, Any] = {"grain": {"size_px": 2.5}}
THREE_STEPPED: dict[str, Any] = {"readout": {"steps": 3}, "grain": {"size_px": 2.5, "pupil": "square"}}
NO_CONVERTER: dict[str, Any] = {"shot_noise": False, "read_noise_e": 0.0, "full_well_e": math.inf, "adc_bits": None}


def ternary(n_vectors: int, n_inputs: int) -> npt.NDArray[np.int8]:
    vectors = np.random.default_rng(0).integers(-1, 2, (n_vectors, n_inputs), np.int8)
    vectors[0] = 0
    vectors[1] = np.abs(vectors[1])
    return vectors


def pupil_of(device: EmulatedDevice) -> Pupil:
    info = device._bench.info
    return Pupil(info.image_shape, info.grain_px, info.pupil)


@pytest.mark.parametrize("camera", [{}, {"black_level_dn": 16.0}], ids=str)
@pytest.mark.parametrize("sections", [OFF_AXIS, OFF_AXIS | {"readout": {"kind": "off_axis", "direction_deg": -110.0}},
                                      STEPPED, THREE_STEPPED], ids=str)  # fmt: skip
def test_without_noise_it_is_its_effective_matrix(sections: dict[str, Any], camera: dict[str, Any]) -> None:
    """To float32, in which fields are given; rows of T, of the same fingerprint as the digital device."""
    sizes: dict[str, Any] = {"n_inputs": 60, "n_outputs": 501}
    vectors = ternary(6, 60)
    with open_device("emulator", preset="ideal", **sizes, **sections, camera=camera) as device:
        matrix = device.effective_matrix()
        found = device.project(vectors)
        frames = {"off_axis": 1}.get(
            sections.get("readout", {}).get("kind"), sections.get("readout", {}).get("steps", 4)
        )
        assert device.info.frames_per_vector == 2 * frames
        assert (device.usage.frames, device.usage.frames_skipped) == (9 * frames, 3 * frames)
    digital = DigitalDevice(**sizes)
    assert matrix is not None
    np.testing.assert_array_equal(matrix, digital.effective_matrix())
    assert (device.info.output_map, device.info.outputs_per_mode, device.info.exact) == ("rows", 2, False)
    assert device.fingerprint == digital.fingerprint
    exact = vectors @ matrix.T.astype(np.float64)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6 * np.abs(exact).max())


@pytest.mark.parametrize(
    "sections", [OFF_AXIS, OFF_AXIS | {"grain": {"size_px": 3.2}}, STEPPED, THREE_STEPPED], ids=str
)
def test_without_a_converter_the_bench_is_right_to_1e_12(sections: dict[str, Any]) -> None:
    """Carrier, sign and order of the modes, through frames and images in float64, against the integer product."""
    device = make_device("emulator", preset="ideal", n_inputs=40, n_outputs=200, **sections)
    assert isinstance(device, EmulatedDevice)
    patterns = np.random.default_rng(1).integers(0, 2, (5, 40), np.uint8)
    exact = device._bench.product(patterns).astype(np.float64)
    found = device._readout.read(patterns, FrameStamp(0, 0)).amplitude
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12 * np.abs(exact).max())


@pytest.mark.parametrize(("plus", "minus"), [(1, 0), (2, 1)])
@pytest.mark.parametrize(
    ("preset", "sections"),
    [
        ("off-axis", {}),
        ("off-axis", {"grain": {"size_px": 4.0}}),
        ("off-axis", {"grain": {"size_px": 3.2}}),
        ("phase-stepping", STEPPED | {"photometry": {"signal_e_per_feature": 100.0}}),
    ],
)
def test_snr(preset: str, sections: dict[str, Any], plus: int, minus: int) -> None:
    """f (Is + R² + s² + q²/12) / R², over 4 for four steps: by the emulator's own grain and camera.

    12 vectors on 1,000 outputs: signal and noise are each known to 0.06 dB, 0.5 dB are 6 σ.
    """
    vectors = np.zeros((12, 36), np.int8)
    for number in range(12):
        vectors[number, 3 * number :][:plus] = 1
        vectors[number, 3 * number + plus :][:minus] = -1
    device = make_device("emulator", preset=preset, n_inputs=36, n_outputs=1000, **sections)
    assert isinstance(device, EmulatedDevice)
    bench, f = device.preset.bench, pupil_of(device).kept_fraction
    assert f == pytest.approx(math.pi / 4 / bench.grain.size_px**2, rel=0.1)
    steps = 1 if preset == "off-axis" else 4
    fixed_e = bench.photometry.reference_e + bench.camera.read_noise_e**2 + bench.camera.gain_dn_per_e**-2 / 12
    sides = [bench.photometry.signal_e_per_feature * side for side in (plus, minus) if side]
    expected = steps * bench.photometry.reference_e * sum(sides) / sum(f * (side + fixed_e) for side in sides)
    if steps == 1:
        camera = (bench.camera.read_noise_e, 1 / bench.camera.gain_dn_per_e)
        reference_e = bench.photometry.reference_e
        variance = lambda e: noise.off_axis_variance_e(e, reference_e, f, *camera)  # noqa: E731
        assert noise.snr(sides, variance) == pytest.approx(expected)
    with device:
        assert measured_snr_db(device, vectors) == pytest.approx(noise.decibels(expected), abs=0.5)
    assert device.usage.saturated_pixels == 0


def test_a_grain_larger_than_a_pixel_gains_the_kept_fraction() -> None:
    """Phase stepping of one mode a pixel, and of grains of 2.5 px: 10 log₁₀(1/f) = 9 dB apart, to 0.3 dB."""
    vectors = np.eye(12, dtype=np.int8)
    found = {}
    for size_px in (1.0, 2.5):
        with open_device("emulator", n_inputs=12, n_outputs=2000, grain={"size_px": size_px}) as device:
            found[size_px] = measured_snr_db(device, vectors)
    assert isinstance(device, EmulatedDevice)
    assert found[2.5] - found[1.0] == pytest.approx(-noise.decibels(pupil_of(device).kept_fraction), abs=0.3)


@pytest.mark.parametrize("preset", ["off-axis", "phase-stepping"])
def test_unit_gain(preset: str) -> None:
    """E[field²] = ‖x‖², with a DMD that leaks too: 20 vectors of 40 on 1,200 outputs, 1 % known."""
    vectors = np.random.default_rng(0).integers(-1, 2, (20, 6), np.int8)
    sections = {"grain": {"size_px": 5.0}, "dmd": {"contrast": 100.0, "padding": True}}
    with open_device("emulator", preset=preset, n_inputs=6, n_outputs=1200, **sections) as device:
        found = device.project(vectors)
    ratio = np.mean(np.square(found, dtype=np.float64)) / np.mean(np.count_nonzero(vectors, axis=1))
    assert ratio == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("n_outputs", [1, 2, 7, 40, 333])
@pytest.mark.parametrize(
    ("size_px", "direction_deg"), [(6.0, 45.0), (3.3, 45.0), (3.3, -135.0), (4.3, 0.0), (9.7, 70.0)]
)
def test_every_size_finds_a_carrier(n_outputs: int, size_px: float, direction_deg: float) -> None:
    """The lowest on a bin of an image that may be larger than the smallest; the bench is tilted by just that."""
    sections = {"grain": {"size_px": size_px}, "readout": {"direction_deg": direction_deg}}
    device = make_device("emulator", preset="off-axis", n_inputs=3, n_outputs=n_outputs, **sections)
    assert isinstance(device, EmulatedDevice)
    assert device._bench.info.carrier == carrier_on_bin(pupil_of(device), direction_deg)
    assert device.preset == load_preset("off-axis", sections)
    assert device.info.n_outputs == n_outputs


def test_bins_too_coarse_for_a_carrier_are_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(off_axis, "IMAGES_TRIED", 1)
    with pytest.raises(InvalidConfig, match=r"no carrier at 45° fits: .*; tried images of up to \d+ x \d+ pixels"):
        make_device("emulator", preset="off-axis", n_inputs=3, n_outputs=40, grain={"size_px": 3.125})


@given(st.integers(6, 40), st.integers(6, 40), st.floats(2.5, 8.0), st.sampled_from(["circular", "square"]), st.data())
def test_a_carrier_is_taken_where_its_band_is_apart(
    rows: int, columns: int, grain_px: float, shape: PupilShape, data: st.DataObject
) -> None:
    """As sets of bins: the band at -k, all differences of two bins of the pupil, and the band at k."""
    pupil = Pupil((rows, columns), grain_px, shape)
    place = [
        data.draw(st.integers(-int((0.5 - pupil.cutoff) * n), int((0.5 - pupil.cutoff) * n))) for n in (rows, columns)
    ]
    bins = {(int(b) // columns, int(b) % columns) for b in pupil.bins}
    band, conjugate = (
        {((r + sign * place[0]) % rows, (c + sign * place[1]) % columns) for r, c in bins} for sign in (-1, 1)
    )
    intensity = {((r - s) % rows, (c - d) % columns) for r, c in bins for s, d in bins}
    carrier = (place[1] / columns, place[0] / rows)
    if band & (intensity | conjugate):
        with pytest.raises(ValueError, match="from the origin, so that"):
            off_axis._checked_bin(pupil, carrier)
    else:
        assert off_axis._checked_bin(pupil, carrier) == tuple(place)


def test_the_least_grain() -> None:
    """Along an axis 4 pixels; on the diagonal 1 + 3/√2; of a square pupil 4."""
    found = [least_grain_px("circular", 0), least_grain_px("circular", 45), least_grain_px("square", 45)]
    assert found == pytest.approx([4, 1 + 3 / math.sqrt(2), 4])


def test_maps_even_beams_out() -> None:
    """With maps of both beams outputs are rows of T again, to the noise of 200 flat frames."""
    vectors = ternary(6, 200)
    taken = {"dark_frames": 1, "reference_frames": 1, "flat_frames": 200}
    sections: dict[str, Any] = {"laser": {"signal_waist": 3.0, "reference_waist": 3.0}, "grain": {"size_px": 2.5}}
    sections["readout"] = {"calibration": taken}
    with open_device("emulator", preset="ideal", n_inputs=200, n_outputs=300, **sections) as device:
        exact = vectors @ device.effective_matrix().T  # type: ignore[union-attr]
        assert device.info.output_map == "rows"
        assert np.std(device.project(vectors) - exact) < 2 / (2 * math.sqrt(200)) * np.std(exact)


def test_a_level_bench_has_no_off_axis_readout() -> None:
    preset = load_preset("off-axis")
    assert "off-axis" in preset_names()
    bench = EmulatedBench(3, 50, 0, preset.bench)
    with pytest.raises(ValueError, match="needs a tilted reference arm"):
        preset.readout.make(bench, 3, 100, 1000.0, "auto")
