"""Devices by name: ours and those of other packages; what is wrong with a name or an option is said, all at once."""

import sys
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from optical_dfa.devices import (
    DeviceClosed,
    DeviceEntry,
    DeviceInfo,
    DeviceUnavailable,
    DigitalDevice,
    EmulatedDevice,
    InvalidConfig,
    ProjectionDevice,
    UnknownDevice,
    Usage,
    available_devices,
    check_device_config,
    make_device,
    open_device,
    registry,
)
from optical_dfa.devices.base import Fields, Vectors

BUILT_IN = ["bench", "digital", "emulator", "faulty", "lighton", "matrix", "measured", "record", "remote", "replay"]
KNOWN = ", ".join(BUILT_IN)


class Mirror(ProjectionDevice):
    """Returns what it is given.

    A device of another package.
    """

    def __init__(self, *, n_inputs: int, n_outputs: int, polish: str = "fine") -> None:
        super().__init__()
        if polish not in ("fine", "coarse"):
            raise ValueError(f"polish must be fine or coarse; got {polish!r}")
        self.matrix_identity = {"kind": "mirror"}
        self.info = DeviceInfo(
            name="mirror", n_inputs=n_inputs, n_outputs=n_outputs, linear=True, exact=True, accepts_real=False,
            backend="glass", frames_per_vector=1, n_pixels=1, outputs_per_mode=1, output_map="rows", matrix=None,
        )  # fmt: skip

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        return vectors.astype(np.float32), Usage()


def offer(monkeypatch: pytest.MonkeyPatch, **devices: str) -> None:
    """Installed packages offer these devices, name=module:attribute; the module `glassworks` holds `Mirror`."""
    module = ModuleType("glassworks")
    module.Mirror = Mirror  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "glassworks", module)
    points = [EntryPoint(name, value, "optical_dfa.devices") for name, value in devices.items()]
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [p for p in points if p.group == group])


def message_of(error: type[Exception], name: Any, **config: Any) -> str:
    with pytest.raises(error) as raised:
        make_device(name, **config)
    with pytest.raises(error):
        check_device_config(name, **config)
    return str(raised.value)


@pytest.mark.parametrize(("name", "kind"), [("digital", DigitalDevice), ("emulator", EmulatedDevice)])
def test_devices_are_opened_by_name(name: str, kind: type) -> None:
    with open_device(name, n_inputs=3, n_outputs=5, seed=2) as device:
        assert type(device) is kind
        assert (device.info.name, device.info.n_inputs, device.info.n_outputs) == (name, 3, 5)
        assert device.project(np.ones((1, 3), np.int8)).shape == (1, 5)


def test_a_device_is_made_closed() -> None:
    with pytest.raises(DeviceClosed):
        make_device("digital", n_inputs=3, n_outputs=5).project(np.ones((1, 3), np.int8))


def test_available_devices() -> None:
    entries = available_devices()
    assert [entry.name for entry in entries] == BUILT_IN
    by_name = {entry.name: entry for entry in entries}
    digital, emulated, measured = by_name["digital"], by_name["emulator"], by_name["measured"]
    assert by_name["matrix"].options == ("matrix", "n_inputs", "n_outputs")
    assert measured.options == ("path", "n_inputs", "n_outputs")
    sizes = ("n_inputs", "n_outputs")
    assert by_name["lighton"].options == (*sizes, "simulated", "exposure_us", "config_file", "timeout_s")
    assert by_name["remote"].options == (*sizes, "address", "server_key", "key", "stream", "timeout_s", "patience_s")
    for entry in entries:
        assert entry.source == "optical_dfa"
        assert entry.problem is None
        assert len(entry.summary) > 20
        assert "\n" not in entry.summary
        assert entry.summary.endswith(".")
    assert digital.options == ("n_inputs", "n_outputs", "seed", "memory_budget_bytes", "backend")
    assert emulated.options == (
        "n_inputs",
        "n_outputs",
        "seed",
        "preset",
        "stream",
        "memory_budget_bytes",
        "backend",
        "fidelity",
        "readout",
        "photometry",
        "camera",
        "apparatus",
        "dmd",
        "medium",
        "laser",
        "grain",
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("emulater", f"unknown device 'emulater'. Did you mean 'emulator'? Known: {KNOWN}"),
        ("Digital", f"unknown device 'Digital'. Did you mean 'digital'? Known: {KNOWN}"),
        ("qqq", f"unknown device 'qqq'. Known: {KNOWN}"),
    ],
)
def test_an_unknown_device_is_refused_by_name(name: str, message: str) -> None:
    assert message_of(UnknownDevice, name, n_inputs=3, n_outputs=3) == message


def test_unknown_options_of_the_digital_device() -> None:
    known = "Known here: n_inputs, n_outputs, seed, memory_budget_bytes, backend"
    message = message_of(InvalidConfig, "digital", n_inputs=3, n_outputs=3, sede=1, preset="ideal")
    assert message.splitlines() == [
        "device 'digital' cannot be made:",
        f"  sede: unknown key. Did you mean 'seed'? {known}",
        f"  preset: unknown key. {known}",
    ]


def test_unknown_options_of_the_emulator() -> None:
    """Options and sections of the preset alike."""
    message = message_of(InvalidConfig, "emulator", n_inputs=3, n_outputs=3, sede=1, camra={})
    assert "sede: unknown key. Did you mean 'seed'?" in message
    assert "camra: unknown key. Did you mean 'camera'?" in message
    for known in ("n_inputs", "n_outputs", "seed", "preset", "stream", "photometry", "camera", "apparatus"):
        assert known in message


def test_faults_in_a_preset_are_all_reported() -> None:
    message = message_of(
        InvalidConfig, "emulator", n_inputs=3, n_outputs=3, camera={"adc_bits": "8"}, photometry={"exposur_us": 1.0}
    )
    assert message.splitlines()[1:] == [
        "  photometry.exposur_us: unknown key. Did you mean 'exposure_us'? "
        "Known here: signal_e_per_feature, reference_e, exposure_us",
        "  camera.adc_bits: input should be a valid integer; got '8'",
    ]


@pytest.mark.parametrize("name", ["digital", "emulator"])
def test_missing_sizes_are_asked_for(name: str) -> None:
    with pytest.raises(InvalidConfig) as error:
        make_device(name)
    assert str(error.value).splitlines() == [
        f"device {name!r} cannot be made:",
        "  n_inputs: missing; it must be given",
        "  n_outputs: missing; it must be given",
    ]
    with pytest.raises(InvalidConfig, match=f"^device {name!r} cannot be made: n_outputs: missing; it must be given$"):
        open_device(name, n_inputs=3)


@pytest.mark.parametrize("name", ["digital", "emulator"])
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("seed", -1),
        ("seed", 1 << 64),
        ("seed", "0"),
        ("seed", 1.0),
        ("n_inputs", 0),
        ("n_inputs", "10"),
        ("n_inputs", 10.0),
        ("n_inputs", True),
        ("n_outputs", 0),
        ("n_outputs", "10"),
        ("n_outputs", 2.5),
        ("n_outputs", True),
        ("memory_budget_bytes", "1"),
        ("backend", "cuda"),
        ("backend", None),
        ("backend", ["numpy"]),
    ],
)
def test_impossible_options_are_refused_by_name_and_value(name: str, option: str, value: Any) -> None:
    message = message_of(InvalidConfig, name, **{"n_inputs": 3, "n_outputs": 3, option: value})
    assert option in message
    assert f"{value:,}" in message if type(value) is int else repr(value) in message


@pytest.mark.parametrize("stream", [-1, 1 << 64, "first", 1.0, True])
def test_an_impossible_stream_is_refused_before_anything_is_displayed(stream: Any) -> None:
    message = message_of(InvalidConfig, "emulator", n_inputs=3, n_outputs=3, stream=stream)
    assert "stream" in message


@pytest.mark.parametrize("rank", ["-1", "first", ""])
def test_an_impossible_rank_is_refused_by_name(rank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", rank)
    assert "RANK" in message_of(InvalidConfig, "emulator", n_inputs=3, n_outputs=3)
    assert make_device("emulator", n_inputs=3, n_outputs=3, stream=0).info.name == "emulator"


def test_more_inputs_than_mirrors_are_refused() -> None:
    message = message_of(InvalidConfig, "emulator", n_inputs=1_039_681, n_outputs=3)
    assert message == (
        "device 'emulator' cannot be made: inputs must be 1 … 1,039,680, one DMD mirror or more each; got 1,039,681"
    )


def test_more_outputs_than_quadratures_of_pixels_are_refused() -> None:
    message = message_of(InvalidConfig, "emulator", n_inputs=3, n_outputs=2 * 2_219_520 + 1)
    assert message == (
        "device 'emulator' cannot be made: pixels must be 1 … 2,219,520, the size of the camera; got 2,219,521"
    )
    assert check_device_config("emulator", n_outputs=2 * 2_219_520).n_pixels == 2_219_520


def test_a_configuration_is_checked_before_its_size_is_known() -> None:
    assert check_device_config("emulator", preset="ideal").exact
    assert not check_device_config("emulator", preset="ideal", camera={"adc_bits": 8}).exact
    assert check_device_config("digital", n_inputs=7).n_inputs == 7
    with pytest.raises(InvalidConfig, match="unknown preset 'ideel'"):
        check_device_config("emulator", preset="ideel")


def test_a_device_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, mirror="glassworks:Mirror")
    with open_device("mirror", n_inputs=2, n_outputs=2) as device:
        assert isinstance(device, Mirror)
        assert device.project(np.array([[1, -1]], np.int8)).tolist() == [[1, -1]]
    entries = {entry.name: entry for entry in available_devices()}
    assert list(entries) == sorted([*BUILT_IN, "mirror"])
    assert entries["mirror"] == DeviceEntry(
        "mirror", "Returns what it is given.", ("n_inputs", "n_outputs", "polish"), "glassworks:Mirror"
    )
    assert message_of(InvalidConfig, "mirror", n_inputs=2, n_outputs=2, polsh="fine").endswith(
        "polsh: unknown key. Did you mean 'polish'? Known here: n_inputs, n_outputs, polish"
    )
    assert message_of(InvalidConfig, "mirror", n_inputs=2, n_outputs=2, polish="none") == (
        "device 'mirror' cannot be made: polish must be fine or coarse; got 'none'"
    )
    assert message_of(UnknownDevice, "miror").endswith(
        f"Did you mean 'mirror'? Known: {', '.join(sorted([*BUILT_IN, 'mirror']))}"
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [("no_such_package:Mirror", "No module named 'no_such_package'"), ("glassworks:Lens", "Lens")],
)
def test_a_broken_device_is_listed_with_its_problem(value: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, broken=value, mirror="glassworks:Mirror")
    entries = {entry.name: entry for entry in available_devices()}
    assert list(entries) == sorted([*BUILT_IN, "broken", "mirror"])
    problem = entries["broken"].problem
    assert problem is not None
    assert problem.startswith(f"device 'broken' ({value}) cannot be loaded: ")
    assert reason in problem
    assert entries["mirror"].problem is None
    assert message_of(DeviceUnavailable, "broken", n_inputs=2, n_outputs=2) == problem


def test_a_device_that_takes_our_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, digital="glassworks:Mirror", odd="math:pi")
    problems = {entry.source: entry.problem for entry in available_devices() if entry.problem}
    assert problems == {
        "glassworks:Mirror": "several devices are called 'digital' (glassworks:Mirror and optical_dfa): "
        "uninstall or rename one",
        "math:pi": "device 'odd' (math:pi) cannot be loaded: 3.141592653589793 is not a callable object",
    }
    with pytest.raises(DeviceUnavailable, match="cannot be loaded"):
        make_device("odd", n_inputs=2, n_outputs=2)
    assert type(make_device("digital", n_inputs=2, n_outputs=2)) is DigitalDevice
