"""The emulated optical device: every projection goes through DMD frames, speckle, camera and readout."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.base import DeviceInfo, Fields, ProjectionDevice, Usage, Vectors
from optical_dfa.devices.drawing import draw_tracked
from optical_dfa.devices.errors import SaturationWarning
from optical_dfa.devices.identity import emulated_matrix_identity
from optical_dfa.devices.presets import Preset, load_preset
from optical_dfa.devices.readouts.anchored import Anchored
from optical_dfa.devices.readouts.base import Bench, Reading, Readout
from optical_dfa.devices.readouts.settings import PhaseSteppingSettings
from optical_dfa.devices.readouts.tracking import PhaseTracker, Track
from optical_dfa.devices.stream import own_stream
from optical_dfa.devices.sync import SyncedBench
from optical_dfa.devices.weighting import Weighting
from optical_dfa.emulator import BenchParameters, CupyProduct, EmulatedBench, FrameStamp
from optical_dfa.emulator.arrays import is_cupy
from optical_dfa.emulator.checks import require
from optical_dfa.emulator.cupy_kernels import kernels
from optical_dfa.emulator.matrix import UNIT, VARIANCE, check_geometry
from optical_dfa.emulator.product import Backend
from optical_dfa.emulator.statistical import StatisticalReadout

Fidelity = Literal["frames", "statistical"]

CHUNK_BYTES = 1 << 25
"""Frames, images and amplitudes held at once; larger batches are displayed in parts, to the same result."""

GPU_CHUNK_BYTES = 1 << 30
"""The same on a GPU, which has more of them under way and more to gain from large ones."""

MIN_CHUNK = 32
"""Fewest vectors of a part, whatever they take: T is made anew for each part, at the price of about 30 vectors."""

CALIBRATION_STREAM = (1 << 64) - 1
"""Stream of the frames that calibrate the readout: the same for all ranks, whose outputs must be the same."""

REPEATS = 3
"""A part of a request whose images are not those of its frames is shown again so many times, before it is a fault."""

SATURATED_FRACTION = 0.01
"""Fraction of saturated pixel readings above which the user is warned once: clipping is what spoils SNR first."""


class EmulatedDevice(ProjectionDevice):
    """The emulated optical bench: DMD frames, speckle, camera noise and quantisation, readout.

    A ternary vector is shown as two binary patterns, + and -, each read by phase stepping, in four steps unless another
    `readout` is chosen. A pattern without an ON feature is not displayed, its field is zero; where OFF mirrors leak or
    mirrors are left over it is, beside a lit one, because the difference takes away what is always ON.

    Args:
        n_inputs: length of the vectors, at most the mirrors of the DMD.
        n_outputs: outputs; a speckle mode gives two, and a camera pixel is one unless the grain is larger.
        seed: seed of matrix and noise, 0 … 2^64-1.
        preset: name of a bench preset, path of a file of one's own (`.yaml`), or a `Preset`. With one that names
            measured light, a digital twin, the seed is that of the noise alone, and the first inputs and outputs of
            what was measured are used; its files are read at once.
        stream: which sequence of noise; None: the rank of this process (environment variable RANK), else 0.
        memory_budget_bytes: T is stored (int8) if it fits and storing helps, otherwise made anew for each call. None:
            1 GiB of main memory, or half of the free memory of a GPU.
        backend: what computes the product, to the same integers, and the camera: `numpy`, `numba`, `cupy`, or `auto`,
            the faster ones of the first two that can run here. The noise of one backend differs from that of another by
            at most one digital number in fewer than 1 of 10^4 pixel readings. With `cupy`, frames, images and readout
            stay on the GPU, unless the camera has no converter: that one is NumPy's.
        readout: how images become outputs, values of that section to change, for instance `{"steps": 3}`,
            `{"kind": "off_axis"}`, which tilts the reference arm itself, or `{"kind": "anchored", "n_anchors": 2}`.
            What it calibrates is displayed when the device is first opened. `{"probe_every": 64}` tracks the piston
            phase; `{"sync_every": 64}` finds dropped frames, and noise depends on how vectors were split into calls.
        fidelity: `frames` computes every image. `statistical` computes one exact product for each vector and draws what
            the readout makes of its images from their law: the same mean, variance, clipping and common noise, at a
            fraction of the time (docs/decisions/0006-statistical-fidelity.md). Frames are counted all the same.
        photometry, camera, apparatus, dmd, medium, laser, grain: values of that section of the preset to change, for
            instance `camera={"read_noise_e": 20}`.

    Raises:
        ValueError: sizes that the DMD or the camera cannot hold; a bench that the readout cannot read: a tilted
            reference arm, off-axis a grain too fine for a carrier, with a grain larger than a pixel an uneven beam
            without a map of it, for anchors such a grain, an uneven beam or a DMD that leaks. With fidelity
            `statistical` what docs/reference.md lists as not covered.
    """

    def __init__(
        self,
        *,
        n_inputs: int,
        n_outputs: int,
        seed: int = 0,
        preset: str | Preset = "phase-stepping",
        stream: int | None = None,
        memory_budget_bytes: int | None = None,
        backend: Backend = "auto",
        fidelity: Fidelity = "frames",
        readout: Mapping[str, Any] | None = None,
        photometry: Mapping[str, Any] | None = None,
        camera: Mapping[str, Any] | None = None,
        apparatus: Mapping[str, Any] | None = None,
        dmd: Mapping[str, Any] | None = None,
        medium: Mapping[str, Any] | None = None,
        laser: Mapping[str, Any] | None = None,
        grain: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_geometry(n_inputs, n_outputs, seed)
        sections = {"readout": readout, "photometry": photometry, "camera": camera, "apparatus": apparatus}
        sections |= {"dmd": dmd, "medium": medium, "laser": laser, "grain": grain}
        overrides = {name: values for name, values in sections.items() if values is not None}
        self.preset = load_preset(preset, overrides)
        _check_fidelity(fidelity, backend, self.preset)
        reads, light = self.preset.readout, self.preset.bench.photometry
        measured, identity = None, emulated_matrix_identity(seed)
        if self.preset.measured is not None:
            stepped = "phase_stepping for a digital twin, whose light was measured by it"
            require(isinstance(reads, PhaseSteppingSettings), "readout.kind", reads.kind, stepped)
            measured, self.measured_fingerprint, digest = self.preset.measured.load()
            identity = {"kind": "twin", "sha256": digest}
        n_frame_inputs, n_modes, as_read = reads.fit(self.preset.bench, n_inputs, n_outputs)
        bench = EmulatedBench(n_frame_inputs, n_modes, seed, as_read, memory_budget_bytes, backend, measured)
        self._bench = bench
        self._seen: Bench = bench
        self._weighting = Weighting(self.preset, bench.info.image_shape, measured)
        self._synced, self._readout, self._tracker = _reader(self.preset, bench, n_inputs, n_outputs, backend)
        self._first_track: Track | None = None  # None before calibration, or without a tracker
        self._track: Track | None = None
        self._next_track: Track | None = None
        self._calibrated = False
        self._unit = np.float32(1 / (self._weighting.gain * math.sqrt(light.signal_e_per_feature / 2)))
        self._statistical: StatisticalReadout | None = None
        if fidelity == "statistical":
            scale = float(self._unit) / (4 * math.sqrt(light.reference_e) * bench.info.gain_dn_per_e)
            self._statistical = StatisticalReadout(bench, scale, backend)
        self._stream = own_stream(stream)
        self._next_frame = 0
        self._warned = False
        self.matrix_identity = identity | self._weighting.identity
        self.settings = {
            "seed": seed,
            "preset": self.preset.name,
            "stream": self._stream,
            "memory_budget_bytes": memory_budget_bytes,
            "backend": backend,
            "fidelity": fidelity,
            "readout": dataclasses.asdict(reads),
            **dataclasses.asdict(self.preset.bench),
        }
        rows, columns = bench.info.image_shape
        self.info = DeviceInfo(
            name="emulator",
            n_inputs=n_inputs,
            n_outputs=n_outputs,
            linear=True,
            exact=_is_exact(self.preset, n_inputs),
            accepts_real=False,
            backend=bench.product.plan.backend,
            camera_backend=self._statistical.backend if self._statistical else bench.exposure.backend,
            frames_per_vector=2 * self._readout.frames_per_pattern,
            probe_frames=self._readout.frames_per_pattern / reads.probe_every if reads.probe_every else 0.0,
            mark_frames=2 / reads.sync_every if reads.sync_every else 0.0,
            n_pixels=rows * columns,
            outputs_per_mode=self._readout.outputs_per_mode,
            output_map="weighted" if self._weighting.identity else reads.output_map,
            matrix=bench.product.plan,
            accepts_cupy=bench.exposure.backend == "cupy" and reads.on_gpu,
        )
        if isinstance(bench.product, CupyProduct) and self.info.accepts_cupy:
            self.gpu = bench.product.device_id

    @property
    def bench(self) -> EmulatedBench:
        """The bench that is read, as this readout sets it up: for a look at its images."""
        return self._bench

    def effective_matrix(self, rows: slice = slice(None)) -> Fields:
        """Rows of T, or what the readout makes of each pair of them, unit gain, float32 (rows, n_inputs); at time 0.

        With a beam that lights the DMD unevenly the columns have its weights, with one that lights the camera unevenly
        the rows; a pixel that sees several modes sees their mean. Gain is one on average.
        """
        chosen = range(self.info.n_outputs)[rows]  # the image may hold a few more pixels than outputs
        stop = chosen.stop if chosen.stop >= 0 else None
        if self._weighting.identity:
            part = slice(chosen.start, stop, chosen.step)
            entries = self._bench.propagation.matrix(part) * self._weighting.of_rows(part)
            return (entries * (math.sqrt(2) / self._weighting.gain)).astype(np.float32)
        if not isinstance(self._readout, Anchored):
            return self._bench.product.matrix(slice(chosen.start, stop, chosen.step)) * UNIT
        self._choose_outputs(self._readout)
        if not chosen:
            return np.zeros((0, self.info.n_inputs), np.float32)
        modes = self._readout.mode_of_output[chosen]
        first = int(modes.min())
        matrix = self._bench.product.matrix(slice(2 * first, 2 * int(modes.max()) + 2))
        pairs = matrix.reshape(-1, 2, matrix.shape[1])[modes - first].reshape(-1, matrix.shape[1])
        which = slice(chosen.start, stop, chosen.step)
        return (self._readout.mix(pairs, which) / math.sqrt(VARIANCE)).astype(np.float32)

    def wrap_bench(self, wrap: Callable[[Bench], Bench]) -> bool:
        """See `ProjectionDevice`. Statistical fidelity shows no frames."""
        if self._statistical:
            return False
        with self._lock:
            self._seen, before = wrap(self._seen), self._readout
            sizes = self.info.n_inputs, self.info.n_outputs
            self._synced, self._readout, self._tracker = _reader(
                self.preset, self._seen, *sizes, self.settings["backend"]
            )
            if self._calibrated:
                self._readout.load_state_dict(before.state_dict())
        return True

    def _open(self) -> None:
        if self._calibrated:
            return
        if isinstance(self._readout, Anchored):
            self._choose_outputs(self._readout)
        self._marks_shown()  # of a call that failed
        frames = self._readout.calibrate(FrameStamp(CALIBRATION_STREAM, 0)) + self._marks_shown()
        if self._tracker:
            self._first_track, probing = self._tracker.start(FrameStamp(CALIBRATION_STREAM, frames))
            frames += probing + self._marks_shown()
            self._track = self._track or self._first_track  # a restored one stays
        seconds = frames * self._bench.frame_time_us * 1e-6
        power_w = self.preset.bench.apparatus.power_w
        self.usage.add(Usage(frames=frames, device_seconds=seconds, device_joules=seconds * power_w))
        self._calibrated = True

    def _choose_outputs(self, readout: Anchored) -> None:
        """By the exact light of the anchors, so that noise does not decide which pixels a matrix is made of."""
        if not readout.chosen:
            field = self._bench.product(readout.anchors).astype(np.float64)
            readout.choose(field[:, 0::2] ** 2 + field[:, 1::2] ** 2)

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        usage, self._next_track = Usage(), self._track
        self._marks_shown()  # of a call that failed
        fields = self._display(vectors, usage) if self.gpu is None else self._display_on_gpu(vectors, usage)
        usage.device_seconds = usage.frames * self._bench.frame_time_us * 1e-6
        usage.device_joules = usage.device_seconds * self.preset.bench.apparatus.power_w
        self._warn_if_saturated(usage)  # raises where warnings are errors: before anything is counted
        self._next_frame, self._track = self._next_frame + usage.frames, self._next_track
        return fields, usage

    def _display(self, vectors: Vectors, usage: Usage) -> Fields:
        if self._statistical:
            return self._draw(self._statistical, vectors.view(np.int8), usage)
        fields = np.empty((len(vectors), self.info.n_outputs), np.float32)
        for part in self._chunks(len(vectors), CHUNK_BYTES):
            self._project_chunk(vectors[part], fields[part], usage)
        return fields

    def _draw(self, statistical: StatisticalReadout, vectors: npt.NDArray[np.int8], usage: Usage) -> Fields:
        at, n_outputs = FrameStamp(self._stream, self._next_frame), self.info.n_outputs
        if self._tracker is None or self._next_track is None:
            fields = np.empty((len(vectors), n_outputs), np.float32)
            usage.add(Usage(**vars(statistical.read(vectors, at, fields))))
            return fields
        whole = np.empty((len(vectors), n_outputs + n_outputs % 2), np.float32)  # quadratures turn in pairs
        always_lit = self._weighting.always_lit
        used, self._next_track = draw_tracked(
            statistical, self._tracker, self._next_track, vectors, always_lit, at, whole
        )
        usage.add(used)
        return np.ascontiguousarray(whole[:, :n_outputs])

    def _display_on_gpu(self, vectors: Any, usage: Usage) -> Any:
        import cupy

        with cupy.cuda.Device(self.gpu):
            shown = vectors if is_cupy(vectors) else cupy.asarray(vectors)
            fields = cupy.empty((len(vectors), self.info.n_outputs), np.float32)
            for part in self._chunks(len(vectors), GPU_CHUNK_BYTES):
                self._project_chunk_on_gpu(shown[part], fields[part], usage)
            return fields if is_cupy(vectors) else fields.get()

    def _chunks(self, n_vectors: int, n_bytes: int) -> Iterator[slice]:
        bytes_per_vector = self.info.frames_per_vector * (self.info.n_inputs + 3 * self.info.n_pixels)
        size = max(MIN_CHUNK, n_bytes // bytes_per_vector)
        return (slice(first, first + size) for first in range(0, n_vectors, size))

    def _project_chunk_on_gpu(self, vectors: Any, fields: Any, usage: Usage) -> None:
        """As `_project_chunk`, of CuPy arrays. Waits for the current stream, for what is counted."""
        import cupy

        patterns = cupy.stack([vectors > 0, vectors < 0], axis=1).reshape(-1, self.info.n_inputs).view(np.uint8)
        lit = patterns.any(axis=1).get()
        usage.frames_skipped += self._readout.frames_per_pattern * int(np.count_nonzero(~lit))
        if not lit.any():
            fields.fill(0)
            return
        stamp = FrameStamp(self._stream, self._next_frame + usage.frames)
        reading = self._readout.read(patterns[cupy.asarray(np.flatnonzero(lit))], stamp)
        usage.frames += reading.frames
        usage.saturated_pixels += reading.saturated_pixels
        usage.pixel_readings += reading.pixel_readings
        rows = np.where(lit, np.cumsum(lit) - 1, -1).astype(np.int32).reshape(-1, 2)
        kernels().combine(reading.amplitude, rows, self._unit, fields)

    def _project_chunk(self, vectors: npt.NDArray[Any], fields: Fields, usage: Usage) -> None:
        """Display + and - of each vector in turn, and subtract; adds to `usage`."""
        patterns = np.stack([vectors > 0, vectors < 0], axis=1).reshape(-1, self.info.n_inputs).view(np.uint8)
        lit = np.asarray(patterns.any(axis=1))
        if self._weighting.always_lit:
            lit = np.repeat(lit.reshape(-1, 2).any(axis=1), 2)
        amplitude = np.zeros((0, self.info.n_outputs), np.float32)
        if lit.any():
            stamp = FrameStamp(self._stream, self._next_frame + usage.frames)
            reading = self._read(patterns if lit.all() else patterns[lit], lit, stamp)
            amplitude = reading.amplitude[:, : self.info.n_outputs]
            usage.frames += reading.frames + self._marks_shown()
            usage.saturated_pixels += reading.saturated_pixels
            usage.pixel_readings += reading.pixel_readings
        usage.frames_skipped += self._readout.frames_per_pattern * int(np.count_nonzero(~lit))
        if lit.all():
            np.subtract(amplitude[0::2], amplitude[1::2], out=fields)
        else:
            row = np.cumsum(lit) - 1
            plus, minus = lit[0::2], lit[1::2]
            fields[:] = 0
            fields[plus] = amplitude[row[0::2][plus]]
            fields[minus] -= amplitude[row[1::2][minus]]
        fields *= self._unit

    def _read(self, patterns: npt.NDArray[np.uint8], lit: npt.NDArray[np.bool_], at: FrameStamp) -> Reading:
        """Fields of the patterns that are lit, of vectors of two each."""
        if self._tracker is None or self._next_track is None:
            return self._readout.read(patterns, at)
        begins = lit.copy()
        begins[1::2] &= ~lit[0::2]
        reading, self._next_track = self._tracker.read(patterns, begins[lit], at, self._next_track)
        return reading

    def _marks_shown(self) -> int:
        """Frames displayed since the last such question that no readout asked for."""
        return self._synced.frames_added() if self._synced else 0

    def _warn_if_saturated(self, usage: Usage) -> None:
        if not self._warned and usage.saturated_pixels > SATURATED_FRACTION * usage.pixel_readings:
            self._warned = True
            warnings.warn(
                f"{usage.saturated_pixels / usage.pixel_readings:.1%} of the pixel readings are saturated "
                f"(preset {self.preset.name!r}): lower photometry.signal_e_per_feature or photometry.reference_e",
                SaturationWarning,
                stacklevel=5,  # who called project
            )

    def _position(self) -> dict[str, Any]:
        tracked = {} if self._track is None else {"track": self._track.state_dict()}
        return {"stream": self._stream, "frame": self._next_frame, **tracked}

    def _restore_position(self, position: Mapping[str, Any]) -> None:
        self._stream, self._next_frame = int(position["stream"]), int(position["frame"])
        tracked = self._tracker and "track" in position
        self._track = Track.from_state(position["track"]) if tracked else self._first_track


def _reader(
    preset: Preset, bench: Bench, n_inputs: int, n_outputs: int, backend: Backend
) -> tuple[SyncedBench | None, Readout, PhaseTracker | None]:
    """What finds lost frames, what reads the bench, and what follows its phase."""
    reads = preset.readout
    synced = SyncedBench(bench, reads.sync_every, repeats=REPEATS) if reads.sync_every else None
    readout = reads.make(synced or bench, n_inputs, n_outputs, preset.bench.photometry.reference_e, backend)
    return synced, readout, PhaseTracker(readout, reads.probe_every) if reads.probe_every else None


def _check_fidelity(fidelity: str, backend: str, preset: Preset) -> None:
    known = isinstance(fidelity, str) and fidelity in get_args(Fidelity)
    require(known, "fidelity", fidelity, " or ".join(get_args(Fidelity)))
    covered = fidelity == "frames" or backend != "cupy"
    require(covered, "backend", backend, "auto, numpy or numba with fidelity 'statistical', which runs on the CPU")
    plain = PhaseSteppingSettings(probe_every=preset.readout.probe_every)
    procedural = fidelity == "frames" or preset.measured is None
    require(procedural, "fidelity", fidelity, "frames for a digital twin, whose matrix was measured")
    four_steps = fidelity == "frames" or preset.readout == plain
    accepted = "phase_stepping in 4 steps without calibration or marks for fidelity 'statistical', or fidelity 'frames'"
    require(four_steps, "readout", preset.readout, accepted)


def _is_exact(preset: Preset, n_inputs: int) -> bool:
    """Whether the bench returns the integers of the exact product unrounded.

    It does if nothing is noisy, every factor is a power of two, and the largest intensity, in units of the smallest
    field squared, is an integer that float64 holds.
    """
    if preset.readout != PhaseSteppingSettings() or preset.measured is not None:
        return False
    photometry, camera = preset.bench.photometry, preset.bench.camera
    plain = BenchParameters(photometry, camera, preset.bench.apparatus)
    unit = math.sqrt(photometry.signal_e_per_feature / (2 * VARIANCE))
    reference = math.sqrt(photometry.reference_e)
    powers_of_two = all(math.frexp(factor)[0] == 0.5 for factor in (unit, reference, camera.gain_dn_per_e))
    fits = unit <= reference and 2 * (127 * n_inputs + reference / unit) ** 2 < 2**53
    return preset.bench == plain and camera.noiseless and powers_of_two and fits
