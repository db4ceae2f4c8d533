"""What `optical-dfa bench-view` measures against closed forms written out here, and the command with its files.

Seeds are fixed. Limits of statistical tests are five standard deviations of what is measured, a false-alarm rate below
1e-6 on a fresh seed, unless a test says otherwise.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special, stats
from typer.testing import CliRunner, Result

import optical_dfa.figures
from optical_dfa.cli import app
from optical_dfa.devices import InvalidConfig, load_preset
from optical_dfa.devices.readouts.noise import clipped_fraction, clipping_variance_e
from optical_dfa.emulator import Pupil
from optical_dfa.run_errors import InputError
from optical_dfa.view import Options, View, figures, from_json, look, to_json
from optical_dfa.view.conditions import conditions, feature_powers, graininess
from optical_dfa.view.figures import PICTURES, draw
from optical_dfa.view.panels import _SOURCES
from optical_dfa.view.sight import Sight
from optical_dfa.view.speckle import Speckle, autocorrelation
from optical_dfa.view.theory import Conditions

OUTPUTS = 16_320
"""8,160 pixels: four whole rows of the camera."""
DB_SIGMA = 10 / math.log(10) * math.sqrt(2 / (4 * OUTPUTS))
"""Standard deviation of an SNR in decibels: the relative one of a sum of 4 · outputs squares, √(2/n)."""


@pytest.fixture(scope="module")
def plain() -> View:
    return look(Options("phase-stepping", n_outputs=OUTPUTS, n_on=4))


STRANGE = {"grain": {"size_px": 0.5}, "camera": {"read_noise_e": 20.0}, "medium": {"vibration_rad": 0.05}}


@pytest.fixture(scope="module")
def strange() -> View:
    """Four modes a pixel, three steps, a phase that shakes."""
    return look(Options("phase-stepping", {**STRANGE, "readout": {"steps": 3}}, n_outputs=OUTPUTS))


# ---- phase stepping


def test_snr_is_the_four_step_formula(plain: View) -> None:
    """4·Is·R²/(Is + R² + s² + q²/12 + clipped), Is = 4 · 250, R² = 1500, s = 13, q = 1/0.0255.

    Clipping is rare and of the tails, where entries of T of 8 bits fall short of a Gaussian field: the closed form
    counts up to all of it too much, and the limit is widened by that much.
    """
    cut_e2 = clipping_variance_e(1000, 1500, 10_000)
    rest_e2 = 1000 + 1500 + 13**2 + 0.0255**-2 / 12
    expected = 10 * math.log10(4 * 1000 * 1500 / (rest_e2 + cut_e2))
    unclipped = 10 * math.log10(4 * 1000 * 1500 / rest_e2)
    found = plain.numbers.snr_db
    assert found.predicted == pytest.approx(expected, abs=1e-6)
    assert expected - 5 * DB_SIGMA < found.measured < unclipped + 5 * DB_SIGMA
    assert plain.numbers.clipped_fraction.predicted == pytest.approx(clipped_fraction(1000, 1500, 10_000))


def test_budget_adds_up(plain: View) -> None:
    budget = plain.numbers.budget
    assert budget is not None
    assert (budget.shot_e2, budget.read_e2) == pytest.approx((2500, 169))
    assert budget.quantisation_e2 == pytest.approx(0.0255**-2 / 12)
    assert (budget.fixed_pattern_e2, budget.optics_e2) == (0, 0)
    # N · R² · Is / SNR is the same error, from the other side
    measured = 4 * 1500 * 1000 / 10 ** (plain.numbers.snr_db.measured / 10)
    assert budget.measured_e2 == pytest.approx(measured, rel=0.02)  # the signal of four patterns is not quite its mean
    assert sum(budget.sources().values()) == pytest.approx(
        4 * 1500 * 1000 / 10 ** (plain.numbers.snr_db.predicted / 10)
    )
    assert len(_SOURCES) == len(budget.sources())


def test_contrast_and_grain(plain: View) -> None:
    """C² = 1 + (κ/2)/4 + (Is + s² + q²/12)/Is², κ the excess kurtosis of the table of T, of 4 features ON.

    A squared contrast has the standard deviation √(20/n) or less; the grain follows from nine sums of lags.
    """
    kurtosis = float(stats.kurtosis(stats.norm.ppf((np.arange(256) + 0.5) / 256)))
    square = 1 + kurtosis / 8 + (1000 + 169 + 0.0255**-2 / 12) / 1000**2
    pixels = 4 * OUTPUTS / 2
    assert plain.numbers.contrast.predicted**2 == pytest.approx(square, abs=5e-4)  # the table is rounded to 8 bits
    assert plain.numbers.contrast.measured**2 == pytest.approx(square, abs=5 * math.sqrt(20 / pixels))
    assert plain.numbers.grain_px.measured == pytest.approx(1, abs=5 * math.sqrt(8 / pixels))
    assert max(map(abs, plain.numbers.correlation.measured[1:])) < 5 / math.sqrt(pixels)


def test_histograms_follow_the_laws(plain: View) -> None:
    """Fraction of the readings in the middle half of the exponential and of the Rician law, within 2 %.

    Camera noise moves a few readings across the ends.
    """
    for found, law in zip(
        plain.histograms, (stats.expon(scale=1000), stats.ncx2(2, 2 * 1500 / 1000, scale=500)), strict=True
    ):
        low, high = law.ppf(0.25), law.ppf(0.75)
        middles, widths = (found.edges_e[1:] + found.edges_e[:-1]) / 2, np.diff(found.edges_e)
        chosen = (middles > low) & (middles < high)
        span = law.cdf(found.edges_e[1:][chosen][-1]) - law.cdf(found.edges_e[:-1][chosen][0])
        assert float((found.measured * widths)[chosen].sum()) == pytest.approx(span, rel=0.02)
        np.testing.assert_allclose(found.predicted, law.pdf(found.light_e), rtol=1e-6)


def test_exposure_follows_the_formula(plain: View) -> None:
    for point in plain.numbers.exposure:
        if point.factor <= 0.25:  # nothing clipped
            light = point.factor
            rest = light * 2500 + 169 + 0.0255**-2 / 12
            expected = 10 * math.log10(4 * 1000 * 1500 * light**2 / rest)
            assert point.snr_db.predicted == pytest.approx(expected, abs=1e-6)
            assert point.snr_db.measured == pytest.approx(expected, abs=5 * DB_SIGMA)
    assert [point.exposure_us for point in plain.numbers.exposure] == [25, 50, 100, 200, 400, 800, 1600]


def test_alignment_is_the_product(plain: View) -> None:
    """Ternary cosines recomputed from the same error vectors; the optics' from the SNR of each."""
    rng = np.random.default_rng(0)
    for _ in range(4):
        rng.choice(64, 4, replace=False)
    logits = 2 * rng.standard_normal((8, 64))
    softmax = special.softmax(logits, axis=1)
    softmax[np.arange(8), rng.integers(64, size=8)] -= 1
    for found, errors in zip(plain.numbers.alignment, (softmax, rng.standard_normal((8, 64))), strict=True):
        ternary = np.where(np.abs(errors) > 0.5 * np.abs(errors).max(axis=1, keepdims=True), np.sign(errors), 0)
        cosines = (errors * ternary).sum(1) / np.linalg.norm(errors, axis=1) / np.linalg.norm(ternary, axis=1)
        assert found.ternarisation.predicted == pytest.approx(cosines.mean())
        tolerance = 5 / math.sqrt(8 * OUTPUTS)
        assert found.ternarisation.measured == pytest.approx(cosines.mean(), abs=tolerance)
        assert found.both.measured == pytest.approx(found.both.predicted, abs=tolerance)
        assert found.optics.measured == pytest.approx(found.optics.predicted, abs=5e-3)  # many lit features clip


# ---- an odd bench


def test_strange_bench(strange: View) -> None:
    """Three steps, M = 4 modes a pixel: the signal is Is/4; the phase of each frame shakes by σ = 0.05 rad.

    With ψ_k the phase error of frame k, A is off by Σ_k (-iψ_k A + iψ_k A* exp(2iφ_k)) / 3, relative to |A|² on average
    2σ²/3. The twelve frames have one ψ each: χ² of 12 degrees of freedom is within the limits but for 1e-5.
    """
    numbers, budget = strange.numbers, strange.numbers.budget
    assert budget is not None
    assert budget.shot_e2 == pytest.approx(2000)
    assert budget.read_e2 == pytest.approx(400)
    signal_e2 = 3 * 1500 * 500 / 4
    rest = 2000 + 400 + 0.0255**-2 / 12 + budget.optics_e2
    assert numbers.snr_db.predicted == pytest.approx(10 * math.log10(signal_e2 / rest), abs=1e-6)
    assert numbers.snr_db.measured == pytest.approx(numbers.snr_db.predicted, abs=5 * DB_SIGMA)
    assert 0.06 < budget.optics_e2 / signal_e2 / (2 * 0.05**2 / 3) < 4
    assert numbers.contrast.predicted == pytest.approx(0.5, rel=0.01)
    assert numbers.contrast.measured == pytest.approx(numbers.contrast.predicted, abs=5 / math.sqrt(2 * 4 * OUTPUTS))
    assert numbers.grain_px.measured == pytest.approx(0.5, abs=0.02)
    blocked, _ = strange.histograms
    law = stats.gamma(4, scale=500 / 4)
    np.testing.assert_allclose(blocked.predicted, law.pdf(blocked.light_e), rtol=1e-9)


def test_ideal_is_exact_and_says_what_it_cannot_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = look(Options("ideal", n_outputs=2000))
    numbers = view.numbers
    assert (numbers.snr_db.measured, numbers.snr_db.predicted) == (math.inf, math.inf)
    assert (numbers.budget, numbers.exposure) == (None, [])
    assert "nothing on this bench is noisy" in numbers.left_out[0]
    assert all(each.optics.predicted == 1 for each in numbers.alignment)
    assert from_json(to_json(numbers)) == numbers
    assert json.loads(to_json(numbers))["snr_db"] == {"measured": None, "predicted": None}
    monkeypatch.setattr(figures, "SUFFIXES", (".svg",))  # half the time
    (tmp_path / "exposure.svg").write_text("of an earlier bench")
    names = {path.stem for path in draw(view, tmp_path)}
    assert {picture.name for picture in PICTURES} - names == {"exposure", "noise-budget"}
    assert not (tmp_path / "exposure.svg").exists()


def test_infinite_overrides_survive_the_file() -> None:
    numbers = look(Options("ideal", {"dmd": {"contrast": math.inf}}, n_inputs=4, n_outputs=200)).numbers
    assert numbers.overrides == {"dmd": {"contrast": ".inf"}}
    assert from_json(to_json(numbers)) == numbers


@pytest.mark.parametrize("preset", ["lighton-aurora", "lab-bench", "worst-case"])
def test_every_preset_agrees_with_its_theory(preset: str) -> None:
    """SNR to 0.5 dB; `worst-case` and `lab-bench` have an uneven beam, leaking mirrors and drift."""
    numbers = look(Options(preset, n_outputs=OUTPUTS)).numbers
    assert numbers.snr_db.measured == pytest.approx(numbers.snr_db.predicted, abs=0.5)
    assert numbers.contrast.measured == pytest.approx(numbers.contrast.predicted, rel=0.05)
    assert numbers.budget is not None
    assert sum(numbers.budget.sources().values()) == pytest.approx(numbers.budget.measured_e2, rel=0.1)


# ---- theory apart from benches


def _at(**changes: Any) -> Conditions:
    values = {
        "feature_e": 250.0, "always_e": 0.0, "leak": 0.0, "reference_e": 1500.0, "nominal_e": 1500.0,
        "saturation_e": 4000.0, "shot_noise": True, "read_noise_e": 13.0, "quantum_e": 0.0, "dark_e": 0.0, "steps": 4,
        "kept_fraction": 1.0, "modes_per_pixel": 1, "response_variance": 0.0, "offset_variance_e": 0.0,
    }  # fmt: skip
    return Conditions(**{**values, **changes})


def test_density_and_clipping_of_several_modes() -> None:
    """2M/Is · I is noncentral χ² of 2M degrees of freedom, λ = 2M R²/Is."""
    at = _at(modes_per_pixel=3)
    law = stats.ncx2(6, 6 * 1500 / 1000, scale=1000 / 6)
    light_e = np.linspace(10, 8000, 300)
    np.testing.assert_allclose(at.density(light_e, 4, True), law.pdf(light_e), rtol=1e-9)
    fraction, cut_e2 = at.clipping(4)
    grid = np.linspace(4000, 20_000, 200_001)
    assert fraction == pytest.approx(law.sf(4000), rel=1e-6)
    assert cut_e2 == pytest.approx(np.trapezoid(law.pdf(grid) * (grid - 4000) ** 2, grid), rel=1e-6)


def test_density_of_a_bright_reference() -> None:
    """Bessel function by its asymptotic form: R²/Is of 4000, as of the preset `ideal`."""
    at = _at(reference_e=4e6)
    light_e = np.linspace(3.7e6, 4.3e6, 50)
    expected = stats.ncx2(2, 2 * 4e6 / 1000, scale=500).pdf(light_e)
    np.testing.assert_allclose(at.density(light_e, 4, True), expected, rtol=1e-5)


def test_fixed_pattern_of_one_frame() -> None:
    """Of a single frame: σ²·E[I²] + dark, E[I²] = (Is + R²)² + Is² + 2 Is R². Of + and -, what is alike cancels."""
    at = _at(steps=1, response_variance=1e-4, offset_variance_e=25.0)
    square = 2000**2 + 500**2 + 2 * 500 * 1500
    assert at.error_e2(2)["fixed_pattern"] == pytest.approx(1e-4 * square + 25)
    assert at.error_e2(2, 2)["fixed_pattern"] == pytest.approx(2e-4 * (500**2 + 2 * 500 * 1500))
    assert at.error_e2(0, 0)["fixed_pattern"] == 0


def test_correlation_of_coarse_speckle_is_the_pupils() -> None:
    """|2 J1(πr/d)/(πr/d)|² of a circular pupil, d = 6 px, on images made by the pupil; grain from its area.

    600 images of 490 modes: a correlation is good to 1/√(600 · 490) · 5 = 0.01.
    """
    preset = load_preset("phase-stepping", {"grain": {"size_px": 6.0}})
    pupil = Pupil((150, 150), 6.0)
    rng = np.random.default_rng(0)
    modes = rng.standard_normal((600, pupil.n_modes, 2)) @ (1, 1j)
    images = np.square(np.abs(pupil.to_image(modes)))
    speckle = Speckle(_at(shot_noise=False, read_noise_e=0.0), preset, pupil, 4.0, 0.0)
    lags = np.arange(1.0, 20)
    airy = np.square(2 * special.j1(np.pi * lags / 6) / (np.pi * lags / 6))
    np.testing.assert_allclose(speckle.overlap(lags), airy, atol=0.01)  # 490 bins are not quite a circle
    found = autocorrelation(images, None)
    np.testing.assert_allclose(found[0, 1:20], airy, atol=0.02)
    assert speckle.grain_px(images, found) == pytest.approx(6, rel=0.02)


def test_uneven_light_has_the_mean_power() -> None:
    preset = load_preset("worst-case")
    powers = feature_powers(preset, 64)
    assert powers.mean() == pytest.approx(1)
    assert powers.max() > 1.2
    assert graininess(load_preset("ideal"), 64, np.eye(64, dtype=np.uint8)[0]) == pytest.approx(
        2 * graininess(load_preset("ideal"), 64, np.eye(64, dtype=np.uint8)[:2].sum(0))
    )


def test_maps_divide_light_and_noise() -> None:
    """With a flat and a reference map every pixel has unit gain, and the dim ones their noise multiplied."""
    waists = {"laser": {"signal_waist": 1.5, "reference_waist": 1.5}}
    maps = {"readout": {"calibration": {"dark_frames": 1, "flat_frames": 8, "reference_frames": 8}}}
    bare, mapped = (load_preset("phase-stepping", each) for each in (waists, {**waists, **maps}))
    info = Sight(bare, 8, 4000, 0).bench.info
    first, second = (conditions(each, 8, info, 4) for each in (bare, mapped))
    signal, wave, divisor = second.beams.T
    np.testing.assert_allclose(divisor, signal * wave, rtol=0.05)  # means over parts of the image
    assert second.signal_e(2) == pytest.approx(500, rel=0.01)
    assert first.signal_e(2) == pytest.approx(500 * np.mean(signal * wave))
    assert second.error_e2(2)["read"] == pytest.approx(169 * np.mean(1 / divisor))
    assert first.error_e2(2)["read"] == pytest.approx(169)


# ---- the command


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["bench-view", *arguments])


SMALL = ("--outputs", "600", "--inputs", "16")


def test_the_command_writes_every_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    out = tmp_path / "out"
    overrides = ("--set", "device.camera.read_noise_e=20", "--set", "medium.piston_walk_rad=0.1")
    result = run("phase-stepping", "-o", str(out), "--on", "3", "--seed", "7", *SMALL, *overrides)
    assert (result.exit_code, result.stderr) == (0, "")
    names = [*(picture.name for picture in PICTURES), "overview"]
    for name in names:
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        svg = (out / f"{name}.svg").read_text()
        assert "3 of 16 features ON" in svg
        assert "camera.read_noise_e 20" in svg
    assert "Noise budget" in (out / "noise-budget.svg").read_text()
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["bench.json", *(name + suffix for name in names for suffix in (".png", ".svg"))]
    )
    numbers = from_json((out / "bench.json").read_text())
    assert (numbers.n_on, numbers.seed, numbers.n_outputs, numbers.image_shape) == (3, 7, 600, (1, 300))
    assert numbers.overrides == {"camera": {"read_noise_e": 20}, "medium": {"piston_walk_rad": 0.1}}
    lines = {line.split("  ")[0]: line.split()[-4:] for line in result.stdout.splitlines()}
    shown = [f"{value:.2f}" for value in (numbers.snr_db.measured, numbers.snr_db.predicted)]
    assert lines["SNR of the projection"] == [shown[0], "dB", shown[1], "dB"]
    for name in ("clipped readings", "contrast of the speckle", "grain", "cosine, softmax errors: optics"):
        assert name in lines


def test_without_a_folder_only_the_table_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(optical_dfa.figures, "find_spec", lambda _: None)  # needs no matplotlib
    result = run("ideal", *SMALL)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Left out: noise budget" in result.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("phase-steping",), "unknown preset 'phase-steping'. Did you mean 'phase-stepping'?"),
        (("ideal", "--inputs", "1"), "--inputs 1: must be 2 or more"),
        (("ideal", "--outputs", "3"), "--outputs 3: must be 200 or more"),
        (("ideal", "--on", "65"), "--on 65: must be from 1 to the number of inputs, 64"),
        (("ideal", "--on", "0"), "--on 0: must be from 1 to the number of inputs, 64"),
        (("ideal", "--seed", "-1"), "--seed -1: must be from 0 to 2^64 - 1"),
        (("ideal", "--inputs", "2000000"), "ideal: inputs must be 1 … 1,039,680"),
        (("ideal", "--set", "camera.gain=3"), "camera.gain"),
        (("ideal", "--set", "seed=3"), "--set seed: must be section.key=value"),
        (("ideal", "--set", "camera"), "--set camera: must be key=value"),
        (("ideal", "--set", "readout.kind=anchored"), "readout.kind anchored: bench-view looks at phase_stepping"),
        (("ideal", "-o", "file"), "-o file: is a file: give a folder"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr


def test_missing_matplotlib_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optical_dfa.figures, "find_spec", lambda _: None)
    result = run("ideal", "-o", str(tmp_path / "out"), *SMALL)
    assert result.exit_code == 2
    assert "pip install 'optical_dfa[plot]'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_errors_from_python() -> None:
    with pytest.raises(InvalidConfig, match="unknown preset"):
        look(Options("nowhere"))
    with pytest.raises(InputError, match="--on 9: must be from 1 to the number of inputs, 8"):
        look(Options("ideal", n_inputs=8, n_on=9))
