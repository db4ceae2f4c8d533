"""What any projection device must pass, ours or yours: `check_device(device)` in one test of its package."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.base import ProjectionDevice
from optical_dfa.devices.errors import DeviceClosed, FingerprintMismatch, InvalidVectors
from optical_dfa.devices.probes import Ternary, pairs_and_sums

Fields = npt.NDArray[np.float64]

PAIRS = 12

SIGMAS = 6.0
"""Deviations of a mean from what it must be, in standard errors: a correct device fails one of the few such checks once
in 10^8."""

BENDING = 0.1
"""Superposition error that an optical device may have, clipping included; see `optical-dfa device check`."""

COUNTED = ("vectors", "frames", "frames_skipped", "saturated_pixels", "pixel_readings")


class ConformanceError(AssertionError):
    """A device does not keep the contract; the message lists every promise that it breaks."""


@dataclass(frozen=True)
class Trial:
    """What the checks share: the open device, and vectors that were shown to it twice."""

    device: ProjectionDevice
    vectors: Ternary
    one: Fields
    other: Fields
    state: dict[str, Any]
    """Before the first showing."""

    @property
    def noise(self) -> float:
        """Variance of an output, by the two showings."""
        return float(np.square(self.one - self.other).mean() / 2)

    @property
    def signal(self) -> float:
        """Mean square of an output, without the noise."""
        return float((self.one * self.other).mean())


def check_device(device: ProjectionDevice, *, snr_db: float = 0.0, lit: int = 4) -> tuple[str, ...]:
    """Hold a device against the contract of `ProjectionDevice`.

    An exact device must agree with itself and with its matrix to float32. Any other one states its noise by `snr_db`:
    two showings must differ by no more, and everything else is held against the noise that they show. That is taken to
    be another for each vector: a phase that walks on while many are shown wants more probes (`readout.probe_every`).

    Args:
        device: closed or open; it is open in the meantime, and afterwards as it was before.
        snr_db: least signal-to-noise ratio that the device states for such vectors, decibels.
        lit: most inputs lit by a vector; what the device is used for.

    Returns:
        What was checked.

    Raises:
        ConformanceError: all promises that it breaks.
        DeviceError: it could not be opened.
    """
    was_open = device._is_open
    broken = [] if was_open else list(_faults(_closed_refuses, device))
    device.open()
    try:
        x, y, both = pairs_and_sums(np.random.default_rng(0), PAIRS, device.info.n_inputs, lit)
        vectors = np.concatenate([x, y, both])
        state = device.state_dict()
        one, other = (device.project(vectors).astype(np.float64) for _ in range(2))
        trial = Trial(device, vectors, one, other, state)
        broken += list(_faults(_noise(snr_db), trial))
        for check in _CHECKS:
            broken += list(_faults(check, trial))
    finally:
        if not was_open:
            device.close()
    if broken:
        name = device.info.name
        raise ConformanceError(f"device {name!r} breaks its contract:\n" + "\n".join(f"  {text}" for text in broken))
    return tuple(check.__name__.lstrip("_").replace("_", " ") for check in (*_CHECKS, _closed_refuses))


class _Broken(Exception):
    pass


def _expect(kept: bool, promise: str) -> None:
    if not kept:
        raise _Broken(promise)


def _faults(check: Callable[..., None], *arguments: Any) -> list[str]:
    try:
        check(*arguments)
    except _Broken as error:
        return [str(error)]
    except Exception as error:
        return [f"{check.__name__.lstrip('_').replace('_', ' ')}: {type(error).__name__}: {error}"]
    return []


def _closed_refuses(device: ProjectionDevice) -> None:
    vectors = np.zeros((1, device.info.n_inputs), np.int8)
    try:
        device.project(vectors)
    except DeviceClosed:
        return
    raise _Broken("a closed device must raise DeviceClosed from project")


def _noise(snr_db: float) -> Callable[[Trial], None]:
    def noise(trial: Trial) -> None:
        if trial.device.info.exact:
            _expect(np.array_equal(trial.one, trial.other), "info.exact: the same vectors must give the same fields")
            return
        found = 10 * math.log10(max(trial.signal, 1e-30) / max(trial.noise, 1e-30))
        _expect(found >= snr_db, f"the SNR of two showings must be {snr_db:g} dB or more; it is {found:.1f} dB")

    return noise


def _info_and_types(trial: Trial) -> None:
    device, info = trial.device, trial.device.info
    fields = device.project(trial.vectors[:3])
    shape = (3, info.n_outputs)
    _expect(fields.dtype == np.float32 and fields.shape == shape,
            f"project must give float32 {shape}; it gave {fields.dtype} {fields.shape}")  # fmt: skip
    _expect(bool(np.isfinite(fields).all()), "fields must be finite")
    _expect(info.linear and info.outputs_per_mode in (1, 2), "info: linear, and outputs_per_mode 1 or 2")
    _expect(device.open() is device, "open must return the device, also when it is open")
    empty = device.project(np.zeros((0, info.n_inputs), np.int8))
    _expect(empty.shape == (0, info.n_outputs), f"no vectors must give fields (0, {info.n_outputs}); got {empty.shape}")


def _zero_vectors(trial: Trial) -> None:
    fields = trial.device.project(np.zeros((4, trial.device.info.n_inputs), np.int8)).astype(np.float64)
    limit = SIGMAS * math.sqrt(2 * trial.noise)  # both sides of a displayed zero have noise
    _expect(math.sqrt(np.square(fields).mean()) <= limit + 1e-6, "zero vectors must give zero fields, up to the noise")


def _unit_gain(trial: Trial) -> None:
    """The rows are random: their mean power is known to √(2/n_outputs) of it."""
    lit = np.abs(trial.vectors).sum(axis=1, dtype=np.int64)[:, None]
    gain = float((trial.one * trial.other / lit).mean())
    slack = SIGMAS * math.sqrt(2 / trial.device.info.n_outputs) + (1e-5 if trial.device.info.exact else 2 * BENDING)
    _expect(abs(gain - 1) <= slack, f"E[field²] / |x|² must be 1 ± {slack:.2f}; it is {gain:.3f}")


def _superposition(trial: Trial) -> None:
    misses = []
    for fields in (trial.one, trial.other):
        x, y, both = np.split(fields, 3)
        misses.append(both - x - y)
    power = float((misses[0] * misses[1]).mean())
    spread = SIGMAS * 3 * trial.noise / math.sqrt(misses[0].size)
    limit = 1e-10 if trial.device.info.exact else BENDING**2
    error = math.sqrt(max(0.0, power) / max(trial.signal, 1e-30))
    _expect(power <= limit * trial.signal + spread, f"P(x + y) must be P(x) + P(y); it is off by {error:.1%}")
    signs = trial.device.project(-trial.vectors).astype(np.float64)
    _expect(_near(trial, signs, -trial.one), "P(-x) must be -P(x)")


def _bad_vectors(trial: Trial) -> None:
    device, n = trial.device, trial.device.info.n_inputs
    before = {name: getattr(device.usage, name) for name in COUNTED}
    bad: list[Any] = [
        np.zeros((2, n + 1), np.int8),
        np.zeros(n, np.int8),
        np.full((1, n), 2, np.int8),
        np.zeros((1, n), np.int16),
    ]
    if not device.info.accepts_real:
        bad.append(np.zeros((1, n), np.float32))
    for vectors in bad:
        for call in (device.project, device.submit):
            try:
                call(vectors)
            except InvalidVectors:
                continue
            given = f"{vectors.dtype} {vectors.shape}, largest {vectors.max()}"
            raise _Broken(f"{call.__name__} must raise InvalidVectors for {given}")
    after = {name: getattr(device.usage, name) for name in COUNTED}
    _expect(before == after, "refused vectors must not be counted in usage")


def _batches(trial: Trial) -> None:
    device, vectors = trial.device, trial.vectors
    given = np.asfortranarray(vectors)
    parts = [device.project(given[first : first + 5]) for first in range(0, len(given), 5)]
    _expect(_near(trial, np.concatenate(parts), trial.one), "fields must not depend on the split into calls")
    _expect(np.array_equal(given, vectors), "project must leave the vectors as they are")
    for part in parts:
        if part.flags.writeable:
            part.fill(np.nan)  # as the caller may; what is given next must not know of it
    futures = [device.submit(vectors[first : first + 5]) for first in range(0, len(vectors), 5)]
    served = np.concatenate([future.result(timeout=600) for future in futures])
    _expect(_near(trial, served, trial.one), "submit must serve in order, and as project does, in new arrays")


def _usage(trial: Trial) -> None:
    device = trial.device
    before, info = device.usage.vectors, device.info
    frames = device.usage.frames + device.usage.frames_skipped
    device.project(trial.vectors[:7])
    _expect(device.usage.vectors == before + 7, "usage.vectors must count every vector")
    spent = device.usage.frames + device.usage.frames_skipped - frames
    most = 7 * info.frames_per_vector + math.ceil(
        7 * info.probe_frames + info.frames_per_vector * bool(info.probe_frames)
    )
    most += math.ceil(most * info.mark_frames) + (4 if info.mark_frames else 0)  # a mark more before and behind
    _expect(spent <= most, f"7 vectors must take at most {most} frames by info.frames_per_vector; they took {spent}")


def _state(trial: Trial) -> None:
    device = trial.device
    state = device.state_dict()
    _expect(json.loads(json.dumps(state)) == state, "state_dict must hold plain values only, as JSON has them")
    _expect(device.fingerprint == trial.state["fingerprint"], "the fingerprint must stay the same")
    try:
        device.load_state_dict({**state, "fingerprint": "0" * 16})
    except FingerprintMismatch:
        pass
    else:
        raise _Broken("load_state_dict must raise FingerprintMismatch for another fingerprint")
    _expect(device.state_dict() == state, "a refused state must change nothing")
    device.load_state_dict(trial.state)
    _expect(device.state_dict() == trial.state, "state_dict must give back what load_state_dict took")
    again = device.project(trial.vectors).astype(np.float64)
    _expect(_near(trial, again, trial.one), "a loaded state must give the fields of then, up to the noise")


def _matrix(trial: Trial) -> None:
    device, info = trial.device, trial.device.info
    if (matrix := device.effective_matrix()) is None:
        return
    shape = (info.n_outputs, info.n_inputs)
    _expect(matrix.dtype == np.float32 and matrix.shape == shape,
            f"effective_matrix must be float32 {shape}; it is {matrix.dtype} {matrix.shape}")  # fmt: skip
    rows = device.effective_matrix(slice(1, None, 2))
    _expect(rows is not None and np.array_equal(rows, matrix[1::2]), "effective_matrix(rows) must be those rows")
    product = trial.vectors.astype(np.float64) @ matrix.T.astype(np.float64)
    _expect(_near(trial, product, trial.one), "fields must be the product with effective_matrix, up to the noise")


def _near(trial: Trial, fields: npt.NDArray[Any], expected: Fields) -> bool:
    """Equal to float32 for an exact device; for any other, off by noise and bending only."""
    wrong = float(np.square(np.asarray(fields, np.float64) - expected).mean())
    if trial.device.info.exact:
        return wrong <= 1e-10 * trial.signal
    slack = 1 + SIGMAS * math.sqrt(2 / expected.size)
    return wrong <= 2 * trial.noise * slack + BENDING**2 * trial.signal


_CHECKS: tuple[Callable[[Trial], None], ...] = (
    _info_and_types,
    _zero_vectors,
    _unit_gain,
    _superposition,
    _bad_vectors,
    _batches,
    _usage,
    _state,
    _matrix,
)
