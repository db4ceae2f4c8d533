"""Measuring a matrix: what the probes give, with what noise; files, spectrum, command."""

import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner, Result

import optical_dfa as odfa
from optical_dfa.cli import app
from optical_dfa.config import load_config
from optical_dfa.devices import (
    DeviceFault,
    DeviceInfo,
    DigitalDevice,
    EmulatedDevice,
    ProjectionDevice,
    SaturationWarning,
    Usage,
    make_device,
)
from optical_dfa.devices.base import Fields, Vectors
from optical_dfa.emulator import Pupil
from optical_dfa.measure import BlockHadamard, compare, measure, measure_matrix, report, save_matrix, spectrum
from optical_dfa.measure import marchenko_pastur as law
from optical_dfa.run_errors import InputError

READ_NOISE_E, E_PER_DN, REFERENCE_E = 13.0, 1 / 0.0255, 1500.0  # of the preset phase-stepping
FLOOR_E = REFERENCE_E + READ_NOISE_E**2 + E_PER_DN**2 / 12


class Noisy(ProjectionDevice):
    """A Gaussian matrix and Gaussian noise of a known σ for each output."""

    def __init__(self, n_inputs: int, sigma: Any, *, linear: bool = True) -> None:
        super().__init__()
        self.rng, self.sigma = np.random.default_rng(7), np.asarray(sigma)
        self.matrix = np.random.default_rng(8).standard_normal((len(self.sigma), n_inputs)).astype(np.float32)
        self.matrix_identity = {"kind": "noisy"}
        self.info = DeviceInfo(
            name="noisy", n_inputs=n_inputs, n_outputs=len(self.sigma), linear=linear, exact=False, accepts_real=False,
            backend="none", frames_per_vector=1, n_pixels=0, outputs_per_mode=1, output_map="rows", matrix=None,
        )  # fmt: skip

    def effective_matrix(self, rows: slice = slice(None)) -> Fields:
        return self.matrix[rows]

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        noise = self.sigma * self.rng.standard_normal((len(vectors), len(self.sigma)))
        return (vectors @ self.matrix.T + noise).astype(np.float32), Usage()


# ---- probes


@given(st.integers(1, 70), st.data())
def test_probes_are_orthogonal_and_solve_inverts_them(n_inputs: int, data: st.DataObject) -> None:
    weight = 2 ** data.draw(st.integers(0, (n_inputs - 1).bit_length()))
    probes = BlockHadamard(n_inputs, weight)
    vectors = probes.vectors(0, probes.n_probes)
    assert vectors.dtype == np.int8
    lit = np.abs(vectors).sum(axis=1)
    assert probes.lit == lit.max() <= min(weight, n_inputs)
    assert lit.min() >= lit.max() - 1
    np.testing.assert_array_equal(vectors.T.astype(int) @ vectors, weight * np.eye(n_inputs))
    np.testing.assert_array_equal(np.concatenate([probes.vectors(0, 1), probes.vectors(1, len(vectors))]), vectors)

    answers = np.random.default_rng(n_inputs).standard_normal((len(vectors), 3))
    expected, *_ = np.linalg.lstsq(vectors.astype(float), answers, rcond=None)
    unexplained = np.square(answers - vectors @ expected).sum(axis=0)
    rows, residual = probes.solve(answers)
    np.testing.assert_allclose(rows, expected.T, atol=1e-12)
    np.testing.assert_allclose(residual, unexplained, atol=1e-11)


@pytest.mark.parametrize("order", range(11))
def test_no_full_probe_lights_one_side_alone(order: int) -> None:
    """Bent signs: the sides differ by √weight, or by √(2·weight) or nothing."""
    weight = 1 << order
    sums = np.abs(BlockHadamard(weight, weight).vectors(0, weight).sum(axis=1, dtype=int))
    assert set(sums.tolist()) == ({2 ** (order // 2)} if order % 2 == 0 else {0, 2 ** ((order + 1) // 2)})


@pytest.mark.parametrize("weight", [0, 3, -2, 64])
def test_weights_that_are_no_power_of_two_are_refused(weight: int) -> None:
    with pytest.raises(ValueError, match=f"weight must be a power of two from 1 to 32 for 20 inputs; got {weight}"):
        BlockHadamard(20, weight)


# ---- measuring


def test_the_ideal_bench_and_the_digital_device_are_measured_exactly(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"n_inputs": 40, "n_outputs": 51, "seed": 3}
    for device in (DigitalDevice(**sizes), EmulatedDevice(**sizes, preset="ideal")):
        with device:
            path = tmp_path / device.info.name
            file = measure_matrix(device, path, repeats=1)
            np.testing.assert_allclose(file.rows(0, 51), device.effective_matrix(), atol=1e-6, rtol=0)
            assert file.noise().max() < 1e-6
            result = report(file, device)
            assert result.comparison is not None
            assert result.comparison.correlation == pytest.approx(1, abs=1e-12)
            assert ("noise of an entry", "none") in result.lines()
    assert (file.record.frames, file.record.repeats, file.record.weight) == (4 * 2 * 64, 1, 64)
    assert file.record.device_seconds == pytest.approx(512 * 500e-6)


@pytest.mark.parametrize("weight", [None, 8])
def test_the_emulator_is_measured_within_the_noise_of_four_step_readout(weight: int | None, tmp_path: Path) -> None:
    """Error against prediction over 48,000 entries, 4.9 σ = 4.9 √(2/48,000): false alarms 1e-6.

    A side of a probe with signal I at a pixel has the variance (I + R² + s² + q²/12) / (8R²) on each quadrature, in
    electrons, and the unit of the field is half the signal of a feature. A full probe of 24 inputs gives 12 · 25 e- a
    side, so that nothing saturates. An entry has 1/(weight · repeats) of the variance.

    What SNR = 4R²(Is₊ + Is₋) / Σ±(Is± + R² + s² + q²/12) promises for the ensemble must hold as well, to the scatter of
    I over 1,000 pixels.
    """
    n_inputs, n_outputs, signal_e, repeats = 24, 2000, 25.0, 2
    options: dict[str, Any] = {"photometry": {"signal_e_per_feature": signal_e}, "seed": 5}
    with EmulatedDevice(n_inputs=n_inputs, n_outputs=n_outputs, **options) as device:
        file = measure_matrix(device, tmp_path / "m", repeats=repeats, weight=weight)
        matrix = device.effective_matrix().astype(np.float64)
        compared = compare(file, device)
    probes = BlockHadamard(n_inputs, weight or 32)
    assert (file.record.weight, file.record.saturated_fraction) == (probes.weight, 0)
    vectors = probes.vectors(0, probes.n_probes)
    variance = np.zeros(n_outputs)
    for side in (vectors > 0, vectors < 0):
        field = matrix @ side.T * (signal_e / 2) ** 0.5  # (outputs, probes), root electrons
        intensity = np.repeat(field[0::2] ** 2 + field[1::2] ** 2, 2, axis=0)
        shown = side.any(axis=1)  # dark sides are not displayed and have no noise
        variance += ((intensity + FLOOR_E) * shown).mean(axis=1) / (8 * REFERENCE_E) / (signal_e / 2)
    predicted = variance / (probes.weight * repeats)
    errors = np.square(file.rows(0, n_outputs) - matrix).mean(axis=1)
    bound = 4.9 * (2 / (n_inputs * n_outputs)) ** 0.5
    assert np.mean(errors / predicted) == pytest.approx(1, abs=bound)

    lit = [side.sum(axis=1) for side in (vectors > 0, vectors < 0)]
    noise = sum((np.where(on, on * signal_e + FLOOR_E, 0)).sum() for on in lit)
    snr = 4 * REFERENCE_E * sum(on.sum() for on in lit) * signal_e / noise
    power = np.abs(vectors).sum(axis=1).mean()  # of an output, unit gain
    assert predicted.mean() == pytest.approx(power / snr / (probes.weight * repeats), rel=0.02)

    # the standard errors in the file: probes · repeats - inputs degrees of freedom for each of 2,000 outputs
    freedom = probes.n_probes * repeats - n_inputs
    assert np.mean(file.noise() ** 2 / predicted) == pytest.approx(1, abs=4.9 * (2 / (freedom * n_outputs)) ** 0.5)
    assert compared is not None
    assert compared.correlation == pytest.approx(compared.expected_correlation, abs=1e-3)
    assert compared.slope == pytest.approx(1, abs=4.9 * (float(predicted.mean()) / matrix.size) ** 0.5)


def test_the_off_axis_preset_is_measured_within_its_noise(tmp_path: Path) -> None:
    """f (Is + R² + s² + q²/12) / R² a side; 16,000 degrees of freedom know it to 1.1 %, 6 % are over 5 σ.

    The noise of an output is found from 16 degrees of freedom, so that the mean of (error / noise)² is 16/14.
    """
    with EmulatedDevice(n_inputs=16, n_outputs=1000, preset="off-axis") as device:
        file = measure_matrix(device, tmp_path / "m", repeats=2, weight=4)
        compared = compare(file, device)
        bench = device.preset.bench
        kept = Pupil(device._bench.info.image_shape, bench.grain.size_px).kept_fraction
    probes = BlockHadamard(16, 4)
    vectors = probes.vectors(0, probes.n_probes)
    signal_e, camera = bench.photometry.signal_e_per_feature, bench.camera
    fixed_e = bench.photometry.reference_e + camera.read_noise_e**2 + camera.gain_dn_per_e**-2 / 12
    lit = np.concatenate([(vectors > 0).sum(axis=1), (vectors < 0).sum(axis=1)])
    noise_e = kept * np.where(lit, lit * signal_e + fixed_e, 0).sum() / bench.photometry.reference_e
    expected = noise_e / probes.n_probes / signal_e / (4 * 2)  # one quadrature, its unit half the signal of a feature
    assert file.record.frames == 2 * np.count_nonzero(lit)
    assert np.mean(file.noise() ** 2) == pytest.approx(expected, rel=0.06)
    assert compared is not None
    assert compared.chi_square == pytest.approx(16 / 14, abs=0.1)
    assert compared.correlation == pytest.approx((1 + expected) ** -0.5, abs=1e-5)


@pytest.mark.parametrize(("n_inputs", "repeats"), [(64, 2), (40, 1), (40, 3)])
def test_the_noise_of_each_output_is_found(n_inputs: int, repeats: int, tmp_path: Path) -> None:
    """From repeats, from spare probes, or both; 4.9 √(2/degrees of freedom): false alarms 1e-6 each of 3."""
    sigma = np.repeat([0.1, 1.0, 10.0], 400)
    with Noisy(n_inputs, sigma) as device:
        file = measure_matrix(device, tmp_path / "m", repeats=repeats)
        compared = compare(file, device)
    freedom = 400 * (64 * repeats - n_inputs)
    ratio = (file.noise() ** 2 * 64 * repeats / sigma**2).reshape(3, 400).mean(axis=1)
    assert np.abs(ratio - 1).max() < 4.9 * (2 / freedom) ** 0.5
    errors = np.square(file.rows(0, 1200) - device.matrix).mean(axis=1) * 64 * repeats / sigma**2
    assert errors.mean() == pytest.approx(1, abs=4.9 * (2 / (1200 * n_inputs)) ** 0.5)
    assert compared is not None
    assert compared.chi_square == pytest.approx(1, abs=0.15)


def test_one_repeat_of_as_many_probes_as_inputs_leaves_the_noise_unknown(tmp_path: Path) -> None:
    with Noisy(16, np.ones(4)) as device:
        file = measure_matrix(device, tmp_path / "m", repeats=1)
        result = report(file, device)
    assert np.isnan(file.noise()).all()
    lines = dict(result.lines())
    assert lines["noise of an entry"] == "unknown: measure with two repeats or more"
    assert lines["  of the noise alone"] == "unknown"


def test_light_that_saturates_is_spread_over_more_probes(tmp_path: Path) -> None:
    """250 e- a feature: 64 inputs, 32 on a side, would give 8,000 e- beside R² 1,500 e-, near the full well."""
    with EmulatedDevice(n_inputs=64, n_outputs=500) as device, warnings.catch_warnings():
        warnings.simplefilter("error")
        file = measure_matrix(device, tmp_path / "m")
        compared = compare(file, device)
    record = file.record
    assert 1 < record.weight <= 8
    assert record.saturated_fraction is not None
    assert record.saturated_fraction <= 2e-5
    assert compared is not None
    assert compared.chi_square == pytest.approx(1, abs=0.1)


def test_a_saturated_measurement_warns_of_its_bias(tmp_path: Path) -> None:
    with EmulatedDevice(n_inputs=64, n_outputs=100) as device:
        with pytest.warns(
            SaturationWarning, match=r"the matrix is biased towards smaller entries.*weight of the probes"
        ):
            file = measure_matrix(device, tmp_path / "m", weight=64)
        compared = compare(file, device)
    assert compared is not None
    assert compared.slope < 0.95


@pytest.mark.parametrize("block_bytes", [1, 5000])
def test_the_result_does_not_depend_on_the_blocks(
    block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"n_inputs": 20, "n_outputs": 301, "photometry": {"signal_e_per_feature": 25.0}}
    with EmulatedDevice(**options) as device:
        whole = measure_matrix(device, tmp_path / "whole")
    monkeypatch.setattr(measure, "BLOCK_BYTES", block_bytes)
    steps: list[tuple[int, int]] = []
    with EmulatedDevice(**options) as device:
        parts = measure_matrix(device, tmp_path / "parts", progress=lambda *step: steps.append(step))
    assert whole.sha256 == parts.sha256
    np.testing.assert_allclose(parts.noise(), whole.noise(), rtol=1e-5)
    assert steps[-1] == (64, 64)
    assert steps == sorted(steps)
    assert len(steps) > 3


def test_memory_is_that_of_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix of 8 MB, through blocks of 0.25 MB."""
    monkeypatch.setattr(measure, "BLOCK_BYTES", 1 << 18)
    with DigitalDevice(n_inputs=256, n_outputs=8192, memory_budget_bytes=0, backend="numpy") as device:
        device.project(np.ones((32, 256), np.int8))
        tracemalloc.start()
        device.project(np.ones((16, 256), np.int8))
        of_the_device = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        measure_matrix(device, tmp_path / "m", repeats=1, weight=256)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < of_the_device + 3e6


def test_what_cannot_be_used_is_refused_before_anything_is_shown(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_bytes(b"")
    with Noisy(8, np.ones(4)) as device:
        for options, message in (
            ({"path": taken}, "exists already: remove it, or give another name"),
            ({"repeats": 0}, "repeats must be an int, 1 or more; got 0"),
            ({"repeats": True}, "repeats must be"),
            ({"weight": 16}, "weight must be a power of two from 1 to 8 for 8 inputs; got 16"),
        ):
            with pytest.raises(InputError, match=message):
                measure_matrix(device, **{"path": tmp_path / "m", **options})  # type: ignore[arg-type]
        assert device.usage.vectors == 0
    with Noisy(8, np.ones(4), linear=False) as device, pytest.raises(InputError, match="not linear"):
        measure_matrix(device, tmp_path / "m")
    for matrix, noise in ((np.ones(3), None), (np.full((2, 2), np.nan), None), (np.ones((2, 2)), np.ones(3))):
        with pytest.raises(InputError):
            save_matrix(tmp_path / "m", matrix, outputs_per_mode=1, noise=noise)
    assert list(tmp_path.iterdir()) == [taken]


def test_a_device_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Noisy(64, np.ones(4)) as device:
        monkeypatch.setattr(measure, "BLOCK_BYTES", 1)
        project = device._project

        def fail(vectors: Vectors) -> tuple[Fields, Usage]:
            if device.usage.vectors > 40:
                raise DeviceFault("no light")
            return project(vectors)

        monkeypatch.setattr(device, "_project", fail)
        with pytest.raises(DeviceFault):
            measure_matrix(device, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


# ---- spectrum


@pytest.mark.parametrize("ratio", [0.01, 0.2, 0.64, 1.0])
def test_marchenko_pastur(ratio: float) -> None:
    """Normalisation, mean square 1 (the trace), mean fourth power 1 + λ, and the distribution as its integral."""
    low, high = law.edges(ratio)
    assert [low, high] == pytest.approx([1 - ratio**0.5, 1 + ratio**0.5])
    s = np.linspace(low, high, 200_001)
    p = law.density(s, ratio)
    for power, moment in ((0, 1), (2, 1), (4, 1 + ratio)):
        assert np.trapezoid(p * s**power, s) == pytest.approx(moment, abs=2e-5)
    assert law.density(np.array([low - 0.01, high + 0.01, -1.0]), ratio).tolist() == [0, 0, 0]
    assert law.distribution(np.array([low - 0.01, low, high, high + 0.01]), ratio) == pytest.approx(
        [0, 0, 1, 1], abs=1e-6
    )
    middle = s[::20_000]
    integral = [np.trapezoid(p[s <= to], s[s <= to]) for to in middle]
    np.testing.assert_allclose(law.distribution(middle, ratio), integral, atol=2e-5)


def test_a_square_matrix_follows_the_quarter_circle() -> None:
    s = np.linspace(0.01, 1.99, 50)
    np.testing.assert_allclose(law.density(s, 1), np.sqrt(4 - s**2) / np.pi)


@pytest.mark.parametrize("ratio", [0, -1, 1.1, float("nan")])
def test_impossible_ratios_are_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio must be short side / long side"):
        law.edges(ratio)


@pytest.mark.parametrize("per_mode", [1, 2])
@pytest.mark.parametrize("shape", [(301, 60), (80, 200), (1, 5)], ids=str)
def test_singular_values_are_those_of_the_complex_modes(shape: tuple[int, int], per_mode: int, tmp_path: Path) -> None:
    matrix = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    found = spectrum(save_matrix(tmp_path / "m", matrix, outputs_per_mode=per_mode, noise=np.full(shape[0], 0.1)))
    if per_mode == 2 and shape[0] > 1:
        even = matrix[: shape[0] // 2 * 2].astype(np.float64)
        modes: Any = even[0::2] + 1j * even[1::2]
    else:
        modes = matrix.astype(np.float64)
    unit = np.sqrt(np.mean(np.abs(modes) ** 2) * max(modes.shape))
    np.testing.assert_allclose(found.values, np.linalg.svd(modes, compute_uv=False)[::-1] / unit, atol=1e-7)
    assert found.shape == modes.shape
    assert found.is_complex == np.iscomplexobj(modes)
    entry = np.sqrt(np.mean(np.abs(modes) ** 2) / (2 if found.is_complex else 1))
    assert found.noise_edge == pytest.approx(0.1 / entry * (1 + found.ratio**0.5))


def test_the_emulated_matrix_follows_marchenko_pastur(tmp_path: Path) -> None:
    """Singular values repel: 300 of them stray from the law by far less than 1/√300; measured: 0.004."""
    with DigitalDevice(n_inputs=300, n_outputs=1200, seed=1) as device:
        result = report(measure_matrix(device, tmp_path / "m", repeats=1), device)
    assert result.spectrum.shape == (600, 300)
    assert result.spectrum.distance < 0.012
    assert result.spectrum.values[[0, -1]] == pytest.approx(law.edges(0.5), abs=0.02)
    assert result.gain == pytest.approx(1, abs=4.9 * (0.5 / (300 * 1200)) ** 0.5)
    assert result.gain_spread == pytest.approx((0.5 / 300) ** 0.5, rel=4.9 * (0.5 / 1200) ** 0.5)


# ---- training


def net_and_batch() -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 10))
    return net, torch.randn(16, 20), torch.randint(10, (16,))


@pytest.mark.parametrize("real", [False, True])
def test_a_net_gets_the_gradients_of_the_digital_device(real: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    exact = make_device("digital", n_inputs=10, n_outputs=40, seed=2).effective_matrix()
    assert exact is not None
    save_matrix(path, exact, outputs_per_mode=2)
    gradients = []
    for device in ({"name": "digital", "seed": 2}, {"name": "measured", "path": str(path)}):
        net, x, y = net_and_batch()
        ternarize = None if real else odfa.Ternarize()
        with odfa.attach(net, after=nn.Tanh, device=device, ternarize=ternarize) as feedback:
            nn.functional.cross_entropy(net(x), y).backward()  # type: ignore[no-untyped-call]
            assert feedback.device is not None
            assert feedback.device.info.n_outputs == 32
            state = feedback.state_dict()
            feedback.load_state_dict(state)
        gradients.append([parameter.grad for parameter in net.parameters()])
    for digital, measured in zip(*gradients, strict=True):
        assert digital is not None
        assert digital.abs().max() > 1e-3
        torch.testing.assert_close(measured, digital, atol=1e-6, rtol=0)


def test_a_configuration_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_matrix(path, np.ones((4, 10)), outputs_per_mode=1)
    config = tmp_path / "run.yaml"
    config.write_text(f"feedback: {{ternarize: null}}\ndevice:\n  name: measured\n  path: {path}\n")
    assert load_config(config).device == {"name": "measured", "path": str(path)}
    path.unlink()
    with pytest.raises(InputError, match=r"run.yaml:4: device.path: .*no such file"):
        load_config(config)


# ---- command


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["measure-matrix", *arguments])


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.usefixtures("in_folder")
def test_command() -> None:
    sizes = ("--inputs", "20", "--outputs", "64")
    options = ("--set", "photometry.signal_e_per_feature=25", "--set", "seed=3", "--repeats", "3", "--weight", "16")
    result = run("emulator", "-o", "out/m.safetensors", *sizes, *options, "--figure", "out/m.png")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines() if line.strip()]
    assert lines[0] == "matrix 64 outputs x 20 inputs, 32 complex modes"
    assert lines[1] == "probes 32 of 10 lit inputs, 3 times each"
    assert lines[-2:] == ["out/m.safetensors", "out/m.png"]
    assert Path("out/m.png").read_bytes().startswith(b"\x89PNG")
    with make_device("measured", path="out/m.safetensors") as device:
        assert (device.info.n_inputs, device.info.n_outputs) == (20, 64)
    again = run("measured", "-o", "copy", *sizes, "--set", "path=out/m.safetensors")
    assert again.exit_code == 0
    with make_device("measured", path="copy") as copy:
        np.testing.assert_allclose(copy.effective_matrix(), device.effective_matrix(), atol=1e-6)  # type: ignore[arg-type]


@pytest.mark.usefixtures("in_folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("emulater",), "unknown device 'emulater'. Did you mean 'emulator'?"),
        (("digital", "--set", "sede=1"), "device 'digital' cannot be made: sede: unknown key. Did you mean 'seed'?"),
        (("digital", "--set", "seed"), "--set seed: must be key=value, for instance seed=3 or camera.adc_bits=12"),
        (("digital", "--set", "seed=["), "--set seed=[: the value is not valid YAML"),
        (("digital", "--set", "a=1", "--set", "a.b=1"), "--set a.b=1: a is 1 and has no keys: set it as a whole"),
        (("digital", "--set", "n_inputs=3"), "--set n_inputs: give the sizes as --inputs and --outputs"),
        (("digital", "--repeats", "0"), "repeats must be an int, 1 or more; got 0"),
        (("digital", "--weight", "3"), "weight must be a power of two from 1 to 4 for 4 inputs; got 3"),
        (("measured", "--set", "path=absent"), "device 'measured' cannot be made: path: absent: no such file"),
    ],
)
def test_bad_input_ends_with_a_message(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments, "-o", "m", "--inputs", "4", "--outputs", "6")
    assert (result.exit_code, result.stdout.strip()) == (2, "")
    assert result.stderr.startswith(f"error: {message}")
    assert not Path("m").exists()
