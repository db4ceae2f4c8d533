"""From real errors to what a DMD can show: ternary vectors."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

TernaryKind = Literal["relative", "absolute", "stochastic"]


class Encoded(NamedTuple):
    """Ternary vectors and the factor that restores their magnitude: error ≈ scale · vectors."""

    vectors: Tensor
    """int8 (rows, features), -1, 0 or 1."""
    scale: Tensor
    """float32 (rows, 1); 0 for an all-zero row."""


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
            limit: Tensor | float = self.threshold * error.abs().amax(1, keepdim=True)
        else:
            limit = self.threshold / max(len(error), 1)
        vectors = (error > limit).to(torch.int8) - (error < -limit).to(torch.int8)
        shown_norm = vectors.abs().sum(1, keepdim=True, dtype=torch.int32).sqrt()  # a fifth of the time of (!= 0).sum
        norm = torch.linalg.vector_norm(error, dim=1, keepdim=True, dtype=torch.float64)  # float32 squares overflow
        return Encoded(vectors, torch.where(shown_norm > 0, norm / shown_norm, 0.0).float())
