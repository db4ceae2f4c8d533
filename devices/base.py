"""The contract of a projection device: it multiplies ternary vectors by one fixed random matrix."""

import abc
import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.arrays import all_finite, entries_beyond_one, gpu_of, on_current_stream
from optical_dfa.devices.errors import DeviceClosed, FingerprintMismatch, InvalidVectors
from optical_dfa.devices.readouts.base import Bench
from optical_dfa.emulator import MatrixPlan
from optical_dfa.emulator.arrays import is_cupy

Vectors = npt.NDArray[np.int8] | npt.NDArray[np.float32]
Fields = npt.NDArray[np.float32]


FEW = 1 << 12
"""Entries of vectors that are checked faster as bytes than by two reductions, whose code no cache holds in a step."""


@dataclass(frozen=True)
class DeviceInfo:
    """What a device is. Constant while the device lives."""

    name: str
    """As registered: `digital`, `emulator` …"""
    n_inputs: int
    n_outputs: int
    linear: bool
    """`project` is linear in the vectors, up to noise. Training needs it."""
    exact: bool
    """`project` is the exact product, bit for bit."""
    accepts_real: bool
    """`project` also takes float32 vectors."""
    backend: str
    """What computes: `numpy` …, or the make of the hardware."""
    frames_per_vector: int
    """Most frames displayed for one ternary vector; 0 where nothing is displayed."""
    n_pixels: int
    """Camera pixels read; 0 without a camera."""
    outputs_per_mode: int
    """Outputs read from one speckle mode: 2 (both quadratures) or 1."""
    output_map: str
    """Which product an output is: `rows` = output o is row o of T."""
    matrix: MatrixPlan | None
    """How T is held; None where light does the product."""
    camera_backend: str = ""
    """What computes the camera's images: `numpy`, `numba`, `cupy`; empty without an emulated camera."""
    probe_frames: float = 0.0
    """Frames of a probe for each vector displayed, on average."""
    mark_frames: float = 0.0
    """Frames of marks, which find dropped frames, for each other frame, on average; each call has some more."""
    accepts_cupy: bool = False
    """`project` also takes CuPy arrays, on the GPU that it computes on, and then returns CuPy arrays."""

    def frames(self, vectors: float, dark_fraction: float = 0.0) -> float:
        """Frames that so many vectors take on average, probes and marks included; see `expected_frames`."""
        each = (self.frames_per_vector, self.probe_frames, self.mark_frames)
        return expected_frames(*each, vectors, dark_fraction)


def expected_frames(
    frames_per_vector: int, probe_frames: float, mark_frames: float, vectors: float, dark_fraction: float = 0.0
) -> float:
    """Frames that so many vectors take on average, none of them zero.

    Args:
        frames_per_vector: as in `DeviceInfo`, as the next two.
        probe_frames: for each vector.
        mark_frames: for each other frame.
        vectors: how many.
        dark_fraction: fraction of the sides (+ and -) of the vectors that have no feature ON, 0 … 1; their frames are
            skipped.

    Raises:
        ValueError: `dark_fraction` is out of range.
    """
    if not 0 <= dark_fraction <= 1:
        raise ValueError(f"dark_fraction must be from 0 to 1; got {dark_fraction!r}")
    return vectors * (frames_per_vector * (1 - dark_fraction) + probe_frames) * (1 + mark_frames)


@dataclass
class Usage:
    """What a device has done since it was made, for the work that succeeded."""

    vectors: int = 0
    """Vectors projected."""
    frames: int = 0
    """Frames displayed, those of calibration, probes and marks too."""
    frames_skipped: int = 0
    """Frames not displayed because no feature of theirs was ON."""
    saturated_pixels: int = 0
    """Pixel readings at saturation."""
    pixel_readings: int = 0
    """Pixel readings in all."""
    wall_seconds: float = 0.0
    """Time spent in `project` on this machine, seconds. Of CuPy arrays: to enqueue the work, not to do it."""
    device_seconds: float = 0.0
    """Time the modelled machine would need for the frames, seconds."""
    device_joules: float = 0.0
    """Energy the modelled machine would use in that time, joules."""
    faults: int = 0
    """Faults that a policy dealt with (`on_fault`), those of requests that failed in the end included."""
    twin_vectors: int = 0
    """Vectors projected by the twin that stood in for the device."""

    def add(self, other: "Usage") -> None:
        """Add the counts of `other` to these."""
        for name, count in vars(other).items():
            if count:
                setattr(self, name, getattr(self, name) + count)

    def __str__(self) -> str:
        parts = [f"{self.vectors:,} vectors", f"{self.frames:,} frames"]
        if self.frames_skipped:
            parts.append(f"{self.frames_skipped:,} dark frames skipped")
        if self.pixel_readings:
            parts.append(f"{self.saturated_pixels / self.pixel_readings:.2%} of pixels saturated")
        if self.faults:
            parts.append(f"{self.faults:,} faults")
        if self.twin_vectors:
            parts.append(f"{self.twin_vectors:,} vectors by the twin")
        parts.append(f"{self.wall_seconds:.1f} s here")
        if self.frames:
            parts.append(f"{self.device_seconds:.1f} s and {self.device_joules:.0f} J on the modelled machine")
        return ", ".join(parts)


class ProjectionDevice(abc.ABC):
    """Multiplies ternary vectors by one fixed random matrix.

    Construction does no input or output; `open` does, `close` undoes it, both may be repeated, and a device is a
    context manager. `project` may be called from any thread: calls are served one at a time.

    A subclass sets `info` and `matrix_identity` in its constructor and defines `_project`; it may define `_open`,
    `_close`, `_position` and `_restore_position`.
    """

    info: DeviceInfo
    matrix_identity: Mapping[str, Any]
    """What tells this matrix from any other, as JSON values: version and seed, or the serial number of a medium. Empty
    until `open`, where only the open device knows."""

    settings: Mapping[str, Any]
    """Every option it was made with but its size, defaults included, as JSON values: for logs."""

    gpu: int | None = None
    """Number of the CUDA device that it computes on; None for a device that takes no CuPy arrays."""

    measured_fingerprint: str = ""
    """Of the device that its matrix was measured on, for which it can stand in; empty: none, or unknown."""

    def __init__(self) -> None:
        self.settings = {}
        self.usage = Usage()
        self._lock = threading.RLock()
        self._is_open = False
        self._line = threading.Lock()
        """Guards the two below; never held while the device works."""
        self._worker: ThreadPoolExecutor | None = None
        self._last: Future[Fields] | None = None
        """The latest of the submitted requests that are not served yet."""

    def open(self) -> Self:
        """Take hold of the device. Harmless on an open one."""
        with self._lock:
            if not self._is_open:
                self._open()
                self._is_open = True
        return self

    def close(self) -> None:
        """Finish submitted work and let go of the device. Harmless on a closed one."""
        with self._line:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.shutdown(wait=True)
        with self._lock:
            if self._is_open:
                self._is_open = False
                self._close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def project(self, vectors: Vectors) -> Fields:
        """Project vectors: each output is a fixed random combination of the inputs, with unit gain, E[field²] = |x|².

        Served behind what was submitted before.

        Args:
            vectors: int8 (batch, n_inputs), every entry -1, 0 or 1. Devices with `info.accepts_real` also take finite
                float32 (batch, n_inputs). Devices with `info.accepts_cupy` also take CuPy arrays of these kinds;
                checking their values waits for CuPy's current stream, for one number, and nothing else does.

        Returns:
            float32 (batch, n_outputs), a new array, of which the device keeps nothing. For ternary vectors, row b
            depends on vector b and on what was displayed before it, not on how the vectors were split into calls. For
            CuPy vectors a CuPy array, in the order of CuPy's current stream.

        Raises:
            InvalidVectors: nothing was displayed.
            DeviceClosed: the device is not open.
            DeviceError: the device failed; nothing is counted, and the same call can be repeated.
        """
        self._check(vectors)
        last = self._last
        if last is not None:
            wait([last])
        return self._serve(vectors)

    def submit(self, vectors: Vectors, *, after: "Future[Fields] | None" = None) -> "Future[Fields]":
        """`project` without waiting. Requests are served in the order of submission; bad vectors raise at once.

        CuPy vectors are served on the stream that is current here, and so is their result.

        Args:
            vectors: as for `project`.
            after: an earlier request to this device. If that failed, this one is not displayed and fails with the same
                error: what depends on where the device stands is not displayed from the wrong place.
        """
        self._check(vectors)
        serve = on_current_stream(self._serve_after, vectors) if is_cupy(vectors) else self._serve_after
        with self._line:
            if not self._is_open:
                raise self._closed()
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, thread_name_prefix=f"optical-dfa-{self.info.name}")
            # a copy, since the caller may go on with the array
            self._last = request = self._worker.submit(serve, vectors.copy(), after)
        request.add_done_callback(self._leave_line)
        return request

    def _closed(self) -> DeviceClosed:
        return DeviceClosed(f"device {self.info.name!r} is closed: call its open() or use it in a with block")

    def _serve(self, vectors: Vectors) -> Fields:
        with self._lock:
            if not self._is_open:
                raise self._closed()
            start = time.perf_counter()
            fields, usage = self._project(vectors)
            usage.vectors += len(vectors)
            usage.wall_seconds += time.perf_counter() - start
            self.usage.add(usage)
        return fields

    def _serve_after(self, vectors: Vectors, after: "Future[Fields] | None") -> Fields:
        error = None if after is None else after.exception()  # there is one: it stood before this one in the line
        if error is not None:
            raise error
        return self._serve(vectors)

    def _leave_line(self, request: "Future[Fields]") -> None:
        with self._line:
            if self._last is request:
                self._last = None

    def spec(self) -> dict[str, Any]:
        """Name, sizes and options with which `open_device` makes this device again; its position is in `state_dict`."""
        sizes = {"n_inputs": self.info.n_inputs, "n_outputs": self.info.n_outputs}
        return {"name": self.info.name, **sizes, **self.settings}

    @property
    def fingerprint(self) -> str:
        """Identity of matrix, geometry and output map, 16 hexadecimal digits.

        Equal for devices that compute the same product, whatever their noise, exposure or calibration: a run may move
        from one to the other.

        Raises:
            DeviceClosed: only the open device knows.
        """
        if not self.matrix_identity:
            raise DeviceClosed(f"which matrix device {self.info.name!r} has is known once it is open: call its open()")
        identity = {
            "matrix": dict(self.matrix_identity),
            "n_inputs": self.info.n_inputs,
            "n_outputs": self.info.n_outputs,
            "output_map": self.info.output_map,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    def effective_matrix(self, rows: slice = slice(None)) -> Fields | None:
        """Rows of the matrix that the device multiplies by, unit gain, float32 (rows, n_inputs); None where unknown."""
        return None

    def wrap_bench(self, wrap: Callable[[Bench], Bench]) -> bool:
        """Put something between the readout and its bench: a recorder, a fault. What is calibrated stays.

        Args:
            wrap: gets the bench, returns what the readout sees in its place.

        Returns:
            False for a device that shows no frames: nothing was wrapped.
        """
        return False

    def calibration(self) -> dict[str, npt.NDArray[Any]]:
        """What brings the outputs to unit gain, as plain arrays by name; empty where nothing is calibrated."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Fingerprint and position of the device (stream, frame counter …), plain values only."""
        with self._lock:
            return {"fingerprint": self.fingerprint, "device": self._kind(), "position": self._position()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was saved.

        A state saved by another kind of device with the same fingerprint is accepted; it says nothing about the
        position of this one, which stays as it is.

        Raises:
            FingerprintMismatch: the state belongs to another matrix, geometry or output map. Nothing was changed.
        """
        if state.get("fingerprint") != self.fingerprint:
            raise FingerprintMismatch(
                f"the saved state belongs to device {state.get('fingerprint')!r}, this device "
                f"({self.info.name}, {self.info.n_inputs} inputs, {self.info.n_outputs} outputs) is "
                f"{self.fingerprint!r}: open the device with the matrix seed and size of the saved run"
            )
        if state["device"] == self._kind():
            with self._lock:
                self._restore_position(state["position"])

    @abc.abstractmethod
    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        """Fields of checked vectors, and what displaying them took. Changes no state if it raises."""

    def _open(self) -> None:  # noqa: B027  # most devices hold nothing
        pass

    def _close(self) -> None:  # noqa: B027
        pass

    def _kind(self) -> str:
        """Name of the device whose position this is; that of another one is not taken over."""
        return self.info.name

    def _position(self) -> dict[str, Any]:
        return {}

    def _restore_position(self, position: Mapping[str, Any]) -> None:  # noqa: B027
        pass

    def _check(self, vectors: Vectors) -> None:
        if self._are_ternary(vectors):
            return  # before there are any words, which cost more than a small product
        accepted = f"int8 (batch, {self.info.n_inputs}) with entries -1, 0, 1"
        if self.info.accepts_real:
            accepted += f", or finite float32 (batch, {self.info.n_inputs})"
        on_gpu = is_cupy(vectors)
        if on_gpu and not self.info.accepts_cupy:
            raise InvalidVectors(
                f"device {self.info.name!r} with backend {self.info.backend!r} takes NumPy arrays, {accepted}; got a "
                "CuPy array: give it vectors.get(), or open a device whose info.accepts_cupy is true (digital, or "
                "emulator with a converter, on backend 'cupy')"
            )
        if not isinstance(vectors, np.ndarray) and not on_gpu:
            raise InvalidVectors(
                f"device {self.info.name!r} takes {'NumPy or CuPy' if self.info.accepts_cupy else 'NumPy'} arrays, "
                f"{accepted}; got {type(vectors).__name__}"
            )
        if on_gpu and (gpu := gpu_of(vectors)) != self.gpu:
            raise InvalidVectors(
                f"device {self.info.name!r} takes {accepted} on GPU {self.gpu}, where it computes; got a CuPy array on "
                f"GPU {gpu}: copy it, or make the device inside `with cupy.cuda.Device({gpu}):`"
            )
        given = f"{vectors.dtype} {vectors.shape}"
        if vectors.ndim != 2 or vectors.shape[1] != self.info.n_inputs:
            raise InvalidVectors(f"device {self.info.name!r} takes {accepted}; got {given}")
        if vectors.dtype == np.float32 and self.info.accepts_real:
            if not (all_finite(vectors) if on_gpu else np.isfinite(vectors).all()):
                raise InvalidVectors(f"device {self.info.name!r} takes {accepted}; got {given} with NaN or infinity")
            return
        if vectors.dtype != np.int8:
            advice = (
                "encode real vectors first (optical_dfa.Ternarize)" if vectors.dtype.kind == "f" else "convert them"
            )
            raise InvalidVectors(f"device {self.info.name!r} takes {accepted}; got {given}: {advice}")
        if on_gpu and not entries_beyond_one(vectors):
            return
        if vectors.size and (int(vectors.min()) < -1 or int(vectors.max()) > 1):
            raise InvalidVectors(
                f"device {self.info.name!r} takes {accepted}; got entries from {vectors.min()} to {vectors.max()}: "
                "scale or ternarise them first"
            )

    def _are_ternary(self, vectors: Vectors) -> bool:
        """Whether they are NumPy vectors that every device takes."""
        if not isinstance(vectors, np.ndarray) or vectors.dtype != np.int8:
            return False
        if vectors.ndim != 2 or vectors.shape[1] != self.info.n_inputs:
            return False
        if vectors.size <= FEW:
            return not vectors.tobytes().translate(None, b"\xff\x00\x01")  # what is left are other entries
        return bool(vectors.min() >= -1 and vectors.max() <= 1)
