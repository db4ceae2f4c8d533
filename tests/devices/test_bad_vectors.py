"""Vectors that a device does not take: the error says what was given and what is accepted, and nothing is displayed."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from optical_dfa.devices import DeviceError, InvalidVectors, ProjectionDevice, open_device
from optical_dfa.emulator import EmulatedBench

N_INPUTS = 6
ACCEPTED = {
    "digital": "int8 (batch, 6) with entries -1, 0, 1, or finite float32 (batch, 6)",
    "emulator": "int8 (batch, 6) with entries -1, 0, 1",
}
ENCODE = ": encode real vectors first (optical_dfa.Ternarize)"


@pytest.fixture(params=["digital", "emulator"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ProjectionDevice:
    """An open device whose bench must not be asked for a frame."""

    def forbidden(*args: Any, **kwargs: Any) -> Any:
        pytest.fail("frames were displayed")

    monkeypatch.setattr(EmulatedBench, "expose", forbidden)
    return open_device(request.param, n_inputs=N_INPUTS, n_outputs=4)


def refusal(device: ProjectionDevice, vectors: Any) -> str:
    """What `project` and `submit` say about the vectors, after 'got'; nothing may have happened."""
    usage, state = copy.copy(vars(device.usage)), device.state_dict()
    messages = []
    for call in (device.project, device.submit):
        with pytest.raises(InvalidVectors) as error:
            call(vectors)
        assert isinstance(error.value, DeviceError)
        assert isinstance(error.value, ValueError)
        messages.append(str(error.value))
    assert vars(device.usage) == usage
    assert device.state_dict() == state
    assert messages[0] == messages[1]
    start, given = messages[0].split("; got ")
    assert start.startswith(f"device {device.info.name!r} takes ")
    assert start.endswith(ACCEPTED[device.info.name])
    return given


@pytest.mark.parametrize("dtype", ["uint8", "bool", "int16", "int64", "complex64"])
def test_other_dtypes_are_not_cast(dtype: str, device: ProjectionDevice) -> None:
    assert refusal(device, np.ones((2, N_INPUTS), dtype)) == f"{dtype} (2, 6): convert them"


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_real_vectors_need_an_encoder(dtype: str, device: ProjectionDevice) -> None:
    assert refusal(device, np.ones((2, N_INPUTS), dtype)) == f"{dtype} (2, 6){ENCODE}"


def test_float32_is_for_devices_that_accept_it(device: ProjectionDevice) -> None:
    vectors = np.ones((2, N_INPUTS), np.float32)
    if device.info.accepts_real:
        assert device.project(vectors).shape == (2, 4)
    else:
        assert refusal(device, vectors) == f"float32 (2, 6){ENCODE}"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_vectors_are_refused(value: float, device: ProjectionDevice) -> None:
    vectors = np.ones((2, N_INPUTS), np.float32)
    vectors[1, 3] = value
    expected = "float32 (2, 6) with NaN or infinity" if device.info.accepts_real else f"float32 (2, 6){ENCODE}"
    assert refusal(device, vectors) == expected


@pytest.mark.parametrize(
    "shape", [(N_INPUTS,), (2, N_INPUTS - 1), (2, N_INPUTS + 1), (1, 2, N_INPUTS), (0,), ()], ids=str
)
def test_other_shapes_are_refused(shape: tuple[int, ...], device: ProjectionDevice) -> None:
    assert refusal(device, np.ones(shape, np.int8)) == f"int8 {shape}"


@pytest.mark.parametrize("value", [2, -2, 127, -128])
@pytest.mark.parametrize("rows", [3, 5000])  # few are checked in another way
def test_values_beyond_one_are_refused(rows: int, value: int, device: ProjectionDevice) -> None:
    vectors = np.zeros((rows, N_INPUTS), np.int8)
    vectors[2, 5] = value
    given = f"entries from {min(value, 0)} to {max(value, 0)}: scale or ternarise them first"
    assert refusal(device, vectors) == given


def test_what_is_no_array_is_refused(device: ProjectionDevice) -> None:
    assert refusal(device, [[0] * N_INPUTS]) == "list"
    assert refusal(device, torch.zeros((2, N_INPUTS), dtype=torch.int8)) == "Tensor"
    assert refusal(device, None) == "NoneType"
