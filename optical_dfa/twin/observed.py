"""Frames that a bench was shown and the images that it answered with: what a twin is fitted to and tested on."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.devices import Recording, RecordingError
from optical_dfa.emulator import BenchInfo
from optical_dfa.run_errors import InputError

Floats = npt.NDArray[np.float64]
Exchange = tuple[Mapping[str, Any], Mapping[str, npt.NDArray[Any]]]


@dataclass(frozen=True)
class Source:
    """What the frames were shown on."""

    device: str
    """Name of the device."""
    fingerprint: str
    settings: Mapping[str, Any]
    """Options of the device, JSON values."""
    exposure_us: float
    reference_e: float
    """Exposure time and level of the reference arm to which the bench was configured."""
    frame_time_us: float


@dataclass(frozen=True)
class Observed:
    """F frames and their images, of P pixels."""

    info: BenchInfo
    source: Source
    patterns: npt.NDArray[np.uint8]
    """(F, inputs), 0 or 1."""
    phases: Floats
    """(F,) nominal phase of the reference arm, radians."""
    reference: npt.NDArray[np.bool_]
    """(F,) whether the reference arm was open."""
    time_s: Floats
    """(F,) when each frame was shown."""
    stream: npt.NDArray[np.uint64]
    """(F,) which sequence of frames it belongs to: an emulated bench has a phase of its own in each."""
    images: npt.NDArray[Any]
    """(F, P) digital numbers."""
    watching: npt.NDArray[np.bool_]
    """(F,) frames that only tell how the medium changes, long after the others."""

    def __len__(self) -> int:
        return len(self.patterns)

    def frames(self, chosen: npt.NDArray[Any] | slice) -> "Observed":
        """Some of the frames."""
        arrays = ("patterns", "phases", "reference", "time_s", "stream", "images", "watching")
        return replace(self, **{name: getattr(self, name)[chosen] for name in arrays})

    @property
    def lit(self) -> npt.NDArray[np.bool_]:
        """(F,) whether any feature is ON."""
        return np.asarray(self.patterns.any(axis=1))

    @property
    def same(self) -> npt.NDArray[np.int64]:
        """(F,) number of what is shown: equal for frames of equal pattern, phase and reference arm."""
        turns = np.round(np.mod(self.phases, 2 * np.pi), 6)
        key = np.concatenate([self.patterns, turns[:, None], self.reference[:, None]], axis=1)
        return np.unique(key, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def read_recording(path: str | Path) -> Observed:
    """The frames of a recording of the device `record`.

    Raises:
        InputError: it cannot be read, holds no frames, or frames of more than one exposure.
    """
    try:
        recording = Recording(path)
    except RecordingError as error:
        raise InputError(str(error)) from None
    try:
        header = recording.header
        if header["bench"] is None:
            raise InputError(
                f"{path}: a recording of vectors, not of frames: record a device that shows frames (fidelity: frames)"
            )
        values = dict(header["bench"])
        frame_time_us = float(values.pop("frame_time_us"))
        pairs: dict[str, Any] = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        info = BenchInfo(**{**values, **pairs})
        configured = {json.dumps([meta["exposure_us"], meta["reference_e"]]) for meta in recording.requests
                      if meta["kind"] == "configure"}  # fmt: skip
        if len(configured) > 1:
            raise InputError(f"{path}: the exposure was changed meanwhile: record frames of one exposure")
        spec = header["device"]
        exposure_us, reference_e = json.loads(configured.pop()) if configured else _photometry(spec)
        source = Source(spec["name"], header["fingerprint"], spec, exposure_us, reference_e, frame_time_us)
        numbers = (n for n, meta in enumerate(recording.requests) if meta["kind"] == "expose" and "error" not in meta)
        return observed(
            info, header["info"]["n_inputs"], source, ((recording.requests[n], recording.arrays(n)) for n in numbers)
        )
    except RecordingError as error:
        raise InputError(str(error)) from None
    finally:
        recording.close()


def observed(
    info: BenchInfo, n_inputs: int, source: Source, exchanges: Iterable[Exchange], watching: int = 0
) -> Observed:
    """Frames of exchanges with a bench, in the form in which `RecordingBench` gives them.

    Args:
        info: of the bench.
        n_inputs: elements of a frame that the device uses; the others stay OFF.
        source: what they were shown on.
        exchanges: metadata and arrays of each request.
        watching: so many of the last requests only watch the medium.

    Raises:
        InputError: there are none.
    """
    parts: list[tuple[Any, ...]] = []
    follows = 0
    for meta, arrays in exchanges:
        count = int(meta["frames"])
        stream, first, time_s = meta["at"] or (0, follows, None)
        follows = follows if meta["at"] else follows + count
        frame_time_s = source.frame_time_us * 1e-6
        begins = first * frame_time_s if time_s is None else time_s
        parts.append(
            (
                np.unpackbits(arrays["frames"], axis=1, count=info.n_frame_inputs)[:, :n_inputs],
                np.asarray(arrays.get("phases", np.zeros(count)), np.float64),
                np.full(count, bool(meta["reference"])),
                begins + frame_time_s * np.arange(count),
                np.full(count, stream, np.uint64),
                np.asarray(arrays["images"]).reshape(count, -1),
            )
        )
    if not parts:
        raise InputError("no frame was recorded: show some first")
    late = [np.full(len(part[0]), number >= len(parts) - watching) for number, part in enumerate(parts)]
    columns = (np.concatenate(column) for column in (*zip(*parts, strict=True), late))
    return Observed(info, source, *columns)


def _photometry(spec: Mapping[str, Any]) -> tuple[float, float]:
    """Exposure and reference level of a device that was never configured: those that it was made with."""
    from optical_dfa.devices import EmulatedDevice, make_device

    device = make_device(**spec)
    light = device.preset.bench.photometry if isinstance(device, EmulatedDevice) else None
    return (400.0, 1500.0) if light is None else (light.exposure_us, light.reference_e)
