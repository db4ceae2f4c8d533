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
from optical_dfa.emulator import BenchParameters

# the end of a name states the unit with which the comment of its number must begin
UNITS = {
    "_e_per_feature": "e-/px/exposure",
    "reference_e": "e-/px/exposure",
    "_noise_e": "e-",
    "_well_e": "e-",
    "_dn_per_e": "DN/e-",
    "_us": "us",
    "_w": "W",
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
    assert preset_names() == ["ideal", "phase-stepping"]


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_what_its_file_says(name: str) -> None:
    preset = load_preset(name)
    content: dict[str, Any] = yaml.safe_load(text(name))
    assert (preset.name, preset.description) == (name, content.pop("description"))
    assert preset.description
    assert dataclasses.asdict(preset.bench) == content


@pytest.mark.parametrize("name", preset_names())
def test_every_number_has_its_unit_and_source(name: str) -> None:
    lines = [line for line in text(name).splitlines() if re.search(r":\s+(-?[\d.]|null|\.inf)", line)]
    assert len(lines) == 11  # twelve values, less shot_noise, which is no number
    for line in lines:
        key, comment = line.split(":")[0].strip(), line.partition("#")[2].strip()
        assert comment, line
        for end, unit in UNITS.items():
            if key.endswith(end):
                assert re.split(r"[;\s]", comment)[0] == unit, line


def test_numbers_of_phase_stepping() -> None:
    """The machine, the camera and the working point of the vendor's software and of arXiv 2409.12965."""
    found = values(load_preset("phase-stepping").bench)
    assert found == {
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


CAMERA = "shot_noise, read_noise_e, full_well_e, gain_dn_per_e, adc_bits"
SECTIONS = "photometry, camera, apparatus"


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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "phase-steping",
            "unknown preset 'phase-steping'. Did you mean 'phase-stepping'? Known: ideal, phase-stepping",
        ),
        ("qqq", "unknown preset 'qqq'. Known: ideal, phase-stepping"),
        ("../presets/ideal", "unknown preset '../presets/ideal'. Known: ideal, phase-stepping"),
        (3, "unknown preset 3. Known: ideal, phase-stepping"),
    ],
)
def test_an_unknown_preset_is_refused_by_name(name: Any, message: str) -> None:
    for call in (lambda: load_preset(name), lambda: make_device("emulator", n_inputs=2, n_outputs=2, preset=name)):
        with pytest.raises(InvalidConfig) as error:
            call()
        assert str(error.value).endswith(message)
