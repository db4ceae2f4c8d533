"""CuPy arrays: a device that takes them gives CuPy arrays back, to the same fields; others say what to do."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cupy_kinds import cupy_of, every_cupy
from device_kinds import counts, ternary
from fake_cupy import Fake, installed

from optical_dfa.devices import InvalidVectors, ProjectionDevice, SaturationWarning, emulated, open_device
from optical_dfa.emulator.numba_support import why_unavailable

# One digital number, 1/(4·R·K) root electrons of the field, where the CPU's camera is NumPy's; Numba's is the same.
LARGEST_DIFFERENCE = 0.0 if why_unavailable(("fma",)) is None else 1.001 / (4 * 1500**0.5 * 0.0255) / (25.0 / 2) ** 0.5
SIZES: dict[str, Any] = {"n_inputs": 30, "n_outputs": 601}
ACCEPTED = "int8 (batch, 30) with entries -1, 0, 1, or finite float32 (batch, 30)"


@pytest.fixture
def cupy(kind: str) -> Iterator[Any]:
    with cupy_of(kind) as module:
        yield module


def digital(**options: Any) -> ProjectionDevice:
    return open_device("digital", **SIZES, seed=3, backend="cupy", **options)


@every_cupy
@pytest.mark.parametrize("budget", [None, 0])
def test_fields_are_those_of_numpy(budget: int | None, cupy: Any) -> None:
    vectors = ternary(9)
    numpy = open_device("digital", **SIZES, seed=3, backend="numpy")
    with digital(memory_budget_bytes=budget) as device:
        assert (device.info.backend, device.info.accepts_cupy, device.gpu) == ("cupy", True, 0)
        assert device.fingerprint == numpy.fingerprint
        assert device.settings["memory_budget_bytes"] == budget
        np.testing.assert_array_equal(device.effective_matrix(), numpy.effective_matrix())
        expected = numpy.project(vectors)
        on_host: Any = device.project(vectors)
        on_gpu: Any = device.project(cupy.asarray(vectors))
        assert type(on_host) is np.ndarray
        assert isinstance(on_gpu, cupy.ndarray)
        for fields in (on_host, on_gpu.get()):
            assert fields.dtype == np.float32
            np.testing.assert_array_equal(fields, expected)
        assert device.usage.vectors == 18
        real: Any = vectors.astype(np.float32)  # whole numbers: exact in float32
        np.testing.assert_array_equal(device.project(real), expected)
        real = device.project(cupy.asarray(real))
        np.testing.assert_array_equal(real.get(), expected)


@every_cupy
def test_submitted_arrays_are_served_on_the_stream_of_their_owner(cupy: Any) -> None:
    """The array may be filled anew at once; the results are in the order of the stream."""
    batches = [ternary(batch) for batch in (5, 9, 7)]
    stream = cupy.cuda.Stream(non_blocking=True)
    with digital() as device, stream:
        array = cupy.zeros((4, 30), np.int8)
        futures: list[Any] = []
        futures.append(device.submit(array))
        array.fill(1)
        futures += [device.submit(cupy.asarray(vectors)) for vectors in batches]
        found = [future.result(60) for future in futures]
        assert not found[0].get().any()
        for fields, vectors in zip(found[1:], batches, strict=True):
            np.testing.assert_array_equal(fields.get(), device.project(vectors))


def test_work_is_enqueued_on_the_current_stream_alone() -> None:
    with installed(Fake()) as fake, digital() as device:
        stream = fake.module.cuda.Stream(non_blocking=True)
        with stream:
            vectors = fake.module.asarray(ternary(4))
            future = device.submit(vectors)
            future.result(60)
            device.project(vectors)
        assert {ptr for _, ptr in fake.gpu.log} == {stream.ptr}
        assert fake.gpu.synchronised == 2, "to check values: once for `submit`, once for `project`"


def refusal(device: ProjectionDevice, vectors: Any) -> str:
    messages = []
    for call in (device.project, device.submit):
        with pytest.raises(InvalidVectors) as error:
            call(vectors)
        messages.append(str(error.value))
    assert device.usage.vectors == 0
    assert messages[0] == messages[1]
    return messages[0]


@every_cupy
def test_bad_arrays_are_refused(cupy: Any) -> None:
    takes = f"device 'digital' takes {ACCEPTED}; got "
    with digital() as device:
        assert refusal(device, cupy.zeros((2, 29), np.int8)) == f"{takes}int8 (2, 29)"
        assert refusal(device, cupy.zeros(30, np.int8)) == f"{takes}int8 (30,)"
        assert refusal(device, cupy.zeros((2, 30), np.uint8)) == f"{takes}uint8 (2, 30): convert them"
        advice = "encode real vectors first (optical_dfa.Ternarize)"
        assert refusal(device, cupy.zeros((2, 30), np.float64)) == f"{takes}float64 (2, 30): {advice}"
        for value in (2, -2, 127, -128):
            vectors = np.zeros((3, 30), np.int8)
            vectors[2, 29] = value
            given = f"entries from {min(value, 0)} to {max(value, 0)}: scale or ternarise them first"
            assert refusal(device, cupy.asarray(vectors)) == takes + given
        infinite = np.full((2, 30), np.inf, np.float32)
        assert refusal(device, cupy.asarray(infinite)) == f"{takes}float32 (2, 30) with NaN or infinity"
        assert refusal(device, [[0] * 30]) == f"device 'digital' takes NumPy or CuPy arrays, {ACCEPTED}; got list"


@pytest.mark.parametrize("name", ["digital", "emulator"])
def test_a_device_on_another_backend_says_what_to_do(name: str) -> None:
    with installed(Fake()) as fake, open_device(name, **SIZES, backend="numpy") as device:
        assert not device.info.accepts_cupy
        message = refusal(device, fake.module.zeros((2, 30), np.int8))
    assert message.startswith(f"device {name!r} with backend 'numpy' takes NumPy arrays, int8 (batch, 30)")
    assert message.endswith(
        "got a CuPy array: give it vectors.get(), or open a device whose info.accepts_cupy is true (digital, or "
        "emulator with a converter, on backend 'cupy')"
    )


def test_an_array_on_another_gpu_is_refused() -> None:
    with installed(Fake()) as fake, digital() as device:
        vectors = fake.module.zeros((2, 30), np.int8)
        vectors.device = fake.module.cuda.Device(1)
        assert refusal(device, vectors) == (
            f"device 'digital' takes {ACCEPTED} on GPU 0, where it computes; got a CuPy array on GPU 1: copy it, or "
            "make the device inside `with cupy.cuda.Device(1):`"
        )


@every_cupy
@pytest.mark.parametrize("budget", [None, 0])
def test_the_emulated_device_stays_on_the_gpu(budget: int | None, cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames, images and readout on the GPU: the fields and counts of the CPU, dark patterns and parts included."""
    light = {"signal_e_per_feature": 25.0}
    options: dict[str, Any] = {**SIZES, "photometry": light, "seed": 3}
    with (
        open_device("emulator", **options, memory_budget_bytes=budget, backend="cupy") as device,
        open_device("emulator", **options) as other,
    ):
        assert (device.info.backend, device.info.camera_backend, device.info.accepts_cupy) == ("cupy", "cupy", True)
        assert device.fingerprint == other.fingerprint
        monkeypatch.setattr(emulated, "GPU_CHUNK_BYTES", 1)
        monkeypatch.setattr(emulated, "MIN_CHUNK", 7)
        dark = np.zeros((8, 30), np.int8)  # a whole part without a lit pattern
        for vectors in (ternary(9), np.ones((3, 30), np.int8), np.concatenate([dark, ternary(12)]), dark):
            expected, on_host = other.project(vectors), device.project(vectors)
            device.load_state_dict(before := device.state_dict())
            assert before["position"] == other.state_dict()["position"]
            assert type(on_host) is np.ndarray
            np.testing.assert_allclose(on_host, expected, rtol=0, atol=LARGEST_DIFFERENCE)
            expected = other.project(vectors)
            on_gpu: Any = device.project(cupy.asarray(vectors))
            assert isinstance(on_gpu, cupy.ndarray)
            assert on_gpu.dtype == np.float32
            np.testing.assert_allclose(on_gpu.get(), expected, rtol=0, atol=LARGEST_DIFFERENCE)
            assert counts(device.usage) == counts(other.usage)


@every_cupy
def test_without_a_converter_the_camera_is_that_of_numpy(cupy: Any) -> None:
    vectors = ternary(9)
    digital_fields = digital().project(vectors)
    with open_device("emulator", **SIZES, seed=3, preset="ideal", backend="cupy") as device:
        assert (device.info.backend, device.info.camera_backend, device.info.accepts_cupy) == ("cupy", "numpy", False)
        assert device.info.exact
        np.testing.assert_array_equal(device.project(vectors), digital_fields)
        with pytest.raises(InvalidVectors, match="got a CuPy array"):
            device.project(cupy.asarray(vectors))


def test_saturated_readings_are_counted_on_the_gpu() -> None:
    with installed(Fake()), open_device("emulator", **SIZES, backend="cupy") as device:
        with pytest.warns(SaturationWarning):
            device.project(np.ones((4, 30), np.int8))
        with open_device("emulator", **SIZES, backend="numpy") as other, pytest.warns(SaturationWarning):
            other.project(np.ones((4, 30), np.int8))
        assert counts(device.usage) == counts(other.usage)
