"""Fidelity `statistical`: the law of the frames, without the frames."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fidelity import Case, agreement

from optical_dfa.config import load_config
from optical_dfa.devices import EmulatedDevice, InvalidConfig, make_device
from optical_dfa.emulator.numba_support import why_unavailable
from optical_dfa.run_errors import InputError

needs_numba = pytest.mark.skipif(why_unavailable(("fma",)) is not None, reason="Numba cannot run here")

EFFECTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "saturating": {"photometry": {"signal_e_per_feature": 1000.0, "reference_e": 2000.0}},
    "drift": {"medium": {"decorrelation_tau_s": 0.5, "piston_walk_rad": 0.2, "vibration_rad": 0.05}},
    "everything": {"preset": "worst-case"},
}

QUICK = (
    Case("phase-stepping"),
    Case("clipping at 1000/2000", EFFECTS["saturating"]),
    Case("laser noise", {"laser": {"intensity_noise": 0.01}, "camera": {"adc_bits": 10, "gain_dn_per_e": 0.1023}}),
    Case("piston and vibration", {"medium": {"piston_walk_rad": 0.5, "vibration_rad": 0.1}}),
    Case("worst-case", {"preset": "worst-case"}),
)


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.name)
def test_agrees_with_frames(case: Case) -> None:
    """Bias .03 σ, variance 3 %, clipped fraction 3 % or 1e-4, correlation .02.

    Chance adds .02 σ, .3 %, 1 % and .01 (three standard deviations); seeds are fixed. `make soak` has the whole grid,
    vectors of two sides too.
    """
    agreement(case, 4, 160, 1024).check()


def test_agrees_with_frames_where_both_sides_are_lit() -> None:
    agreement(Case("phase-stepping", {}, (2, 1)), 64, 16, 1024).check()


def _vectors(count: int = 24, n_inputs: int = 30) -> npt.NDArray[np.int8]:
    """None, one side, the other, both."""
    vectors = np.random.default_rng(0).integers(-1, 2, (count, n_inputs), np.int8)
    vectors *= np.random.default_rng(1).random(vectors.shape) < 0.15
    vectors[0] = 0
    vectors[1] = np.abs(vectors[1])
    vectors[2] = -np.abs(vectors[2])
    return vectors


def _device(effect: str, fidelity: Any = "statistical", n_outputs: int = 901, **options: Any) -> EmulatedDevice:
    return EmulatedDevice(n_inputs=30, n_outputs=n_outputs, fidelity=fidelity, **EFFECTS[effect], **options)


@needs_numba
@pytest.mark.filterwarnings("ignore::optical_dfa.devices.SaturationWarning")
@pytest.mark.parametrize("effect", EFFECTS)
def test_numba_is_numpy_up_to_rounding(effect: str) -> None:
    """To 1e-5 of the largest output; a pixel at the very end of the linear range may take the other branch: 1 %."""
    found = []
    for backend in ("numpy", "numba"):
        with _device(effect, backend=backend) as device:
            found.append(device.project(_vectors()))
            assert device.info.camera_backend == backend
    difference = np.abs(found[0] - found[1])
    assert np.mean(difference > 1e-5 * np.abs(found[0]).max()) < 1e-4
    assert difference.max() < 0.01 * np.abs(found[0]).max()


@pytest.mark.filterwarnings("ignore::optical_dfa.devices.SaturationWarning")
@pytest.mark.parametrize("backend", ["numpy", "auto"])
@pytest.mark.parametrize("effect", EFFECTS)
def test_outputs_do_not_depend_on_splits_or_threads(effect: str, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, saturated, found = _vectors(), [], []
    for threads, splits in (("1", (24,)), ("2", (24,)), ("1", (1, 2, 7, 14))):
        monkeypatch.setenv("OPTICAL_DFA_THREADS", threads)
        with _device(effect, backend=backend) as device:
            parts = np.split(vectors, np.cumsum(splits)[:-1])
            found.append(np.concatenate([device.project(part) for part in parts]))
            saturated.append(device.usage.saturated_pixels)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert len(set(saturated)) == 1


def test_outputs_do_not_depend_on_how_many_there_are() -> None:
    """But for the shape of the image: a row, here."""
    with _device("plain", n_outputs=901) as few, _device("plain", n_outputs=2800) as many:
        np.testing.assert_array_equal(few.project(_vectors()), many.project(_vectors())[:, :901])


@pytest.mark.filterwarnings("ignore::optical_dfa.devices.SaturationWarning")
@pytest.mark.parametrize("effect", EFFECTS)
def test_counts_frames_as_the_bench_does_and_its_state_is_the_same(effect: str) -> None:
    with _device(effect, "frames") as frames, _device(effect) as statistical:
        for device in (frames, statistical):
            device.project(_vectors())
        for name in ("vectors", "frames", "frames_skipped", "pixel_readings", "device_seconds", "device_joules"):
            assert getattr(statistical.usage, name) == getattr(frames.usage, name), name
        assert statistical.state_dict() == frames.state_dict()
        assert statistical.fingerprint == frames.fingerprint
        assert statistical.settings["fidelity"] == "statistical"
        assert frames.settings["fidelity"] == "frames"


def test_continues_from_a_state_bit_for_bit() -> None:
    vectors = _vectors()
    with _device("plain") as whole, _device("plain") as resumed:
        expected = whole.project(vectors)
        with _device("plain") as first:
            first.project(vectors[:9])
            resumed.load_state_dict(first.state_dict())
        np.testing.assert_array_equal(resumed.project(vectors[9:]), expected[9:])


def test_noise_is_another_in_every_frame_and_stream() -> None:
    vectors = _vectors()[1:3]
    with _device("plain") as device, _device("plain", stream=1) as other:
        first, again, elsewhere = device.project(vectors), device.project(vectors), other.project(vectors)
    for found in (again, elsewhere):
        noise = first - found
        assert abs(np.corrcoef(first.ravel() - again.ravel(), elsewhere.ravel())[0, 1]) < 0.1
        assert noise.std() > 0.01


@pytest.mark.filterwarnings("error::optical_dfa.devices.SaturationWarning")
def test_warns_of_saturation_as_frames_do() -> None:
    with _device("saturating") as device, pytest.raises(Warning, match="of the pixel readings are saturated"):
        device.project(np.ones((4, 30), np.int8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fidelity": "exact"}, "fidelity must be frames or statistical; got 'exact'"),
        ({"backend": "cupy"}, "with fidelity 'statistical', which runs on the CPU"),
        ({"preset": "ideal"}, "camera.adc_bits must be 8, 10 or 12 for fidelity 'statistical', or fidelity 'frames'"),
        ({"camera": {"dropped_frames": 0.01}}, "camera.dropped_frames must be 0 for fidelity 'statistical'"),
        ({"readout": {"steps": 3}}, "readout must be phase_stepping in 4 steps without calibration"),
        ({"preset": "off-axis"}, "readout must be phase_stepping in 4 steps .* or fidelity 'frames'; got OffAxisS"),
        (
            {"grain": {"size_px": 2.5}},
            "grain.size_px must be 1 for fidelity 'statistical', or fidelity 'frames'; got 2.5",
        ),
        ({"grain": {"size_px": 0.5}}, "grain.size_px must be 1 for fidelity 'statistical'"),
        ({"medium": {"decorrelation_tau_s": 0.01}}, "decorrelation_tau_s must be at least"),
    ],
)
def test_refuses_what_it_does_not_cover(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        make_device("emulator", **{"n_inputs": 10, "n_outputs": 20, "fidelity": "statistical"} | options)


def test_is_an_option_of_a_run(tmp_path: Any) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("device: {name: emulator, fidelity: statistical}\n")
    assert load_config(file).device["fidelity"] == "statistical"
    file.write_text("device: {name: emulator, fidelity: statistical, preset: ideal}\n")
    with pytest.raises(InputError, match="adc_bits"):
        load_config(file)


def test_shows_a_vector_that_is_repeated_the_same_light() -> None:
    """S = T|t| is a property of t: what clips of it clips each time."""
    vector = np.repeat(np.array([[1, -1, 0]], np.int8), 5, axis=0).reshape(1, -1).repeat(2, axis=1)  # 10 of each side
    device = _device("saturating", camera={"read_noise_e": 1.0}).open()
    with pytest.warns(match="saturated"):
        fields = device.project(vector.repeat(400, axis=0))
    exact = vector.astype(np.float32) @ device.effective_matrix().T
    device.close()
    bias = fields.mean(axis=0) - exact[0]
    halves = [fields[start::2].mean(axis=0) - exact[0] for start in (0, 1)]
    assert np.corrcoef(*halves)[0, 1] > 0.9
    assert bias.std() > 5 * fields.std(axis=0).mean() / 20
