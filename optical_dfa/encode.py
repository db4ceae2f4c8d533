"""From real errors to what a DMD can show: ternary vectors, one a sample or several of different weight."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from optical_dfa.emulator.numba_support import why_unavailable
from optical_dfa.watch import watching

TernaryKind = Literal["relative", "absolute", "stochastic"]


class Encoded(NamedTuple):
    """Ternary vectors and their weights: an error is about the sum of its planes, each times its weight."""

    vectors: Tensor
    """int8 (rows · planes, features), -1, 0 or 1; the planes of a row one after the other."""
    scale: Tensor
    """float32 (rows, planes), the weights; 0 for an all-zero row."""

    def combine(self, displayed: Tensor) -> Tensor:
        """Weighted sum over the planes.

        Args:
            displayed: something linear of each vector, such as its projection, (rows · planes, n).

        Returns:
            A new tensor, (rows, n).
        """
        planes = self.scale.shape[1]
        if planes == 1:
            return displayed * self.scale
        total = displayed[::planes] * self.scale[:, :1]
        for plane in range(1, planes):
            total.addcmul_(displayed[plane::planes], self.scale[:, plane : plane + 1])
        return total


@dataclass(frozen=True)
class Ternarize:
    """Ternary encoder of error vectors.

    Kinds:
        relative: +1 above `threshold` times the largest |e| of the sample, -1 below minus that (default threshold 0.5).
            Scale ‖e‖/‖t‖ of the sample. Blind to the scale of the loss: τ(s·e) = s·τ(e).
        absolute: +1 where rows · e > `threshold` (default 0.1), as in "Light-in-the-loop" (arXiv 2006.01475), which
            averages the loss over the rows. Scale ‖e‖/‖t‖. Not scale-equivariant: loss scaling, another reduction or
            gradient accumulation change what is displayed, and a confident net shows nothing at all.
        stochastic: ±1 with probability |e| / max|e|, scale max|e|: unbiased, E[scale · t] = e. Takes no threshold.

    Args:
        threshold: see the kinds; None: the default of the kind.
        kind: `relative`, `absolute` or `stochastic`.
        seed: seed of the stochastic kind.

    Raises:
        ValueError: unknown kind, a threshold that is out of range, or one that the kind does not take.
    """

    threshold: float | None = None
    kind: TernaryKind = "relative"
    seed: int = 0

    planes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        defaults = {"relative": 0.5, "absolute": 0.1, "stochastic": None}
        if self.kind not in defaults:
            raise ValueError(f"kind must be one of {', '.join(defaults)}; got {self.kind!r}")
        if not isinstance(self.threshold, int | float | None):
            raise ValueError(f"threshold must be a number or None; got {self.threshold!r}")
        if self.threshold is None:
            object.__setattr__(self, "threshold", defaults[self.kind])
        elif self.kind == "stochastic":
            raise ValueError(f"kind 'stochastic' takes no threshold; got {self.threshold!r}: leave it out")
        elif not 0 <= self.threshold < (1 if self.kind == "relative" else math.inf):
            accepted = "from 0 to below 1" if self.kind == "relative" else "finite and not negative"
            raise ValueError(f"the threshold of kind {self.kind!r} must be {accepted}; got {self.threshold!r}")
        if not (isinstance(self.seed, int) and 0 <= self.seed < 1 << 32):
            raise ValueError(f"seed must be an int from 0 to 2^32-1; got {self.seed!r}")

    def __call__(self, error: Tensor, call: int = 0) -> Encoded:
        """Encode error vectors.

        Args:
            error: float32 (rows, features), finite.
            call: number of the call; with the seed, it fixes the draws of the stochastic kind.
        """
        if self.kind == "stochastic":
            scale = error.abs().amax(1, keepdim=True)
            # hashed, because the CPU generator looks at the low 32 bits of its seed alone
            key = int(np.random.SeedSequence((self.seed, call)).generate_state(1, np.uint64)[0])
            generator = torch.Generator(error.device).manual_seed(key)
            draws = torch.rand(error.shape, generator=generator, device=error.device)
            shown = draws * scale < error.abs()
            return Encoded((shown * error.sign()).to(torch.int8), scale)
        assert self.threshold is not None  # filled in by __post_init__
        if self.kind == "relative":
            limit: Tensor | float = error.abs().amax(1, keepdim=True).mul_(self.threshold)
        else:
            limit = self.threshold / max(len(error), 1)
        vectors = (error > limit).view(torch.int8) - (error < -limit).view(torch.int8)
        shown = vectors.abs().sum(1, keepdim=True, dtype=torch.int32)  # a fifth of the time of (!= 0).sum
        return Encoded(vectors, _restoring(error, shown.double().sqrt()))

    def in_one_pass(self, error: Tensor, factor: float) -> tuple[Encoded, Tensor] | None:
        """Encode as a call does, but by one Numba kernel, and only errors that are all finite.

        The vectors are the same, and so is the scale but, rarely, for its last bit: sums are added in another order.

        Args:
            error: float32 (rows, features).
            factor: of the gain.

        Returns:
            The vectors with their scale, and the gain, scale · factor. None if some error is not finite, or the kernel
            is not for this: for the stochastic kind, on a GPU, without Numba.
        """
        if self.kind == "stochastic" or not (type(error) is Tensor and watching()):
            return None
        kernel = _kernel()
        if kernel is None or not error.is_cpu or error.dtype != torch.float32:
            return None
        assert self.threshold is not None  # filled in by __post_init__
        relative = self.kind == "relative"
        rows = error.shape[0]
        vectors = np.empty(error.shape, np.int8)
        scale, gain = np.empty((rows, 1), np.float32), np.empty((rows, 1), np.float32)
        limit = self.threshold if relative else self.threshold / max(rows, 1)
        errors = error.detach() if error.requires_grad else error
        errors = errors.resolve_neg().contiguous()
        if not kernel(errors.numpy(), limit, relative, factor, vectors, scale, gain):
            return None
        return Encoded(torch.from_numpy(vectors), torch.from_numpy(scale)), torch.from_numpy(gain)


@cache
def _kernel() -> Any:
    """That of `Ternarize.in_one_pass`; None without Numba."""
    if why_unavailable(()) is not None:
        return None
    from optical_dfa.emulator.numba_ternary import ternary  # imports Numba

    return ternary


MOST_BITS = 16
"""Of `BitPlanes`: beyond, float32 errors have hardly more to show."""


@dataclass(frozen=True)
class BitPlanes:
    """Encoder of error vectors that sends several weighted ternary planes: what a device can do without ternarisation.

    The magnitudes are rounded to k bits, m = round((2^k - 1) · |e| / max|e|), a whole number from 0 to 2^k - 1, to the
    nearest, halves down. Plane j, from 0, shows bit k - 1 - j of m with the sign of e, and has the weight
    c · 2^(k-1-j); c = ‖e‖/‖m‖ restores the length of the sample. Of the roundings to k bits this one errs least: by at
    most 1/2 in m, where cutting bits off errs by up to 1. k = 1 is `Ternarize(0.5)`. Blind to the scale of the loss:
    τ(s·e) = s·τ(e).

    Every plane is a vector to display: k times the frames.

    Args:
        bits: k, 1 … 16.

    Raises:
        ValueError: bits out of range.
    """

    bits: int

    def __post_init__(self) -> None:
        if not (isinstance(self.bits, int) and not isinstance(self.bits, bool) and 1 <= self.bits <= MOST_BITS):
            raise ValueError(f"bits must be an int from 1 to {MOST_BITS}; got {self.bits!r}")

    @property
    def planes(self) -> int:
        """Vectors to display for one error."""
        return self.bits

    def __call__(self, error: Tensor, call: int = 0) -> Encoded:
        """Encode error vectors.

        Args:
            error: float32 (rows, features), finite.
            call: as other encoders take it; this one draws nothing.
        """
        magnitude, largest = error.abs().double(), error.abs().amax(1, keepdim=True).double()
        levels = (1 << self.bits) - 1
        # ceil(x - 1/2): halves down, as a threshold of 0.5 that must be exceeded
        whole = torch.where(largest > 0, torch.ceil(levels * magnitude / largest - 0.5), 0.0).int()
        shifts = torch.arange(self.bits - 1, -1, -1, device=error.device)
        digits = (whole[:, None, :] >> shifts[:, None]) & 1
        vectors = (digits * error.sign()[:, None, :]).to(torch.int8).flatten(0, 1)
        unit = _restoring(error, torch.linalg.vector_norm(whole.double(), dim=1, keepdim=True))
        return Encoded(vectors, unit * (1 << shifts))


Encoder = Ternarize | BitPlanes


def _restoring(error: Tensor, shown_norm: Tensor) -> Tensor:
    """‖e‖ over the norm of what is shown, float32 (rows, 1); 0 where nothing is."""
    norm = torch.linalg.vector_norm(error, dim=1, keepdim=True, dtype=torch.float64)  # float32 squares overflow
    ratio: Tensor = norm / shown_norm
    return ratio.nan_to_num_(0.0, 0.0).float()
