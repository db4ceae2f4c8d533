"""Readouts of a bench on a GPU: what is not demodulated there is on the CPU, to the same outputs."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cupy_kinds import cupy_of, every_cupy

from optical_dfa.devices import Calibration, PhaseStepping, load_preset, open_device
from optical_dfa.emulator import EmulatedBench, FrameStamp

SIZES: dict[str, Any] = {"n_inputs": 30, "n_outputs": 301}


@pytest.fixture
def cupy(kind: str) -> Iterator[Any]:
    with cupy_of(kind) as module:
        yield module


@every_cupy
@pytest.mark.parametrize("options", [{"steps": 3}, {"steps": 4}, {"calibration": Calibration(2, 3)}], ids=str)
def test_cupy_patterns_give_cupy_amplitudes(options: dict[str, Any], cupy: Any) -> None:
    preset = load_preset("phase-stepping").bench
    readout = PhaseStepping(EmulatedBench(30, 400, 0, preset, backend="cupy"), 1500.0, **options)
    readout.calibrate(FrameStamp(1, 0))
    patterns = np.random.default_rng(0).integers(0, 2, (3, 30), np.uint8)
    on_host = readout.read(patterns, FrameStamp(0, 0))
    on_gpu: Any = readout.read(cupy.asarray(patterns), FrameStamp(0, 0))
    assert isinstance(on_gpu.amplitude, cupy.ndarray)
    np.testing.assert_array_equal(on_gpu.amplitude.get(), on_host.amplitude)
    assert on_gpu.saturated_pixels == on_host.saturated_pixels


@every_cupy
@pytest.mark.parametrize("readout", [{"steps": 3}, {"kind": "anchored"}], ids=str)
def test_devices(readout: dict[str, Any], cupy: Any) -> None:
    """As on the CPU, within a digital number in fewer than 1e-4 of the readings."""
    vectors = np.random.default_rng(0).integers(-1, 2, (6, 30), np.int8)
    light = {"signal_e_per_feature": 50.0}
    fields = []
    for backend in ("cupy", "numpy"):
        with open_device("emulator", **SIZES, backend=backend, readout=readout, photometry=light) as device:
            assert not device.info.accepts_cupy
            fields.append(device.project(vectors))
    assert np.mean(fields[0] != fields[1]) < 0.02
    assert cupy is not None
