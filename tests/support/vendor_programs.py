"""What tests ask of the vendor's software, in a process that has it: `python -m vendor_programs NAME` prints JSON."""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

warnings.simplefilter("ignore")  # of the vendor's software

import stub_opu_driver as driver  # noqa: E402

from optical_dfa.devices import DeviceError, LightonDevice  # noqa: E402
from optical_dfa.devices.conformance import check_device  # noqa: E402
from optical_dfa.emulator import make_product  # noqa: E402

OPU_CONFIG = {
    "type": "type2",
    "name": "stub-1",
    "input": {"frametime_us": 500},
    "output": {"exposure_us": 400},
    "ones_range": [1, 200],
}


def simulator() -> Any:
    """The device on the vendor's simulator, beside the simulator's matrix drawn here."""
    import lightonml

    sizes: list[int] = []
    plain = lightonml.OPU.linear_transform

    def counted(opu: Any, patterns: Any) -> Any:
        sizes.append(len(patterns))
        return plain(opu, patterns)

    lightonml.OPU.linear_transform = counted
    generator = np.random.default_rng(0)
    vectors = generator.integers(-1, 2, (200, 40), np.int8)
    vectors[0] = 0
    vectors[1] = np.abs(vectors[1])
    many = np.where(generator.random((3100, 40)) < 0.5, -1, 1).astype(np.int8)
    with LightonDevice(n_inputs=40, n_outputs=500, simulated=True) as device:
        opened = sizes.copy()
        before = device.usage.frames
        fields = device.project(vectors)
        displayed = device.usage.frames - before
        negative = device.project(-vectors)
        drawn = np.random.RandomState(0).normal(0, 1 / np.sqrt(40), (40, 500)).astype(np.float32) * np.sqrt(40)
        expected = vectors.astype(np.float64) @ drawn
        fingerprint = device.fingerprint
        matrix = device.effective_matrix(slice(3, 9))
        sizes.clear()
        parts = device.project(many)
        again = np.concatenate([device.project(many[:1000]), device.project(many[1000:])])
        assert matrix is not None
        report = {
            "backend": device.info.backend,
            "gain": device.gain,
            "snr_db": device.snr_db,
            "slope": float(np.sum(fields * expected) / np.sum(expected**2)),
            "residue": float(np.abs(fields - expected * np.sum(fields * expected) / np.sum(expected**2)).max()),
            "odd": bool(np.array_equal(negative, -fields)),
            "dark": float(np.abs(fields[0]).max()),
            "frames": displayed,
            "patterns": int((vectors > 0).any(axis=1).sum() + (vectors < 0).any(axis=1).sum()),
            "calls": [opened, sizes[:3]],
            "split": float(np.abs(parts - again).max()),
            "matrix": float(np.abs(matrix - drawn.T[3:9] / np.sqrt(np.mean(drawn**2))).max()),
        }
    with LightonDevice(n_inputs=40, n_outputs=501, simulated=True) as other:
        report["other fingerprint"] = other.fingerprint != fingerprint
    return report


def hardware() -> Any:
    """The device on the real code path, against the stub driver, with a full-size DMD: every call."""
    with opened(n_inputs=16, n_outputs=10_000) as device:
        calls = driver.calls.copy()
        driver.calls.clear()
        device.project(np.eye(16, dtype=np.int8)[:2] - np.eye(16, dtype=np.int8)[2:4])
        return {"backend": device.info.backend, "open": calls, "project": driver.calls.copy()}


def readings() -> Any:
    """Fields of the stub's speckle, beside the linear map that its optics makes."""
    driver.mirrors = (16, 16)
    vectors = np.random.default_rng(1).integers(-1, 2, (400, 16), np.int8)
    with opened(n_inputs=16, n_outputs=2000) as device:
        fields = device.project(vectors)
        again = device.project(vectors)
        state = device.state_dict()
        snr_db, identity = device.snr_db, dict(device.matrix_identity)
        usage, frame_s = device.usage, 500e-6
    rows = make_product(16, 4000, driver.SEED).matrix(slice(0, 4000)).astype(np.float64)
    field = rows[0::2] + 1j * rows[1::2]
    anchor = field @ driver.anchor(16)
    bright = np.abs(anchor) ** 2 > np.mean(np.abs(anchor) ** 2)  # where the stub's method is little noisy
    exact = vectors @ np.real(np.exp(-1j * np.angle(anchor))[:, None] * field).T / np.sqrt(np.mean(rows**2))
    signal = exact[:, bright]
    return {
        "gain": float(np.mean(fields * again) / np.mean(np.square(vectors, dtype=float).sum(axis=1))),
        "slope": float(np.sum(fields[:, bright] * signal) / np.sum(signal**2)),
        "cosine": float(np.corrcoef(fields[:, bright].ravel(), signal.ravel())[0, 1]),
        "snr_db": snr_db,
        "measured_snr_db": float(10 * np.log10(np.mean(fields * again) / (np.mean((fields - again) ** 2) / 2))),
        "identity": identity,
        "state": state,
        "usage": [usage.frames, usage.frames_skipped, usage.device_seconds - usage.frames * frame_s],
    }


def conformance() -> Any:
    """What the public suite has checked of the device, on the vendor's simulator and against the stub driver."""
    driver.mirrors = (16, 16)
    simulated = LightonDevice(n_inputs=16, n_outputs=600, simulated=True)
    real = opened(n_inputs=16, n_outputs=2000)
    real.close()
    return {"simulator": check_device(simulated, snr_db=100.0), "stub": check_device(real, snr_db=3.0)}


def faults() -> Any:
    """How each failure of the vendor's software ends: class, message, and whether the OPU was let go."""
    driver.mirrors = (16, 16)
    from lightonml.internal.pidfile import ProcessRunningException

    report: dict[str, Any] = {}
    opening: dict[str, tuple[str, list[BaseException]]] = {
        "used": ("open", [driver.OpuAlreadyUsedException("pid 12")]),
        "pid file": ("open", [ProcessRunningException("pid 12")]),
        "reserve": ("reserve", [RuntimeError("no memory")]),
        "gain": ("decode_batch", [RuntimeError("decoder")]),
    }
    for name, (call, errors) in opening.items():
        driver.failures[call] = errors
        report[name] = outcome(lambda: opened(n_inputs=16, n_outputs=20).close())
    report["no configuration"] = outcome(lambda: LightonDevice(n_inputs=16, n_outputs=20).open())
    report["too many"] = outcome(lambda: opened(n_inputs=300, n_outputs=20).close())
    vectors = np.ones((1, 16), np.int8)
    projecting: dict[str, list[BaseException]] = {
        "retried": [RuntimeError("camera")] * 4,
        "camera": [RuntimeError("camera")] * 5,
        "slow camera": [type("CameraTimeout", (Exception,), {})("late")] * 5,
    }
    for name, errors in projecting.items():
        with opened(n_inputs=16, n_outputs=20) as device:
            driver.failures["transform2"] = errors
            report[name] = outcome(lambda: float(device.project(vectors).shape[1]))
            driver.failures.clear()
            report[name + ", then"] = outcome(lambda: float(device.project(vectors).shape[1]))
    with opened(n_inputs=16, n_outputs=20) as device:
        device._opened._opu.device._exposure_us = 77
        report["exposure"] = outcome(lambda: device.project(vectors))
    with opened(n_inputs=16, n_outputs=20, timeout_s=0.2) as device:
        plain = driver.OpuDevice.transform2
        driver.OpuDevice.transform2 = hanging  # type: ignore[assignment, method-assign]
        report["hang"] = outcome(lambda: device.project(vectors))
        driver.OpuDevice.transform2 = plain  # type: ignore[method-assign]
    return report


def forgotten() -> Any:
    """A device that nobody closes, in a program that ends: the stub says so on standard error."""
    driver.mirrors = (16, 16)
    plain = driver.OpuDevice.close

    def close(device: Any) -> None:
        plain(device)
        print("let go", file=sys.stderr)

    driver.OpuDevice.close = close  # type: ignore[assignment, method-assign]
    global kept
    kept = opened(n_inputs=16, n_outputs=20)
    return None


def hanging(*_: Any) -> None:
    import time

    time.sleep(1.0)


_folder = TemporaryDirectory()
kept: Any = None


def opened(**options: Any) -> Any:
    """The device on the stub driver, open."""
    path = Path(_folder.name) / "opu.json"
    path.write_text(json.dumps(OPU_CONFIG))
    driver.calls.clear()
    return LightonDevice(config_file=str(path), **options).open()


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or class and message of its error, and whether the OPU was closed after it was opened."""
    try:
        return call()
    except DeviceError as error:
        names = [name for name, *_ in driver.calls]
        return [type(error).__name__, str(error), names.count("open") - names.count("close")]


if __name__ == "__main__":
    driver.install()
    print(json.dumps(globals()[sys.argv[1]]()))
