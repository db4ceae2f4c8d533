"""The piston phase tracked by a probe: one pattern is shown again and again, and the turn of its field is taken back.

Signal and reference arm are an interferometer: their phase drifts, and all fields turn with it by the same angle; half
a turn flips the sign of the projection. The angle shows in any known field, and is common to all modes, so that

    φ = arg Σ_m conj(F₀)_m F_m

is known to 1/√(2 · modes · SNR) radians from one measurement F of the probe, F₀ the first one. A vector is turned back
by the φ of the probe before it, never that of one behind it, which would make outputs wait for the next batch. Of a
random walk of w rad/√s, probes T seconds apart leave the mean variance w²T/2 = x, and of the projection the mean gain
E[cos φ] = (1 - exp(-x))/x, which is exp(-x/2) where x is small.
"""

import base64
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from optical_dfa.devices.readouts.base import Reading, Readout
from optical_dfa.emulator import FrameStamp
from optical_dfa.emulator.checks import require

PROBE_FEATURES = 2
"""Features ON in the probe, the first ones: as bright as usual vectors, so that what suits them suits it."""

PROBE_MODES = 4096
"""Modes that are compared: 1 mrad at an SNR of 21 dB, and 87 KB in a checkpoint."""

RENEW_BELOW = 0.9
"""F₀ is renewed, turned back by φ, where its correlation with F is lower: the medium has become another."""


@dataclass(frozen=True)
class Track:
    """How far a device has come."""

    first: npt.NDArray[np.complex128]
    """(modes,) F₀."""
    vectors: int = 0
    """Vectors displayed."""
    phase_rad: float = 0.0
    """φ of the last probe."""

    def state_dict(self) -> dict[str, Any]:
        """As JSON values."""
        first = base64.b64encode(self.first.tobytes()).decode()
        return {"first": first, "vectors": self.vectors, "phase_rad": self.phase_rad}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Track":
        """That of `state_dict`."""
        first = np.frombuffer(base64.b64decode(state["first"]), np.complex128)
        return cls(first, int(state["vectors"]), float(state["phase_rad"]))


class PhaseTracker:
    """Reads patterns with a probe before every so many vectors, all fields turned back to the phase of the first probe.

    What it has seen is a `Track`, which the caller keeps: a call that fails can be repeated.

    Args:
        readout: of both quadratures of each mode: outputs 2m and 2m+1.
        every: vectors from probe to probe. Vectors that are not displayed do not count.

    Raises:
        ValueError: a readout of one quadrature, or an impossible number.
    """

    def __init__(self, readout: Readout, every: int) -> None:
        per_mode = readout.outputs_per_mode
        require(per_mode == 2, "outputs per mode", per_mode, "2, both quadratures, for a field that can be turned")
        require(every >= 1, "every", every, "an int ≥ 1, vectors")
        self._readout, self._every = readout, every
        self._probe = np.zeros((1, readout.n_pattern_inputs), np.uint8)
        self._probe[0, :PROBE_FEATURES] = 1

    @property
    def frames_per_probe(self) -> int:
        """Frames that a probe takes."""
        return self._readout.frames_per_pattern

    def start(self, at: FrameStamp) -> tuple[Track, int]:
        """Measure F₀ with the calibrated readout.

        Args:
            at: stamp of the first frame.

        Returns:
            A track that begins there, and the frames used.
        """
        reading = self.read_probe(at)
        return Track(_compared(reading.amplitude[0])), reading.frames

    def due(self, track: Track, n_vectors: int) -> npt.NDArray[np.bool_]:
        """Before which of the next displayed vectors the probe is shown, (vectors,)."""
        due: npt.NDArray[np.bool_] = (track.vectors + np.arange(n_vectors)) % self._every == 0
        return due

    def read(
        self, patterns: npt.NDArray[np.uint8], begins: npt.NDArray[np.bool_], at: FrameStamp, track: Track
    ) -> tuple[Reading, Track]:
        """Fields of binary patterns as of `Readout.read`, turned back; the frames are those of the probes too.

        Args:
            patterns: uint8 (patterns, n_pattern_inputs), 0 or 1.
            begins: (patterns,) whether each is the first of its vector.
            at: stamp of the first frame.
            track: after what was displayed before.
        """
        probed = np.zeros(len(patterns), np.bool_)
        probed[begins] = self.due(track, int(np.count_nonzero(begins)))
        seen = np.cumsum(probed)
        place = np.arange(len(patterns)) + seen
        shown = np.repeat(self._probe, len(patterns) + int(probed.sum()), axis=0)
        shown[place] = patterns
        reading = self._readout.read(shown, at)
        phases, track = self.follow(track, reading.amplitude[place[probed] - 1], int(np.count_nonzero(begins)))
        amplitude = reading.amplitude[place]
        turn_back(amplitude, phases[seen])
        return replace(reading, amplitude=amplitude), track

    def read_probe(self, at: FrameStamp) -> Reading:
        """The probe alone, not turned back."""
        return self._readout.read(self._probe, at)

    def follow(
        self, track: Track, probes: Iterable[npt.NDArray[np.floating]], n_vectors: int
    ) -> tuple[npt.NDArray[np.float64], Track]:
        """The phases that probes tell.

        Args:
            track: after what was displayed before.
            probes: readings (outputs,) of the probe, where it was `due` among the next vectors.
            n_vectors: how many of these are displayed.

        Returns:
            φ before the first and after each probe, (1 + probes,), and the track behind the vectors.
        """
        phases, first = [track.phase_rad], track.first
        for amplitude in probes:
            field = _compared(amplitude)
            # not by BLAS: the same bits wherever the row lies in memory
            inner = complex((first.conj() * field).sum())
            phases.append(math.atan2(inner.imag, inner.real))
            if abs(inner) < RENEW_BELOW * math.sqrt(_power(first) * _power(field)):
                first = field * np.exp(-1j * phases[-1])
        return np.asarray(phases), Track(first, track.vectors + n_vectors, phases[-1])


def turn_back(amplitude: npt.NDArray[np.floating], phase_rad: npt.NDArray[np.float64]) -> None:
    """Turn the fields of modes, (rows, 2 · modes), back by a phase for each row, in place."""
    field = amplitude.view(np.result_type(amplitude.dtype, np.complex64))
    field *= np.exp(-1j * phase_rad).astype(field.dtype)[:, None]


def _compared(amplitude: npt.NDArray[np.floating]) -> npt.NDArray[np.complex128]:
    """Fields of some modes from the outputs (outputs,) of a reading."""
    some = amplitude[: 2 * PROBE_MODES].astype(np.float64)
    field: npt.NDArray[np.complex128] = some.view(np.complex128)
    return field


def _power(field: npt.NDArray[np.complex128]) -> float:
    return float((field.real**2 + field.imag**2).sum())
