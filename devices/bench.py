"""The device of a bench of one's own: DMD, medium and camera, real or simulated."""

import importlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.base import DeviceInfo, Fields, ProjectionDevice, Usage, Vectors
from optical_dfa.devices.bench_checks import MEMBERS, CheckedBench, CountedBench
from optical_dfa.devices.calibration import GAIN, Arrays, CalibrationFileError, read_calibration
from optical_dfa.devices.emulated import CALIBRATION_STREAM, SATURATED_FRACTION
from optical_dfa.devices.errors import DeviceFault, DeviceUnavailable, InvalidConfig, SaturationWarning
from optical_dfa.devices.faults import Fault
from optical_dfa.devices.presets import SUFFIXES
from optical_dfa.devices.probes import lit_vectors
from optical_dfa.devices.readouts.base import Bench, Reading
from optical_dfa.devices.readouts.settings import AnchoredSettings, PhaseSteppingSettings, readout_settings
from optical_dfa.devices.readouts.tracking import PhaseTracker, Track
from optical_dfa.devices.stream import own_stream
from optical_dfa.devices.sync import SyncedBench
from optical_dfa.devices.twin_bench import twin_bench
from optical_dfa.emulator import FrameStamp
from optical_dfa.emulator.checks import require

Integrity = Literal["marks", "counters", "none"]
BenchSource = Bench | Callable[[], Bench] | str

CHUNK_BYTES = 1 << 25
"""Frames and images held at once; larger batches are displayed in parts."""

GAIN_LIT = 8
"""Most inputs lit by a vector of the gain calibration: about what a ternarised error lights."""

MARKS_EVERY = 64
"""Frames from mark to mark, unless the readout says otherwise."""

DEAD = 0.01
"""An output of less than this part of the median power is dead: it is set to 0, not amplified."""


class BenchDevice(ProjectionDevice):
    """A bench of your own, real or simulated: a DMD, a medium and a camera behind the methods of `Bench`.

    A ternary vector is shown as two binary patterns, + and -, and read as the emulator is read, by the same code.
    When the device is first opened it takes the maps of the readout, then shows `gain_vectors` random vectors twice
    and brings every output to unit gain: the mean product of the two showings is the power without the noise.

    Args:
        n_inputs: length of the vectors; elements of a frame behind them stay OFF.
        n_outputs: the first so many outputs of the readout.
        bench: a bench, which stays yours; or a function without arguments that makes one, as an object or as text,
            `package.module:function`. `open` calls it; `close` calls `close` of what it made, if there is one. The
            preset file of a digital twin (`.yaml`) is the twin's bench.
        readout: how images become outputs, for instance `{"steps": 3}` or `{"kind": "anchored"}`.
        medium: what the light passes, a serial number or a date of alignment: a run is not resumed on another.
        exposure_us, reference_e: what the bench is configured to: microseconds, and electrons of the reference arm per
            pixel and exposure.
        average: times each pattern is shown; its readings are averaged.
        integrity: how lost frames are found out: `marks`, known frames between the others (`SyncedBench`); `counters`
            of the camera, for a bench with `frame_counters`; or `none`.
        gain_vectors: vectors of the gain calibration; an output is then off by 1/√(2 · gain_vectors), fixed.
        calibration: file of `optical-dfa device check` to use in place of calibrating.
        skip_dark_side: do not show the empty side of a vector without +1 or -1. Saves frames where OFF mirrors leak
            nothing: what is always there cancels between the sides.
        stream: which sequence of frames, of a simulated bench; None: the rank of this process, else 0.

    Raises:
        ValueError: a bench that the readout cannot read, or that is too small.
    """

    def __init__(
        self,
        *,
        n_inputs: int,
        n_outputs: int,
        bench: BenchSource,
        readout: Mapping[str, Any] | None = None,
        medium: str = "unnamed",
        exposure_us: float = 400.0,
        reference_e: float = 1500.0,
        average: int = 1,
        integrity: Integrity = "marks",
        gain_vectors: int = 256,
        calibration: str | Path | None = None,
        skip_dark_side: bool = False,
        stream: int | None = None,
    ) -> None:
        super().__init__()
        for name, number in (("n_inputs", n_inputs), ("n_outputs", n_outputs), ("average", average)):
            require(_whole(number) and number >= 1, name, number, "an int ≥ 1")
        require(_whole(gain_vectors) and gain_vectors >= 1, "gain_vectors", gain_vectors, "an int ≥ 1")
        require(integrity in get_args(Integrity), "integrity", integrity, " or ".join(get_args(Integrity)))
        require(0 < exposure_us < math.inf, "exposure_us", exposure_us, "a finite number > 0, microseconds")
        require(0 < reference_e < math.inf, "reference_e", reference_e, "a finite number > 0, electrons")
        self._reads = reads = readout_settings(readout or {})
        marks = integrity == "marks"
        require(marks or not reads.sync_every, "readout.sync_every", reads.sync_every, "0 unless integrity is marks")
        self._marks_every = (reads.sync_every or MARKS_EVERY) if marks else 0
        self._exposure_us, self._reference_e, self._average = exposure_us, reference_e, average
        self._integrity, self._gain_vectors, self._skip_dark_side = integrity, gain_vectors, skip_dark_side
        self._file = None if calibration is None else Path(calibration)
        self._stream = own_stream(stream)
        self._next_frame = 0
        self._warned = False
        self._gain: npt.NDArray[np.float32] | None = None
        self._maps: Arrays = {}
        self._calibration_frames = 0
        self._wraps: list[Callable[[Bench], Bench]] = []
        self._bench: Bench | None = None
        self.matrix_identity = {"kind": "bench", "medium": medium}
        self.settings = {
            "bench": bench if isinstance(bench, str) else f"{type(bench).__module__}.{type(bench).__qualname__}",
            "readout": asdict(self._reads),
            "medium": medium,
            "exposure_us": exposure_us,
            "reference_e": reference_e,
            "average": average,
            "integrity": integrity,
            "gain_vectors": gain_vectors,
            "calibration": None if calibration is None else str(calibration),
            "skip_dark_side": skip_dark_side,
            "stream": self._stream,
        }
        self._synced: SyncedBench | None = None
        self._tracker: PhaseTracker | None = None
        self._first_track: Track | None = None  # None before calibration, or without a tracker
        self._track: Track | None = None
        anchored = isinstance(reads, AnchoredSettings)
        per_mode = 1 if anchored else 2
        self.info = DeviceInfo(
            name="bench",
            n_inputs=n_inputs,
            n_outputs=n_outputs,
            linear=True,
            exact=False,
            accepts_real=False,
            backend="hardware",
            frames_per_vector=2 * average * _frames_per_pattern(reads),
            probe_frames=_frames_per_pattern(reads) / reads.probe_every if reads.probe_every else 0.0,
            mark_frames=2 / self._marks_every if marks else 0.0,
            n_pixels=-(-n_outputs // per_mode),
            outputs_per_mode=per_mode,
            output_map="bench, anchored" if anchored else "bench",
            matrix=None,
        )
        self._source = bench
        self._make: Callable[[], Bench] | None = _maker(bench)
        if self._make is None:
            self._connect(bench)  # type: ignore[arg-type]

    def spec(self) -> dict[str, Any]:
        """As of any device, with the bench as it was given."""
        return {**super().spec(), "bench": self._source}

    def wrap_bench(self, wrap: Callable[[Bench], Bench]) -> bool:
        """See `ProjectionDevice`."""
        with self._lock:
            self._wraps.append(wrap)
            if self._bench is not None:
                self._connect(self._bench)
                if self._gain is not None:
                    self._readout.load_state_dict(self._maps)
        return True

    def calibration(self) -> Arrays:
        """`gain` (n_outputs,) float32, 0 for dead outputs, and the maps of the readout; empty before `open`."""
        maps = {f"map.{name}": array for name, array in self._maps.items()}
        return {} if self._gain is None else {GAIN: self._gain.copy(), **maps}

    def _connect(self, bench: Bench) -> None:
        """Build what reads the bench; nothing is displayed."""
        missing = [name for name in MEMBERS if not hasattr(bench, name)]
        require(not missing, "bench", type(bench).__name__, f"an object with {', '.join(MEMBERS)}; it lacks {missing}")
        seen: Bench = CheckedBench(CountedBench(bench) if self._integrity == "counters" else bench)
        for wrap in self._wraps:
            seen = wrap(seen)
        synced = SyncedBench(seen, self._marks_every) if self._marks_every else None
        n_inputs, n_outputs = self.info.n_inputs, self.info.n_outputs
        elements = bench.info.n_frame_inputs
        require(n_inputs <= elements, "n_inputs", n_inputs, f"at most {elements:,}, the elements of a frame")
        if not isinstance(self._reads, AnchoredSettings):
            most = self.info.outputs_per_mode * math.prod(bench.info.image_shape)
            require(n_outputs <= most, "n_outputs", n_outputs, f"at most {most:,}, the outputs of an image")
        readout = self._reads.make(synced or seen, n_inputs, n_outputs, self._reference_e, "auto")
        require(
            n_outputs <= readout.n_outputs, "n_outputs", n_outputs, f"at most {readout.n_outputs:,}, of the readout"
        )
        every = self._reads.probe_every
        self._tracker = PhaseTracker(readout, every) if every else None
        self._bench, self._seen, self._synced, self._readout = bench, seen, synced, readout

    def _open(self) -> None:
        if self._make is not None:
            made = self._make()
            try:
                self._connect(made)
            except ValueError as error:
                _close_bench(made)
                raise InvalidConfig(f"the bench cannot be used: {error}", [Fault(("bench",), str(error))]) from None
        assert self._bench is not None
        try:
            self._seen.configure(exposure_us=self._exposure_us, reference_e=self._reference_e)
            if self._gain is not None:
                self._readout.load_state_dict(self._maps)
            elif self._file is not None:
                self._load(self._file)
            else:
                self._calibrate()
            if self._tracker is not None and self._first_track is None:
                self._start_track(self._tracker)
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        if self._make is not None and self._bench is not None:
            bench, self._bench = self._bench, None
            _close_bench(bench)

    def _load(self, path: Path) -> None:
        try:
            arrays, _ = read_calibration(path, self.fingerprint)
        except CalibrationFileError as error:
            raise InvalidConfig(f"calibration: {error}", [Fault(("calibration",), str(error))]) from None
        if GAIN not in arrays:
            message = f"{path}: holds no gain of the outputs: check a device of the kind 'bench'"
            raise InvalidConfig(f"calibration: {message}", [Fault(("calibration",), message)])
        gain = arrays.pop(GAIN).astype(np.float32)
        maps = {name.removeprefix("map."): array for name, array in arrays.items() if name.startswith("map.")}
        self._readout.load_state_dict(maps)
        self._gain, self._maps = gain, maps

    def _start_track(self, tracker: PhaseTracker) -> None:
        """Measure the phase that all later ones are compared with, unless a restored state has one."""
        self._marks_shown()  # of what went before
        self._first_track, frames = tracker.start(FrameStamp(CALIBRATION_STREAM, self._calibration_frames))
        frames += self._marks_shown()
        self.usage.add(Usage(frames=frames, device_seconds=frames * self._frame_time_s()))
        self._track = self._track or self._first_track

    def _calibrate(self) -> None:
        self._marks_shown()  # of a call that failed
        frames = self._readout.calibrate(FrameStamp(CALIBRATION_STREAM, 0)) + self._marks_shown()
        n_inputs, n_outputs = self.info.n_inputs, self.info.n_outputs
        generator = np.random.default_rng([0, n_inputs])
        power, usage = np.zeros(n_outputs), Usage(frames=frames)
        for first in range(0, self._gain_vectors, 16):
            vectors = lit_vectors(generator, min(16, self._gain_vectors - first), n_inputs, GAIN_LIT)
            twice = np.repeat(vectors, 2, axis=0)
            at = FrameStamp(CALIBRATION_STREAM, usage.frames)
            fields = self._show(twice, at, usage)[0].astype(np.float64)
            power += ((fields[0::2] * fields[1::2]) / np.abs(vectors).sum(axis=1, keepdims=True)).sum(axis=0)
        power /= self._gain_vectors
        alive = power > DEAD * np.median(power)
        if not alive.any():
            raise DeviceFault(
                f"no output of the bench follows what is shown, in {self._gain_vectors} vectors shown twice: look at "
                "the light, the alignment of the camera, and the triggers"
            )
        self._gain = np.where(alive, 1 / np.sqrt(np.where(alive, power, 1)), 0).astype(np.float32)
        self._maps = self._readout.state_dict()
        usage.device_seconds = usage.frames * self._frame_time_s()
        self.usage.add(usage)
        self._calibration_frames = usage.frames

    def _frame_time_s(self) -> float:
        assert self._bench is not None  # the device is open
        return self._bench.frame_time_us * 1e-6

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        assert self._gain is not None
        usage = Usage()
        self._marks_shown()  # of a call that failed
        fields, track = self._show(vectors, FrameStamp(self._stream, self._next_frame), usage, self._track)
        fields *= self._gain
        usage.device_seconds = usage.frames * self._frame_time_s()
        self._warn_if_saturated(usage)
        self._next_frame, self._track = self._next_frame + usage.frames, track
        return fields, usage

    def _show(
        self, vectors: npt.NDArray[Any], at: FrameStamp, usage: Usage, track: Track | None = None
    ) -> tuple[Fields, Track | None]:
        """Fields of vectors before gain, the first frame at `at`, and the track behind them; adds to `usage`.

        Without a track the phase is not followed: the gains, products of two neighbours, hardly know of it.
        """
        fields = np.zeros((len(vectors), self.info.n_outputs), np.float32)
        before = usage.frames
        for part in self._parts(len(vectors)):
            sides = np.stack([vectors[part] > 0, vectors[part] < 0], axis=1)
            lit = np.asarray(sides.any(axis=2))
            if not self._skip_dark_side:
                lit = np.repeat(lit.any(axis=1, keepdims=True), 2, axis=1)
            usage.frames_skipped += self._readout.frames_per_pattern * self._average * int(np.count_nonzero(~lit))
            if not lit.any():
                continue
            patterns = np.zeros((int(lit.sum()), self._readout.n_pattern_inputs), np.uint8)
            patterns[:, : self.info.n_inputs] = sides[lit]
            stamp = FrameStamp(at.stream, at.first_frame + usage.frames - before)
            begins = lit.copy()
            begins[:, 1] &= ~lit[:, 0]
            reading, track = self._read(patterns, begins[lit], stamp, track)
            usage.frames += reading.frames + self._marks_shown()
            usage.saturated_pixels += reading.saturated_pixels
            usage.pixel_readings += reading.pixel_readings
            amplitude = reading.amplitude[:, : self.info.n_outputs].reshape(len(patterns), self._average, -1)
            shown = np.zeros((*lit.shape, self.info.n_outputs), np.float32)
            shown[lit] = amplitude.mean(axis=1)
            np.subtract(shown[:, 0], shown[:, 1], out=fields[part])
        return fields, track

    def _read(
        self, patterns: npt.NDArray[np.uint8], begins: npt.NDArray[np.bool_], at: FrameStamp, track: Track | None
    ) -> tuple[Reading, Track | None]:
        """Patterns as often as they are averaged, with probes of the phase if it is followed."""
        repeated = patterns.repeat(self._average, axis=0)
        if self._tracker is None or track is None:
            return self._readout.read(repeated, at), track
        first = np.zeros(len(repeated), np.bool_)
        first[:: self._average] = begins
        return self._tracker.read(repeated, first, at, track)

    def _marks_shown(self) -> int:
        """Frames displayed since the last such question that no readout asked for."""
        return self._synced.frames_added() if self._synced else 0

    def _parts(self, n_vectors: int) -> Iterator[slice]:
        assert self._bench is not None
        elements, pixels = self._bench.info.n_frame_inputs, math.prod(self._bench.info.image_shape)
        size = max(1, CHUNK_BYTES // (self.info.frames_per_vector * (elements + 4 * pixels)))
        return (slice(first, first + size) for first in range(0, n_vectors, size))

    def _warn_if_saturated(self, usage: Usage) -> None:
        if not self._warned and usage.saturated_pixels > SATURATED_FRACTION * usage.pixel_readings:
            self._warned = True
            warnings.warn(
                f"{usage.saturated_pixels / usage.pixel_readings:.1%} of the pixel readings of the bench are "
                "saturated: lower exposure_us or reference_e",
                SaturationWarning,
                stacklevel=5,  # who called project
            )

    def _position(self) -> dict[str, Any]:
        tracked = {} if self._track is None else {"track": self._track.state_dict()}
        return {"stream": self._stream, "frame": self._next_frame, **tracked}

    def _restore_position(self, position: Mapping[str, Any]) -> None:
        self._stream, self._next_frame = int(position["stream"]), int(position["frame"])
        tracked = self._reads.probe_every and "track" in position
        self._track = Track.from_state(position["track"]) if tracked else self._first_track


def _frames_per_pattern(reads: Any) -> int:
    if isinstance(reads, PhaseSteppingSettings):
        return reads.steps
    return 1 + reads.n_anchors if isinstance(reads, AnchoredSettings) else 1


def _maker(source: BenchSource) -> Callable[[], Bench] | None:
    """What makes the bench at `open`; None if it is one."""
    if isinstance(source, str):
        if source.endswith(SUFFIXES):
            return lambda: twin_bench(source)
        module, colon, name = source.partition(":")
        accepted = "a bench, a function, text package.module:function, or the preset file of a digital twin"
        require(bool(module and colon and name), "bench", source, accepted)
        return lambda: _made(source, module, name)
    if callable(source) and not hasattr(source, "expose"):
        return source
    return None


def _made(source: str, module: str, name: str) -> Bench:
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise DeviceUnavailable(f"bench {source!r} cannot be imported ({error}): put it on PYTHONPATH") from error
    bench: Bench = function()
    return bench


def _close_bench(bench: Bench) -> None:
    close = getattr(bench, "close", None)
    if callable(close):
        close()


def _whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)
