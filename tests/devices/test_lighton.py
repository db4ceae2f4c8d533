"""The vendor's OPU: on the vendor's simulator, and on its real code path against a stub driver."""

import json
import subprocess
import sys
from functools import cache
from typing import Any

import pytest
import vendor

from optical_dfa.devices import DeviceClosed, DeviceUnavailable, InvalidConfig, LightonDevice, make_device


def run(name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vendor_programs", name]
    return subprocess.run(command, env=vendor.environment(), capture_output=True, text=True, check=False, timeout=300)


@cache
def report(name: str) -> Any:
    done = run(name)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_simulator_is_the_product_with_its_matrix() -> None:
    found = report("simulator")
    assert found["backend"] == "lightonml, simulated"
    # Drawn with standard deviation 1/√40. The gain is that of 20,000 entries: their rms is off by 1/√40000, 0.5 %; four
    # standard deviations, false alarm 6e-5 (the matrix is fixed: it passes always or never).
    assert found["gain"] * 40**0.5 == pytest.approx(1, abs=0.04)
    assert found["slope"] == pytest.approx(1, abs=0.04)
    assert found["residue"] < 2e-5  # float32 sums of 40
    assert found["snr_db"] == float("inf")


def test_minus_one_is_shown_as_a_pattern_of_its_own() -> None:
    """The simulator casts -1 to 255: a vector sent as it is would give 255 times the wrong column."""
    found = report("simulator")
    assert found["odd"] is True
    assert found["dark"] == 0
    assert found["frames"] == found["patterns"]


def test_batches_are_split_at_3000_frames() -> None:
    """32 probes, twice, two patterns each; then 3,100 vectors without a zero, of two patterns."""
    assert report("simulator")["calls"] == [[128], [3000, 3000, 200]]
    assert report("simulator")["split"] < 2e-5


def test_another_size_is_another_matrix() -> None:
    assert report("simulator")["other fingerprint"] is True
    assert report("simulator")["matrix"] < 0.15


@pytest.mark.parametrize("path", ["simulator", "stub"])
def test_it_conforms(path: str) -> None:
    """The public suite, on the simulator and on the real code path."""
    assert {"unit gain", "superposition", "bad vectors", "state", "closed refuses"} <= {*report("conformance")[path]}


def test_calls_to_the_driver_when_it_is_opened() -> None:
    """FACTS §5: init, then fit, in this order."""
    found = report("hardware")
    assert found["backend"] == "lightonml"
    assert found["open"][:9] == [
        ["OpuDevice", "type2", 500, 400, 0, None, 0, "stub-1"],
        ["linear_reconstruction.init", 1039680],
        ["output_roi", [[0, 541], [2040, 5]]],
        ["open"],
        ["reserve", 3000],
        ["Formatter", [912, 1140]],
        ["define_lined_mapping", 16, [912, 1140], [0, 0]],
        ["exposure_us", 400],
        ["frametime_us", 500],
    ]
    assert found["open"][9:] == [
        ["encode_batch", [128, 16]],
        ["acquiring", 3000],
        ["transform2", "uint8", [640, 129960], "uint8", [640, 10000], 0],
        ["decode_batch", [640, 10000]],
    ]


def test_calls_to_the_driver_for_a_projection() -> None:
    """Two vectors, each with one +1 and one -1: four patterns of five frames."""
    assert report("hardware")["project"] == [
        ["encode_batch", [4, 16]],
        ["acquiring", 3000],
        ["transform2", "uint8", [20, 129960], "uint8", [20, 10000], 0],
        ["decode_batch", [20, 10000]],
    ]


def test_speckle_is_read_as_a_linear_map_of_unit_gain() -> None:
    found = report("readings")
    # Probes and vectors are independent draws of 2000 outputs; outputs of one pixel share its brightness, so that the
    # ratio of their energies has a standard deviation of √(2/2000·(1/32 + 1/400 + 2/16)), 1.3 %. Four of them.
    assert found["gain"] == pytest.approx(1, abs=0.05)
    assert found["cosine"] > 0.99  # more than 17 dB on bright pixels
    assert found["measured_snr_db"] == pytest.approx(found["snr_db"], abs=1.0)
    assert found["identity"] == {
        "kind": "lightonml",
        "opu": "stub-1",
        "features": 16,
        "components": 2000,
        "output_roi": [[0, 543], [2040, 1]],
    }
    assert found["state"]["device"] == "lighton"
    assert found["state"]["position"] == {}


def test_frames_and_time_are_counted() -> None:
    """128 patterns of probes, and 800 of 400 vectors, shown twice; all but dark ones take five frames."""
    frames, skipped, seconds = report("readings")["usage"]
    assert frames + skipped == 5 * (128 + 1600)
    assert seconds == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("case", "error", "word"),
    [
        ("used", "DeviceUnavailable", "another process uses it"),
        ("pid file", "DeviceUnavailable", "another process uses it"),
        ("reserve", "DeviceUnavailable", "no memory"),
        ("gain", "DeviceUnavailable", "decoder"),
        ("no configuration", "DeviceUnavailable", "configuration"),
        ("too many", "InvalidConfig", "300"),
        ("camera", "DeviceFault", "camera"),
        ("slow camera", "DeviceTimeout", "late"),
        ("exposure", "DeviceFault", "behind our back"),
        ("hang", "DeviceTimeout", "0.2 s"),
    ],
)
def test_errors_are_ours(case: str, error: str, word: str) -> None:
    found = report("faults")[case]
    assert found[0] == error
    assert word in found[1]


@pytest.mark.parametrize("case", ["used", "pid file", "reserve", "gain", "too many"])
def test_an_opening_that_fails_lets_go(case: str) -> None:
    *_, left_open = report("faults")[case]
    assert left_open == (1 if case in ("used", "pid file") else 0)  # these were not opened: there is nothing to close


@pytest.mark.parametrize("case", ["retried", "retried, then", "camera, then", "slow camera, then"])
def test_the_device_goes_on_after_a_fault(case: str) -> None:
    """Four failures are retried by the vendor's software; five are an error, and the next call works."""
    assert report("faults")[case] == 20


def test_the_end_of_the_program_lets_go() -> None:
    done = run("forgotten")
    assert (done.returncode, done.stderr) == (0, "let go\n")


def test_without_the_software_it_says_how_to_install_it() -> None:
    with pytest.raises(DeviceUnavailable, match=r"lightonml==1\.4\.3"):
        LightonDevice(n_inputs=3, n_outputs=5, simulated=True).open()


def test_closed() -> None:
    device = LightonDevice(n_inputs=3, n_outputs=5)
    with pytest.raises(DeviceClosed, match="open"):
        device.gain  # noqa: B018
    with pytest.raises(DeviceClosed, match="which matrix"):
        device.fingerprint  # noqa: B018
    device.close()


@pytest.mark.parametrize(
    "options",
    [
        {"n_inputs": 1_039_681},
        {"n_outputs": 2_219_521},
        {"exposure_us": 0},
        {"config_file": "opu.json"},
        {"simulated": 1},
        {"timeout_s": 0},
    ],
)
def test_impossible_options(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig, match=next(iter(options))):
        make_device("lighton", **{"n_inputs": 3, "n_outputs": 5, **options})
