"""The check of a device and the monitor of a run find what was put in."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from optical_dfa.cli import app
from optical_dfa.config import RunConfig
from optical_dfa.devices import InvalidConfig, SaturationWarning, load_preset, open_device
from optical_dfa.devices.probes import pairs_and_sums
from optical_dfa.devices.readouts import noise
from optical_dfa.emulator import EmulatedBench
from optical_dfa.health import Health, Monitor, check, health_of, verdicts
from optical_dfa.run_errors import InputError
from optical_dfa.training import train

SIZES: dict[str, Any] = {"n_inputs": 20, "n_outputs": 4000}


def health(name: str, **options: Any) -> Health:
    with open_device(name, **{**SIZES, **options}) as device:
        return health_of(device, check(device))


def words(found: Health) -> dict[str, str]:
    return {row.name: row.word for row in verdicts(found)}


def test_probes_are_pairs_that_light_different_inputs() -> None:
    x, y, both = pairs_and_sums(np.random.default_rng(0), 50, 20, 5)
    np.testing.assert_array_equal(x + y, both)
    assert {*np.abs(x).sum(axis=1)} == {3}
    assert {*np.abs(y).sum(axis=1)} == {2}
    assert not (x * y).any()


def test_an_exact_device_is_well() -> None:
    """Gain 1 within 3 σ of the power of 4000 rows; float32 leaves 1e-7 of the superposition."""
    found = health("digital")
    assert abs(found.gain - 1) < 3 / math.sqrt(2 * 4000)
    assert found.superposition_error < 1e-6
    assert found.snr_db == found.matrix_snr_db == math.inf
    assert found.repeatability == pytest.approx(1, abs=1e-6)
    assert (found.dead_outputs, found.saturated_fraction, found.drift, found.frames_per_s) == (0, None, None, None)
    assert {*words(found).values()} == {"pass", ""}


def test_snr_and_repeatability_are_those_of_the_readout() -> None:
    """Phase stepping with 60 e- a feature, R² 1500 e-, so that nothing is clipped; sums of 4 features.

    σ² of an output is the sum over both sides of (Is + R² + s² + q²/12)/(8 R²), a dark side none; signal Is/2. Within
    0.5 dB; the sampling of 384,000 differences adds nothing to that.
    """
    found = health("emulator", photometry={"signal_e_per_feature": 60.0})
    light = load_preset("phase-stepping").bench
    x, y, both = pairs_and_sums(np.random.default_rng(0), 32, 20, 4)
    vectors = np.concatenate([x, y, both])
    quantum_e = 1 / light.camera.gain_dn_per_e
    signal = variance = 0.0
    for side in ((vectors > 0).sum(axis=1), (vectors < 0).sum(axis=1)):
        for count in side[side > 0]:
            signal_e = 60.0 * float(count)
            signal += signal_e / 2
            variance += noise.phase_stepping_variance_e(signal_e, 1500.0, 4, 13.0, quantum_e, 0.0) / 2
    snr = signal / variance
    assert found.snr_db == pytest.approx(10 * math.log10(snr), abs=0.5)
    assert found.matrix_snr_db == pytest.approx(found.snr_db, abs=0.5)
    assert found.repeatability == pytest.approx(snr / (1 + snr), abs=1e-3)
    assert {*words(found).values()} == {"pass", ""}


@pytest.mark.filterwarnings("ignore::optical_dfa.devices.SaturationWarning")
def test_stuck_pixels_are_dead_outputs() -> None:
    """A stuck pixel gives two dead outputs and five of a hundred saturated readings: binomial, 4.9 σ of 2000."""
    found = health("faulty", device="emulator", stuck_pixels=0.05)
    assert found.dead_outputs % 2 == 0
    assert abs(found.dead_outputs / 2 - 100) < 4.9 * math.sqrt(2000 * 0.05 * 0.95)
    assert found.saturated_fraction == pytest.approx(found.dead_outputs / 4000, abs=1e-3)
    assert words(found)["dead outputs"] == "fail"
    assert words(found)["saturated readings"] == "fail"


@pytest.mark.filterwarnings("ignore::optical_dfa.devices.SaturationWarning")
def test_too_much_light_bends_the_superposition() -> None:
    found = health("faulty", device="emulator", overexposure=3.0)
    assert found.superposition_error > 0.1
    assert (words(found)["superposition error"], words(found)["saturated readings"]) == ("fail", "fail")
    assert found.repeatability > 0.99  # which a noise figure alone does not tell


def test_a_gain_that_is_off_is_found() -> None:
    """The camera has a fifth less gain than the readout was told."""
    found = health("faulty", device="emulator", overexposure=0.7)
    assert found.gain == pytest.approx(0.7, abs=0.03)
    assert words(found)["gain"] == "fail"


def test_drift_is_the_correlation_of_the_medium() -> None:
    """A medium of τ = 1 s at rest for a check, and at an angle θ later: fields correlate by cos θ of the matrices."""
    medium = {"decorrelation_tau_s": 20.0}
    with open_device("emulator", **SIZES, medium=medium) as device:
        first = check(device)
        x = device.state_dict()
        device.load_state_dict({**x, "position": {**x["position"], "frame": 12_000}})  # six seconds on
        later = check(device, probes=first.probes)
        found = health_of(device, later, first.fields, "then")
    emulated = load_preset("phase-stepping", {"medium": medium}).bench.medium
    times = np.array([[384 * 500e-6, 6 + 384 * 500e-6]])
    number, turn = emulated.mixture(times.ravel())
    expected = math.cos(turn[1] - turn[0]) if number[0] == number[1] else None
    assert expected is not None
    assert found.drift == pytest.approx(expected, abs=0.02)
    assert 0.5 < expected < 0.98


def test_refusals() -> None:
    with open_device("digital", n_inputs=1, n_outputs=4) as device, pytest.raises(InputError, match="2 inputs or more"):
        check(device)
    with open_device("digital", **SIZES) as device:
        with pytest.raises(InputError, match="lit 2 … 20; got 32 and 21"):
            check(device, lit=21)
        with pytest.raises(InputError, match="the earlier check has 7 inputs, the device 20"):
            check(device, probes=np.zeros((3, 7), np.int8))


def run(*arguments: Any) -> Any:
    return CliRunner(env={"COLUMNS": "120"}).invoke(app, [str(argument) for argument in arguments])


@pytest.mark.filterwarnings("ignore::optical_dfa.devices.SaturationWarning")
def test_the_command_writes_what_the_device_uses_and_compares_with_it(tmp_path: Path) -> None:
    sizes = ("--inputs", 12, "--outputs", 200)
    first = run("device", "check", "emulator", *sizes, "-o", tmp_path / "check")
    assert first.exit_code == 0, first.output
    assert "SNR" in first.output
    report = json.loads((tmp_path / "check" / "check.json").read_text())
    assert (report["n_outputs"], report["vectors"]) == (200, 96)
    assert {row["word"] for row in report["verdicts"]} <= {"pass", "warn", ""}
    arrays = load_file(tmp_path / "check" / "check.safetensors")
    assert arrays["fields"].shape == (2, 96, 200)
    assert arrays["last.images"].dtype == np.uint8
    assert (tmp_path / "check" / "check.png").read_bytes()[:4] == b"\x89PNG"
    again = run("device", "check", "emulator", *sizes, "--since", tmp_path / "check" / "check.safetensors")
    assert again.exit_code == 0, again.output
    assert "correlation with" in again.output
    other = run("device", "check", "emulator", *sizes, "--set", "seed=1", "--since",
                tmp_path / "check" / "check.safetensors")  # fmt: skip
    assert other.exit_code == 2
    assert "belongs to device" in other.output
    bad = run("device", "check", "faulty", *sizes, "--set", "device=emulator", "--set", "stuck_pixels=0.1")
    assert bad.exit_code == 1
    assert "fail" in bad.output


def test_the_command_checks_the_device_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: {hidden: [30, 20]}\ndevice: {name: digital}\n")
    result = run("device", "check", path)
    assert result.exit_code == 0, result.output
    assert "Device digital: 10 inputs, 30 outputs" in result.output
    independent = run("device", "check", path, "--set", "feedback.layout=independent")
    assert "50 outputs" in independent.output


def test_a_bench_uses_the_calibration_of_its_check(tmp_path: Path) -> None:
    """Through files only, as a user does it."""
    from optical_dfa.cli.device import Options, _write
    from optical_dfa.health.check import last_frames

    bench = EmulatedBench(12, 100, 0, load_preset("phase-stepping").bench)
    options: dict[str, Any] = {"bench": bench, "n_inputs": 12, "n_outputs": 200, "integrity": "none"}
    assert Options("bench").pairs == 32
    with open_device("bench", **options) as device:
        tap = last_frames(device)
        found = check(device)
        figures = health_of(device, found)
        gain = device.calibration()["gain"]
        _write(tmp_path, device, figures, found, verdicts(figures), device.calibration(), tap, None)
    with open_device("bench", **options, calibration=tmp_path / "check.safetensors") as device:
        np.testing.assert_array_equal(device.calibration()["gain"], gain)
        assert device.usage.frames == 0
    with pytest.raises(InvalidConfig, match="belongs to device"):
        open_device("bench", **options, medium="other", calibration=tmp_path / "check.safetensors")


def config(device: Any, **training: Any) -> RunConfig:
    settings = {"epochs": 2, "threads": 1, "checkpoint_every_steps": 5, "seed": 3, **training}
    return RunConfig.model_validate({"model": {"hidden": [64]}, "training": settings, "device": device})


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "health.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_looks_at_its_device(tmp_path: Path) -> None:
    """Every 5 of 24 steps; stopped by a fault in a look and resumed, the same run to the bit."""
    import torch

    train(config("emulator", monitor_every_steps=5), tmp_path / "whole", progress=False)
    looks = rows(tmp_path / "whole")
    assert [(row["epoch"], row["step"]) for row in looks] == [
        ("1", "0"), ("1", "5"), ("1", "10"), ("2", "3"), ("2", "8"),
    ]  # fmt: skip
    assert all(20 < float(row["snr_db"]) < 40 for row in looks)
    assert float(looks[0]["drift"]) == 1
    assert all(abs(float(row["drift"]) - 1) < 0.01 for row in looks)
    device = {"name": "faulty", "device": "emulator", "failing_requests": 0.12, "seed": 5}
    folder, stops = tmp_path / "stopped", 0
    while not (folder / "result.json").exists():
        try:
            train(config(device, monitor_every_steps=5), folder, resume=folder.exists(), progress=False)
        except Exception:
            stops += 1
        assert stops < 40
    assert stops >= 1
    nets = [torch.load(f / "checkpoint.pt", weights_only=True)["net"] for f in (tmp_path / "whole", folder)]
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])
    assert rows(folder) == looks


def test_bad_health_is_an_event_and_frames_are_dumped_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = {"name": "faulty", "device": "emulator", "stuck_pixels": 0.05}
    folder = tmp_path / "run"

    from optical_dfa.training.run import Run

    step = Run.train_step

    def asking(run: Run, batch: Any) -> None:
        step(run, batch)
        if (run.epoch, run.step) == (0, 3):
            (folder / "dump-frames").touch()

    monkeypatch.setattr(Run, "train_step", asking)
    with pytest.warns(SaturationWarning):
        train(config(device, monitor_every_steps=10), folder, progress=False)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [event["kind"] for event in events] == ["health", "frames"]
    assert "saturated" in events[0]["message"]
    arrays = load_file(folder / "frames-1-4.safetensors")
    assert {name: array.shape for name, array in arrays.items()} == {
        "frames": (64, 10), "images": (64, 1, 32), "phases": (64,),
    }  # fmt: skip
    assert not (folder / "dump-frames").exists()


def test_a_monitor_compares_with_its_first_look() -> None:
    with open_device("emulator", **SIZES) as device:
        monitor = Monitor(device)
        monitor.look(1, 0)
        state = monitor.state_dict()
        second = monitor.look(1, 5)
        resumed = Monitor(device)
        resumed.load_state_dict(state)
        third = resumed.look(1, 10)
    assert len(resumed.samples) == 2
    assert third.drift == pytest.approx(second.drift, abs=0.01)
