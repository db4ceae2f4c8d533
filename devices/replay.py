"""The device that answers from a recording, and says where it is asked for something else than was recorded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.devices import errors
from optical_dfa.devices.base import DeviceInfo, Fields, ProjectionDevice, Usage, Vectors
from optical_dfa.devices.errors import DeviceFault, InvalidConfig, ReplayMismatch
from optical_dfa.devices.faults import Fault
from optical_dfa.devices.recording import Recording, RecordingError
from optical_dfa.devices.wrapped import WrappedDevice, inner_device
from optical_dfa.emulator import BenchInfo, FrameStamp


class Requests:
    """The requests of a recording, found by what they are: stamp of the first frame, or position of the device.

    The next one of that key is taken, and from the beginning again after the last: a resumed run repeats requests.

    Args:
        recording: the recording; read as it is needed.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._next = 0
        self._by_key: dict[str, list[int]] = {}
        for number, meta in enumerate(recording.requests):
            self._by_key.setdefault(_key(meta["kind"], meta.get("at")), []).append(number)

    def find(self, kind: str, at: Any) -> int:
        """Number of the recorded request, from 0.

        Raises:
            ReplayMismatch: there is none.
        """
        numbers = self._by_key.get(_key(kind, at), [])
        if not numbers:
            raise ReplayMismatch(
                f"{self._recording.path}: no {kind} at {_words(at)} was recorded; {self._expected()}: replay what was "
                "recorded, from the same state"
            )
        number = next((number for number in numbers if number >= self._next), numbers[0])
        self._next = number + 1
        return number

    def answer(self, number: int, asked: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
        """Arrays of a request that must have been the same.

        Args:
            number: of the request.
            asked: what it must have held: arrays and plain values by name.

        Raises:
            ReplayMismatch: which request, and what differs.
            DeviceError: the one that was recorded.
        """
        meta = self._recording.requests[number]
        try:
            arrays = self._recording.arrays(number)
        except RecordingError as error:
            raise DeviceFault(str(error)) from None
        recorded = {**meta, **arrays}
        differences = [text for name, value in asked.items() if (text := _difference(name, value, recorded.get(name)))]
        if differences:
            raise ReplayMismatch(
                f"{self._recording.path}: request {number} ({meta['kind']} at {_words(meta.get('at'))}) was another: "
                f"{'; '.join(differences)}"
            )
        if "error" in meta:
            kind, message = meta["error"]
            raise getattr(errors, kind, DeviceFault)(message)
        return arrays

    def meta(self, number: int) -> dict[str, Any]:
        """Metadata of a request."""
        return self._recording.requests[number]

    def first_position(self) -> dict[str, Any]:
        """Position of the device at the first request."""
        position: dict[str, Any] = self._recording.requests[0]["at"] if self._recording.requests else {}
        return position

    def _expected(self) -> str:
        if self._next >= len(self._recording.requests):
            return f"all {self._next} requests have been replayed"
        meta = self._recording.requests[self._next]
        return f"next is request {self._next}, {meta['kind']} at {_words(meta.get('at'))}"


class ReplayBench:
    """A bench that answers from a recording.

    Args:
        path: the recording.
        header: of it.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        values = dict(header["bench"])
        self.frame_time_us: float = values.pop("frame_time_us")
        pairs: dict[str, Any] = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        self.info = BenchInfo(**{**values, **pairs})
        self._path = path
        self._requests: Requests | None = None

    def load(self, requests: Requests | None) -> None:
        """Answer from these, or from none."""
        self._requests = requests

    def configure(self, *, exposure_us: float, reference_e: float) -> None:
        """Held against the recorded one."""
        self._answer("configure", None, {"exposure_us": exposure_us, "reference_e": reference_e})

    def expose(
        self,
        frames: npt.NDArray[np.uint8],
        *,
        phases: npt.NDArray[np.floating] | None = None,
        reference: bool = True,
        at: FrameStamp | None = None,
    ) -> npt.NDArray[Any]:
        """The recorded images of these frames.

        Raises:
            ReplayMismatch: others were shown.
        """
        stamp = None if at is None else [at.stream, at.first_frame, at.time_s]
        asked = {"reference": reference, "phases": phases, "frames": np.asarray(frames)}
        return self._answer("expose", stamp, asked)["images"]

    def _answer(self, kind: str, at: Any, asked: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
        if self._requests is None:
            raise ReplayMismatch(f"{self._path}: a {kind} was asked for before the device was opened")
        return self._requests.answer(self._requests.find(kind, at), asked)


class ReplayedVectors(ProjectionDevice):
    """The fields of a recording of vectors.

    Args:
        header: of the recording.
    """

    def __init__(self, header: Mapping[str, Any]) -> None:
        super().__init__()
        self.info = DeviceInfo(**{**header["info"], "accepts_cupy": False})
        self.matrix_identity = header["matrix_identity"]
        self.settings = header["device"]
        self._at: dict[str, Any] = {}
        self._requests: Requests | None = None

    def load(self, requests: Requests | None) -> None:
        """Answer from these, or from none."""
        if requests is not None and self._requests is None and not self._at:
            self._at = requests.first_position()
        self._requests = requests

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        assert self._requests is not None  # it is open
        number = self._requests.find("project", self._at)
        arrays = self._requests.answer(number, {"vectors": np.asarray(vectors)})
        meta = self._requests.meta(number)
        self._at = meta["after"]
        return arrays["fields"], Usage(**meta["usage"])

    def _position(self) -> dict[str, Any]:
        return self._at

    def _restore_position(self, position: Mapping[str, Any]) -> None:
        self._at = dict(position)


class ReplayDevice(WrappedDevice):
    """A recorded device: answers from the file of the device `record`, and refuses what was not asked then.

    Recorded frames are read by the device that read them then, with their bench replaced by the file; recorded vectors
    give their fields. Requests are found by the frame they begin with, so a resumed run may repeat them, and faults are
    replayed too. Making the device reads what was recorded, not the arrays.

    Args:
        path: the recording.
        n_inputs, n_outputs: must be those of the recording; None: those.
    """

    def __init__(self, *, path: str | Path, n_inputs: int | None = None, n_outputs: int | None = None) -> None:
        self._path = Path(path)
        try:
            recording = Recording(self._path)
        except RecordingError as error:
            raise _refused("path", str(error)) from None
        recording.close()
        header = recording.header
        for name, given in (("n_inputs", n_inputs), ("n_outputs", n_outputs)):
            recorded = header["info"][name]
            if given not in (None, recorded):
                raise _refused(name, f"must be {recorded:,}, as recorded in {path}; got {given!r}")
        self._source: ReplayBench | ReplayedVectors
        if header["bench"] is None:
            self._source = ReplayedVectors(header)
            super().__init__(self._source)
        else:
            self._source = ReplayBench(self._path, header)
            super().__init__(_reading(self._source, header["device"]))
        if self.fingerprint != header["fingerprint"]:
            raise _refused("path", f"{path}: recorded by another version of its device: record anew")
        self.settings = {**self.inner.settings, "replayed_from": str(path)}
        self._recording: Recording | None = None

    def spec(self) -> dict[str, Any]:
        """See `WrappedDevice`."""
        return {"name": "replay", "path": str(self._path)}

    def _open(self) -> None:
        self._recording = Recording(self._path)
        self._source.load(Requests(self._recording))
        try:
            super()._open()
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        super()._close()
        self._source.load(None)
        if self._recording is not None:
            self._recording.close()


def _reading(bench: ReplayBench, spec: Mapping[str, Any]) -> ProjectionDevice:
    """The device that reads recorded frames."""
    if spec["name"] != "bench":
        device = inner_device(spec, None, None)
        device.wrap_bench(lambda _: bench)
        return device
    options = {**spec, "bench": bench}
    if options.get("integrity") == "counters":  # what was recorded had passed them
        options["integrity"] = "none"
    return inner_device(options, None, None)


def _refused(name: str, message: str) -> InvalidConfig:
    return InvalidConfig(f"device 'replay' cannot be made: {name}: {message}", [Fault((name,), message)])


def _key(kind: str, at: Any) -> str:
    return json.dumps([kind, at], sort_keys=True)


def _words(at: Any) -> str:
    if isinstance(at, Mapping):
        return f"position {json.dumps(at)}" if at else "no position"
    if at is None:
        return "no stamp"
    return f"stream {at[0]}, frame {at[1]}" + ("" if at[2] is None else f", {at[2]:g} s")


def _difference(name: str, asked: Any, then: Any) -> str:
    """What differs between what is asked and what was recorded; nothing, if nothing does."""
    if not (isinstance(asked, np.ndarray) and isinstance(then, np.ndarray)):
        same = asked is None and then is None if asked is None or then is None else asked == then
        return "" if same else f"{name} {_given(asked)}, recorded {_given(then)}"
    if name == "frames" and len(asked) == len(then):
        then = np.unpackbits(then, axis=1, count=asked.shape[1])
    if asked.shape != then.shape:
        return f"{name} of shape {asked.shape}, recorded {then.shape}"
    if not asked.size:
        return ""
    unlike = (asked != then).reshape(len(asked), -1)
    rows = np.flatnonzero(unlike.any(axis=1))
    if not len(rows):
        return ""
    places = np.flatnonzero(unlike[rows[0]])
    shown = ", ".join(map(str, places[:5])) + (" …" if len(places) > 5 else "")
    return f"{name} differ in {len(rows)} of {len(asked)}, first in number {rows[0]} at {shown}"


def _given(value: Any) -> str:
    return "none" if value is None else "an array" if isinstance(value, np.ndarray) else repr(value)
