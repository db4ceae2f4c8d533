"""What the scattering medium and the interferometer do over time: slow decorrelation, piston phase, vibration.

Time is the modelled time of the device: the number of a frame in its stream times the time from frame to frame, or what
the request says. Every function here is a pure function of it, so that a repeated request meets the same medium.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optical_dfa.emulator.checks import require
from optical_dfa.emulator.hashing import derive_key, hash_words
from optical_dfa.emulator.normals import standard_normals

SEGMENT_TAUS = 1.0653397
"""Length of a segment in units of τ: the mean correlation falls to 1/e after τ."""

TICK_S = 1e-6
"""The random walk goes by steps of a microsecond: what happens within one exposure is blurred anyway."""

_LEVELS = 48
"""The random walk is fixed at ticks 0 and 2^48, nine years later."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Medium:
    """A scattering medium and the interferometer around it. Defaults: off."""

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    decorrelation_tau_s: float = math.inf
    """Time after which the field's mean correlation with itself is 1/e, seconds; inf: it never changes."""
    piston_walk_rad: float = 0.0
    """Random walk of the phase between signal and reference, radians after one second (it grows with the root)."""
    vibration_rad: float = 0.0
    """Standard deviation of that phase from one exposure to the next, radians."""

    def __post_init__(self) -> None:
        require(self.decorrelation_tau_s > 0, "decorrelation_tau_s", self.decorrelation_tau_s, "seconds > 0, or .inf")
        for name in ("piston_walk_rad", "vibration_rad"):
            value = getattr(self, name)
            require(0 <= value < math.inf, name, value, "a finite number ≥ 0, radians")

    @property
    def frozen(self) -> bool:
        """The transmission matrix never changes."""
        return self.decorrelation_tau_s == math.inf

    def mixture(self, time_s: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.int64], Floats]:
        """Which matrices the medium is a mixture of: T(t) = cos θ · T_m + sin θ · T_(m+1), independent T_m.

        Args:
            time_s: modelled times ≥ 0, seconds, any shape.

        Returns:
            m and θ (0 … π/2), of that shape. The mixture passes from one matrix to the next at a constant rate, so that
            every T(t) has the same statistics and T(0) is T_0.
        """
        if self.frozen:
            return np.zeros(time_s.shape, np.int64), np.zeros(time_s.shape)
        segment, passed = np.divmod(time_s / (SEGMENT_TAUS * self.decorrelation_tau_s), 1.0)
        return segment.astype(np.int64), passed * (math.pi / 2)

    def phase_rad(self, seed: int, stream: int, frame: npt.NDArray[np.uint64], time_s: Floats) -> Floats:
        """Phase of the signal against the reference arm in each frame: random walk and vibration.

        Args:
            seed: of the bench.
            stream: the frames' stream.
            frame: their numbers in it, (frames,): what vibration belongs to.
            time_s: their modelled times ≥ 0, (frames,): what the walk depends on.

        Returns:
            (frames,), radians; 0 at time 0 but for the vibration. Between any two times the walk's difference is normal
            with the variance `piston_walk_rad`² · |t₂ - t₁|.
        """
        phase = np.zeros(len(frame))
        if self.piston_walk_rad:
            ticks = np.rint(time_s / TICK_S).astype(np.uint64)
            phase += self.piston_walk_rad * math.sqrt(TICK_S) * random_walk(seed, stream, ticks)
        if self.vibration_rad:
            phase += self.vibration_rad * _normals(seed, stream, np.array(_LEVELS + 1, np.uint64), frame)
        return phase


def field_correlation(lag_s: float | Floats, tau_s: float) -> Floats:
    """Correlation of the field with itself after a time, its mean over the moment at which that time begins.

    With ℓ the lag in segments: (1 - ℓ/2) cos(πℓ/2) + sin(πℓ/2)/π up to two segments, 0 beyond. Between two given
    moments it is cos(θ₂ - θ₁) within a segment, sin θ₁ cos θ₂ from one to the next, 0 otherwise.
    """
    lag = np.asarray(lag_s, np.float64) / (SEGMENT_TAUS * tau_s)
    half_turn = np.pi / 2 * np.minimum(lag, 2)
    correlation: Floats = (1 - np.minimum(lag, 2) / 2) * np.cos(half_turn) + np.sin(half_turn) / np.pi
    return correlation


def random_walk(seed: int, stream: int, tick: npt.NDArray[np.uint64]) -> Floats:
    """Gaussian random walk of unit variance a tick, (ticks,); 0 at tick 0.

    Found by halving: the walk's value in the middle between two known values is their mean plus a normal number of a
    quarter of the distance in variance (Lévy's construction of Brownian motion). So any tick is reached in 48 steps,
    from anywhere, and always at the same value.
    """
    at = np.asarray(tick, np.uint64)
    if not len(at):
        return np.zeros(0)
    first, last = int(at.min()), int(at.max())
    require(last < 1 << _LEVELS, "time", last, "below 2^48 microseconds")
    levels = np.arange(_LEVELS + 1, dtype=np.uint64)[:, None]
    apart = max(0, (first ^ last).bit_length() - 1)  # from this level up all ticks lie in the same intervals
    own = _normals(seed, stream, levels[:apart], at >> (levels[:apart] + np.uint64(1)))
    shared = _normals(seed, stream, levels[apart:], at[:1] >> (levels[apart:] + np.uint64(1)))
    left, right = np.zeros(len(at)), math.sqrt(2.0**_LEVELS) * shared[-1]
    for level in range(_LEVELS - 1, -1, -1):
        normal = own[level] if level < apart else shared[level - apart]
        middle = (left + right) / 2 + math.sqrt(2.0 ** (level - 1)) * normal
        upper = (at >> np.uint64(level)) & np.uint64(1) == 1
        left, right = np.where(upper, middle, left), np.where(upper, right, middle)
    return left


_PISTON = 2  # separates these keys from those of the camera's noise


def _normals(seed: int, stream: int, level: npt.NDArray[np.uint64], node: npt.NDArray[np.uint64]) -> Floats:
    """Normal numbers of the intervals `node` of each `level`, of the shape of `node`."""
    key = derive_key(seed, _PISTON, stream, level, node)
    return standard_normals(hash_words(np.zeros(node.shape, np.uint32), key)).astype(np.float64)
