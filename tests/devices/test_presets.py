"""The presets are data with units and sources; overrides change what they name and nothing else."""

import dataclasses
import math
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np
import pytest
import yaml

from optical_dfa.devices import InvalidConfig, load_preset, make_device, preset_names
from optical_dfa.emulator import BenchParameters, Camera

CAMERA_OFF = Camera(shot_noise=False, read_noise_e=0.0, full_well_e=math.inf, gain_dn_per_e=1.0, adc_bits=None)

# the end of a name states the unit with which the comment of its number must begin
UNITS = {
    "_e_per_feature": "e-/px/exposure",
    "reference_e": "e-/px/exposure",
    "_noise_e": "e-",
    "_well_e": "e-",
    "_dn_per_e": "DN/e-",
    "_us": "us",
    "_w": "W",
    "_e_per_s": "e-/s",
    "dsnu_e": "e-",
    "_level_dn": "DN",
    "_tau_s": "s",
    "_rad": "rad",
    "_px": "px",
    "_deg": "deg",
}


def values(parameters: BenchParameters) -> dict[str, Any]:
    """Every value by its path, as in `camera.read_noise_e`."""
    return {
        f"{section}.{name}": value
        for section, part in dataclasses.asdict(parameters).items()
        for name, value in part.items()
    }


def text(preset: str) -> str:
    return resources.files("optical_dfa.devices.presets").joinpath(f"{preset}.yaml").read_text("utf-8")


def test_names() -> None:
    assert preset_names() == ["ideal", "lab-bench", "lighton-aurora", "off-axis", "phase-stepping", "worst-case"]


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_what_its_file_says(name: str) -> None:
    preset = load_preset(name)
    content: dict[str, Any] = yaml.safe_load(text(name))
    assert (preset.name, preset.description) == (name, content.pop("description"))
    assert preset.description
    readout = dataclasses.asdict(preset.readout)
    assert readout == {**dataclasses.asdict(type(preset.readout)()), **content.pop("readout", {})}
    assert {section: content[section].keys() for section in ("photometry", "apparatus")} == {
        section: dataclasses.asdict(getattr(preset.bench, section)).keys() for section in ("photometry", "apparatus")
    }
    off = BenchParameters(preset.bench.photometry, CAMERA_OFF, preset.bench.apparatus)
    written = {f"{section}.{key}": value for section, part in content.items() for key, value in part.items()}
    assert values(preset.bench) == {**values(off), **written}


@pytest.mark.parametrize("name", preset_names())
def test_every_number_has_its_unit_and_source(name: str) -> None:
    lines = [line for line in text(name).splitlines() if re.search(r":\s+(-?[\d.]|null|\.inf)", line)]
    assert len(lines) >= 11
    for line in lines:
        key, comment = line.split(":")[0].strip(), line.partition("#")[2].strip()
        assert comment, line
        for end, unit in UNITS.items():
            if key.endswith(end):
                assert re.split(r"[;\s]", comment)[0] == unit, line


def test_numbers_of_phase_stepping() -> None:
    """The machine, the camera and the working point of the vendor's software and of arXiv 2409.12965."""
    bench = load_preset("phase-stepping").bench
    off = BenchParameters(bench.photometry, CAMERA_OFF, bench.apparatus)
    found = values(bench)
    assert found == values(off) | {
        "photometry.signal_e_per_feature": 250.0,
        "photometry.reference_e": 1500.0,
        "photometry.exposure_us": 400.0,
        "camera.shot_noise": True,
        "camera.read_noise_e": 13.0,
        "camera.full_well_e": 10_000.0,
        "camera.gain_dn_per_e": 255 / 10_000,
        "camera.adc_bits": 8,
        "apparatus.dmd_mirrors": 912 * 1140,
        "apparatus.camera_pixels": 2040 * 1088,
        "apparatus.min_frame_time_us": 500.0,
        "apparatus.power_w": 30.0,
    }


def test_the_off_axis_preset_is_that_of_phase_stepping_with_a_coarser_grain_and_less_light() -> None:
    """Working point and grain of the simulated 34 to 38 dB; see `tests/devices/test_modes.py` for the measured ones."""
    preset, other = load_preset("off-axis"), load_preset("phase-stepping")
    assert values(preset.bench) == values(other.bench) | {
        "photometry.signal_e_per_feature": 100.0,
        "photometry.reference_e": 1000.0,
        "grain.size_px": 6.0,
    }
    assert [" ".join(line.split()) for line in preset.summary().splitlines()[-3:]] == [
        "grain.size_px 6 px",
        "readout.kind off_axis",
        "readout.direction_deg 45 deg",
    ]


def test_the_ideal_preset_has_nothing_switched_on() -> None:
    bench = load_preset("ideal").bench
    assert bench.camera.noiseless
    assert math.log2(math.sqrt(bench.photometry.reference_e)).is_integer()
    assert bench.photometry.signal_e_per_feature == 2 * 1929.546875


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        ({}, {}),
        ({"camera": {}}, {}),
        ({"camera": {"read_noise_e": 20}}, {"camera.read_noise_e": 20.0}),
        (
            {"camera": {"adc_bits": None, "full_well_e": math.inf}},
            {"camera.adc_bits": None, "camera.full_well_e": math.inf},
        ),
        (
            {"photometry": {"reference_e": 2e3}, "apparatus": {"power_w": 1}},
            {"photometry.reference_e": 2000.0, "apparatus.power_w": 1.0},
        ),
        (
            {
                "dmd": {"contrast": 50},
                "medium": {"piston_walk_rad": 3},
                "laser": {"tilt_x": 0.25},
                "grain": {"size_px": 4},
            },
            {"dmd.contrast": 50.0, "medium.piston_walk_rad": 3.0, "laser.tilt_x": 0.25, "grain.size_px": 4.0},
        ),
    ],
)
@pytest.mark.parametrize("name", preset_names())
def test_overrides_change_what_they_name(name: str, overrides: Mapping[str, Any], changed: dict[str, Any]) -> None:
    before = load_preset(name)
    after = load_preset(name, overrides)
    assert values(after.bench) == {**values(before.bench), **changed}
    assert (after.name, after.description) == (before.name, before.description)
    assert load_preset(name) == before
    assert load_preset(before, overrides) == after


def test_the_emulator_takes_overrides_and_presets() -> None:
    preset = load_preset("phase-stepping", {"camera": {"read_noise_e": 2.0}})
    sizes = {"n_inputs": 4, "n_outputs": 6}
    devices = [
        make_device("emulator", **sizes, preset=preset, apparatus={"power_w": 7.0}),
        make_device("emulator", **sizes, camera={"read_noise_e": 2.0}, apparatus={"power_w": 7.0}),
    ]
    fields = []
    for device in devices:
        with device:
            fields.append(device.project(np.array([[1, 0, -1, 1]], np.int8)))
    assert fields[0].tobytes() == fields[1].tobytes()
    assert devices[0].usage.device_joules == pytest.approx(8 * 500e-6 * 7)


def faults(name: str, overrides: Mapping[str, Any]) -> list[str]:
    with pytest.raises(InvalidConfig) as error:
        load_preset(name, overrides)
    start, rest = str(error.value).split(" with these overrides is not valid:")
    assert start == f"preset {name!r}"
    found = [line.strip() for line in rest.strip().splitlines()]
    assert found == [str(fault) for fault in error.value.faults]
    return found


CAMERA = (
    "shot_noise, read_noise_e, full_well_e, gain_dn_per_e, adc_bits, quantum_efficiency, poisson_below_e, "
    "dark_current_e_per_s, prnu, dsnu_e, black_level_dn, dead_pixels, hot_pixels, hot_e_per_s, "
    "dropped_frames"
)
SECTIONS = "photometry, camera, apparatus, dmd, medium, laser, grain"


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        ({"camra": {}}, f"camra: unknown key. Did you mean 'camera'? Known here: {SECTIONS}"),
        ({"zzz": 1}, f"zzz: unknown key. Known here: {SECTIONS}"),
        (
            {"camera": {"read_noise": 3.0}},
            f"camera.read_noise: unknown key. Did you mean 'read_noise_e'? Known here: {CAMERA}",
        ),
        ({"camera": {"read_noise_e": "20"}}, "camera.read_noise_e: input should be a valid number; got '20'"),
        ({"camera": {"read_noise_e": True}}, "camera.read_noise_e: input should be a valid number; got True"),
        ({"camera": {"read_noise_e": None}}, "camera.read_noise_e: input should be a valid number; got None"),
        ({"camera": {"shot_noise": 1}}, "camera.shot_noise: input should be a valid boolean; got 1"),
        ({"camera": {"shot_noise": "yes"}}, "camera.shot_noise: input should be a valid boolean; got 'yes'"),
        ({"camera": {"adc_bits": "8"}}, "camera.adc_bits: input should be a valid integer; got '8'"),
        ({"camera": {"adc_bits": 8.5}}, "camera.adc_bits: input should be a valid integer; got 8.5"),
        ({"camera": {"adc_bits": 9}}, "camera: adc_bits must be 8, 10, 12 or null (no converter); got 9"),
        (
            {"camera": {"read_noise_e": -1.0}},
            "camera: read_noise_e must be a finite number ≥ 0, electrons; got -1.0",
        ),
        (
            {"photometry": {"exposure_us": math.nan}},
            "photometry: exposure_us must be a finite number > 0; got nan",
        ),
        ({"apparatus": 4}, "apparatus: input should be an object; got 4"),
        (
            {"dmd": {"contrst": 9.0}},
            "dmd.contrst: unknown key. Did you mean 'contrast'? Known here: contrast, padding, envelope_waist",
        ),
        ({"dmd": {"contrast": 1}}, "dmd: contrast must be a ratio > 1, or .inf; got 1.0"),
        (
            {"medium": {"vibration_rad": -1}},
            "medium: vibration_rad must be a finite number ≥ 0, radians; got -1.0",
        ),
        ({"laser": {"tilt_x": 0.6}}, "laser: tilt_x must be from -0.5 to 0.5 cycles per pixel; got 0.6"),
        (
            {"grain": {"size_px": 0.9}},
            "grain: size_px must be 1/√M with a whole number M of modes a pixel, or at least 1; got 0.9",
        ),
        ({"grain": {"pupil": "round"}}, "grain.pupil: must be one of circular, square; got 'round'."),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_a_bad_override_is_refused_by_name(overrides: Mapping[str, Any], fault: str) -> None:
    assert faults("phase-stepping", overrides) == [fault]


def test_all_faults_are_reported_at_once() -> None:
    found = faults(
        "ideal",
        {
            "camera": {"read_noise_e": "3", "adc_bts": 8, "shot_noise": 1},
            "photometry": {"reference_e": -1},
            "aparatus": {},
            "apparatus": {"power_w": "30"},
        },
    )
    assert {fault.split(":")[0] for fault in found} == {
        "camera.read_noise_e",
        "camera.adc_bts",
        "camera.shot_noise",
        "photometry",
        "aparatus",
        "apparatus.power_w",
    }


KNOWN = "ideal, lab-bench, lighton-aurora, off-axis, phase-stepping, worst-case"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "phase-steping",
            f"unknown preset 'phase-steping'. Did you mean 'phase-stepping'? Known: {KNOWN}",
        ),
        ("qqq", f"unknown preset 'qqq'. Known: {KNOWN}"),
        ("../presets/ideal", f"unknown preset '../presets/ideal'. Known: {KNOWN}"),
        (3, f"unknown preset 3. Known: {KNOWN}"),
    ],
)
def test_an_unknown_preset_is_refused_by_name(name: Any, message: str) -> None:
    for call in (lambda: load_preset(name), lambda: make_device("emulator", n_inputs=2, n_outputs=2, preset=name)):
        with pytest.raises(InvalidConfig) as error:
            call()
        assert str(error.value).endswith(message)


def test_a_summary_says_what_is_on() -> None:
    preset = load_preset("ideal", {"camera": {"dsnu_e": 3.0}, "medium": {"decorrelation_tau_s": 1e5}})
    assert (
        preset.summary()
        == """ideal: noiseless; returns the exact product bit for bit through frames, images and readout
photometry.signal_e_per_feature  3,859.09375 e-/px/exposure
photometry.reference_e           16,777,216 e-/px/exposure
photometry.exposure_us           400 us
camera.gain_dn_per_e             1 DN/e-
camera.dsnu_e                    3 e-
apparatus.dmd_mirrors            1,039,680
apparatus.camera_pixels          2,219,520
apparatus.min_frame_time_us      500 us
apparatus.power_w                30 W
medium.decorrelation_tau_s       100,000 s"""
    )
    everything = {"dmd": {"padding": True}, "laser": {"reference_waist": 2}, "grain": {"size_px": 0.5}}
    lines = load_preset("phase-stepping", everything).summary().splitlines()
    assert [" ".join(line.split()) for line in lines[-3:]] == [
        "dmd.padding on",
        "laser.reference_waist 2 half widths of the image",
        "grain.size_px 0.5 px",
    ]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"grain": {"size_px": 2.0}, "readout": {"kind": "anchored"}},
            "grain.size_px must be 1, one mode a pixel, for the anchored readout, or choose another; got 2.0",
        ),
        ({"laser": {"tilt_y": 0.1}}, "laser.tilt_x, laser.tilt_y must be 0: the readout phase_stepping reads a level"),
        (
            {"preset": "off-axis", "laser": {"tilt_y": 0.1}},
            "laser.tilt_x, laser.tilt_y must be 0: the off-axis readout tilts the reference arm itself",
        ),
        (
            {"preset": "off-axis", "laser": {"signal_waist": 2.0}},
            "laser.signal_waist must be .inf where the grain is larger than a pixel, or set readout.calibration.flat_f",
        ),
        (
            {"grain": {"size_px": 2.0}, "laser": {"reference_waist": 2.0}},
            "laser.reference_waist must be .inf where the grain is larger than a pixel, or set readout.calibration.ref",
        ),
        (
            {"preset": "off-axis", "grain": {"size_px": 1.0}},
            "grain.size_px must be 3.13 pixels or more for an off-axis",
        ),
        (
            {"preset": "off-axis", "grain": {"size_px": 3.5}, "readout": {"direction_deg": 0.0}},
            "grain.size_px must be 4 pixels or more for an off-axis carrier at 0°, 3.13 or more at 45°",
        ),
        (
            {"preset": "off-axis", "grain": {"size_px": 3.9, "pupil": "square"}},
            "grain.size_px must be 4 pixels or more for an off-axis carrier at 45°; got 3.9",
        ),
        ({"preset": "off-axis", "readout": {"direction_deg": math.nan}}, "direction_deg must be a finite number, deg"),
        (
            {"dmd": {"contrast": 10.0}, "readout": {"kind": "anchored"}},
            "dmd must be off for the anchored readout, or choose another; got Dmd",
        ),
        (
            {"grain": {"size_px": 0.5}, "readout": {"kind": "anchored"}},
            "grain.size_px must be 1, one mode a pixel, for the anchored readout",
        ),
        (
            {"laser": {"signal_waist": 2.0}, "readout": {"kind": "anchored"}},
            "laser.signal_waist must be .inf for the anch",
        ),
    ],
)
def test_a_bench_that_the_readout_cannot_read_is_refused(sections: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=re.escape(message)):
        make_device("emulator", n_inputs=4, n_outputs=6, **sections)
