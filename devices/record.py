"""The device that records another one: its frames, or its vectors where it shows none."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.base import Fields, Usage, Vectors
from optical_dfa.devices.bench_wrapper import BenchWrapper
from optical_dfa.devices.errors import DeviceError, DeviceUnavailable, InvalidConfig
from optical_dfa.devices.faults import Fault
from optical_dfa.devices.readouts.base import Bench
from optical_dfa.devices.recording import RecordingError, RecordingWriter
from optical_dfa.devices.wrapped import Spec, WrappedDevice, inner_device, split_spec
from optical_dfa.emulator import FrameStamp
from optical_dfa.emulator.arrays import on_host

Append = Callable[[Mapping[str, Any], Mapping[str, npt.NDArray[Any]]], None]


class RecordingBench(BenchWrapper):
    """A bench that hands on every exchange of frames, faults included.

    Args:
        bench: emulated or real.
        append: takes metadata and arrays of an exchange.
    """

    def __init__(self, bench: Bench, append: Append) -> None:
        super().__init__(bench)
        self._append = append

    def configure(self, *, exposure_us: float, reference_e: float) -> None:
        """As of the bench."""
        super().configure(exposure_us=exposure_us, reference_e=reference_e)
        self._append({"kind": "configure", "exposure_us": exposure_us, "reference_e": reference_e}, {})

    def expose(
        self,
        frames: npt.NDArray[np.uint8],
        *,
        phases: npt.NDArray[np.floating] | None = None,
        reference: bool = True,
        at: FrameStamp | None = None,
    ) -> npt.NDArray[Any]:
        """As of the bench."""
        meta: dict[str, Any] = {
            "kind": "expose",
            "at": None if at is None else [at.stream, at.first_frame, at.time_s],
            "frames": len(frames),
            "reference": reference,
        }
        arrays = {"frames": np.packbits(on_host(frames), axis=1)}
        if phases is not None:
            arrays["phases"] = np.asarray(phases)
        try:
            images = super().expose(frames, phases=phases, reference=reference, at=at)
        except DeviceError as error:
            self._append({**meta, "error": [type(error).__name__, str(error)]}, arrays)
            raise
        self._append(meta, {**arrays, "images": np.asarray(on_host(images))})
        return images


class RecordDevice(WrappedDevice):
    """Another device, with all that it is asked and answers recorded to a file for the device `replay`.

    Of a device that shows frames every exchange with its bench is recorded, calibration included; of any other, vectors
    and fields. A file that exists is gone on with, if it is of the same device: a resumed run goes on recording.

    Args:
        path: file to write.
        device: name of the device, or a mapping of its `name` and options, which must be plain values.
        n_inputs, n_outputs: sizes of the device.
    """

    def __init__(
        self, *, path: str | Path, device: Spec, n_inputs: int | None = None, n_outputs: int | None = None
    ) -> None:
        super().__init__(inner_device(device, n_inputs, n_outputs))
        self._path = Path(path)
        self._writer: RecordingWriter | None = None
        self._bench: Bench | None = None
        name, options = split_spec(device)
        options = {**options, "n_inputs": self.info.n_inputs, "n_outputs": self.info.n_outputs}
        if name == "bench":
            del options["bench"]  # the replay has its own
        try:
            self._spec = json.loads(json.dumps({"name": name, **options}, default=_as_text))
        except TypeError as error:
            message = f"options of a recorded device must be plain values ({error}): name the preset, or give numbers"
            raise InvalidConfig(f"device: {message}", [Fault(("device",), message)]) from None
        self._frames = self.inner.wrap_bench(self._record_bench)
        self.settings = {**self.inner.settings, "recorded_to": str(path)}

    def spec(self) -> dict[str, Any]:
        """See `WrappedDevice`."""
        return {"name": "record", "path": str(self._path), "device": self.inner.spec()}

    def _record_bench(self, bench: Bench) -> Bench:
        self._bench = bench
        return RecordingBench(bench, self._append)

    def _append(self, meta: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        if self._writer is None:  # not in `_open`: only now is it known what bench it is
            try:
                self._writer = RecordingWriter(self._path, self._header())
            except (RecordingError, OSError) as error:
                raise DeviceUnavailable(f"cannot record: {error}") from None
        self._writer.append(meta, arrays)

    def _header(self) -> dict[str, Any]:
        bench = None
        if self._frames:
            assert self._bench is not None  # it was asked for an image
            bench = {**asdict(self._bench.info), "frame_time_us": self._bench.frame_time_us}
        info = {**asdict(self.info), "matrix": None}
        return {"device": self._spec, "fingerprint": self.fingerprint, "matrix_identity": dict(self.matrix_identity),
                "info": info, "bench": bench}  # fmt: skip

    def _open(self) -> None:
        try:
            super()._open()
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        super()._close()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        if self._frames:
            return super()._project(vectors)
        meta: dict[str, Any] = {"kind": "project", "at": self._position(), "vectors": len(vectors)}
        arrays = {"vectors": np.asarray(on_host(vectors))}
        try:
            fields, usage = super()._project(vectors)
        except DeviceError as error:
            self._append({**meta, "error": [type(error).__name__, str(error)]}, arrays)
            raise
        counts = {"usage": asdict(usage), "after": self._position()}
        self._append({**meta, **counts}, {**arrays, "fields": np.asarray(on_host(fields))})
        return fields, usage


def _as_text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"got a {type(value).__name__}")
