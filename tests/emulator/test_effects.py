"""All effects at once: the same image for any split, thread count and backend; what is off changes no bit."""

import dataclasses
import hashlib
import math
from typing import Any

import numpy as np
import pytest
from effect_bench import NOISY, make_bench, random_frames

from optical_dfa.emulator import (
    Dmd,
    EmulatedBench,
    FrameStamp,
    Grain,
    Laser,
    Medium,
    exposure,
    numba_product,
    numpy_product,
    propagation,
)
from optical_dfa.emulator.product import Backend

CAMERA = dataclasses.replace(
    NOISY,
    gain_dn_per_e=0.3,
    dark_current_e_per_s=1e4,
    prnu=0.01,
    dsnu_e=5.0,
    black_level_dn=40.0,
    dead_pixels=0.001,
    hot_pixels=0.001,
    hot_e_per_s=1e6,
)
EFFECTS: dict[str, dict[str, Any]] = {
    "camera": {"camera": CAMERA},
    "contrast": {"dmd": Dmd(contrast=100.0)},
    "padding": {"dmd": Dmd(padding=True)},
    "envelope": {"dmd": Dmd(envelope_waist=1.0)},
    "decorrelation": {"medium": Medium(decorrelation_tau_s=0.01)},
    "piston": {"medium": Medium(piston_walk_rad=10.0, vibration_rad=0.1)},
    "power": {"laser": Laser(intensity_noise=0.02)},
    "errors": {"laser": Laser(reference_error=0.1, phase_step_error=0.02)},
    "fringes": {"laser": Laser(tilt_x=0.2)},
    "beams": {"laser": Laser(signal_waist=1.5, reference_waist=2.0)},
    "fine grain": {"grain": Grain(0.5)},
    "coarse grain": {"grain": Grain(2.2)},
}
ALL: dict[str, Any] = {
    "camera": CAMERA,
    "dmd": Dmd(contrast=100.0, padding=True, envelope_waist=1.0),
    "medium": Medium(decorrelation_tau_s=0.01, piston_walk_rad=10.0, vibration_rad=0.1),
    "laser": Laser(0.02, 0.1, 0.02, 0.2, 0.1, 1.5, 2.0),
}
EVERYTHING = {
    "all": ALL,
    "all, fine grain": {**ALL, "grain": Grain(0.5)},
    "all, coarse grain": {**ALL, "grain": Grain(2.2)},
}


def bench_of(effects: dict[str, Any], backend: Backend, n_modes: int = 301, budget: int | None = None) -> EmulatedBench:
    return make_bench(23, n_modes, backend=backend, mirrors=1000, budget=budget, **{"camera": NOISY, **effects})


@pytest.mark.parametrize("effects", [*EFFECTS.values(), *EVERYTHING.values()], ids=[*EFFECTS, *EVERYTHING])
def test_backends_agree(effects: dict[str, Any]) -> None:
    """NumPy and Numba: one digital number, in fewer than 1 of 10^4 pixel readings of 10^5 or more."""
    frames = np.repeat(random_frames(10, 23), 4, axis=0)
    phases = np.tile(np.arange(4) * np.pi / 2, 10)
    numpy, numba = (
        bench_of(effects, backend, 3000).expose(frames, phases=phases, at=FrameStamp(1, 5)).astype(int)
        for backend in ("numpy", "auto")
    )
    assert len(np.unique(numpy)) > 500
    difference = np.abs(numba - numpy)
    assert difference.max() <= 1
    assert difference.mean() < 1e-4


@pytest.mark.parametrize("backend", ["numpy", "auto"])
@pytest.mark.parametrize("effects", EVERYTHING.values(), ids=EVERYTHING)
def test_images_depend_on_their_stamp_alone(
    effects: dict[str, Any], backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any split of a request, any number of threads, any size of the blocks, a stored or a procedural matrix."""
    frames = np.repeat(random_frames(12, 23), 3, axis=0)
    phases = np.linspace(-5, 5, 36)
    whole = bench_of(effects, backend).expose(frames, phases=phases, at=FrameStamp(2, 70))
    assert len(np.unique(whole)) > 300
    for size in (1, 5, 16):
        bench = bench_of(effects, backend)
        parts = [
            bench.expose(frames[i : i + size], phases=phases[i : i + size], at=FrameStamp(2, 70 + i))
            for i in range(0, 36, size)
        ]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    monkeypatch.setattr(exposure, "BLOCK_PIXELS", 300)
    monkeypatch.setattr(exposure, "THREAD_PIXELS", 300)
    monkeypatch.setattr(exposure, "n_threads", lambda: 3)
    monkeypatch.setattr(numpy_product, "STREAM_BYTES", 300)
    monkeypatch.setattr(numba_product, "FIELD_BYTES", 300)
    monkeypatch.setattr(numba_product, "BATCHES", (7, 7))
    monkeypatch.setattr(propagation, "CHUNK_MODES", 1000)
    monkeypatch.setattr(propagation, "MIN_PATTERNS", 5)
    for budget in (0, 1 << 30):
        bench = bench_of(effects, backend, budget=budget)
        np.testing.assert_array_equal(bench.expose(frames, phases=phases, at=FrameStamp(2, 70)), whole)


OFF: dict[str, dict[str, Any]] = {
    "defaults": {},
    "explicit": {
        "dmd": Dmd(math.inf, False, math.inf),
        "medium": Medium(math.inf, 0.0, 0.0),
        "laser": Laser(0.0, 0.0, 0.0, 0.0, 0.0, math.inf, math.inf),
        "grain": Grain(1.0, "square"),
    },
    "camera": {"camera": dataclasses.replace(NOISY, hot_e_per_s=1e9, quantum_efficiency=0.5)},
    "padding of none": {"dmd": Dmd(padding=True)},
    "tilt below half a fringe": {"laser": Laser(tilt_x=1e-6)},
}


@pytest.mark.parametrize("effects", OFF.values(), ids=OFF)
def test_what_is_off_changes_no_bit(effects: dict[str, Any]) -> None:
    """The images of the bench before it had these effects, with NumPy's camera, as their SHA-256."""
    bench = make_bench(25, 5000, backend="numpy", **{"camera": NOISY, "mirrors": 1000, **effects})
    frames, phases = np.repeat(random_frames(3, 25), 4, axis=0), np.tile(np.arange(4.0), 3)
    images = bench.expose(frames, phases=phases, at=FrameStamp(1, 2))
    assert bench.propagation.plain
    assert hashlib.sha256(images.astype("<u2").tobytes()).hexdigest() == PLAIN


PLAIN = "6624739d4ac41b040be60b5e581eda320e319640f89caa7c89f7800ad5e857ab"
