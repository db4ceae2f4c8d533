"""Cosines: of two gradients, of signals sample by sample, and of weights with products of feedback matrices."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optical_dfa.alignment.report import GradientAlignment

BLOCK = 1 << 16
"""Entries of gradients that are looked at together, in float64: nothing as large as a gradient is made."""

ROWS_BLOCK = 1 << 22
"""Entries of a feedback matrix that are made together."""

PRODUCT_SIDE = 512
"""Rows and columns of a product of feedback matrices that are made together."""

Rows = Callable[[slice], Tensor]
"""Rows of a matrix, float32 (rows, columns)."""


@dataclass
class Sums:
    """Sums over the entries of two gradients, from which their cosine follows; add them up for several parameters."""

    dot: float = 0.0
    given: float = 0.0
    """‖g‖²."""
    true: float = 0.0
    """‖g*‖²."""
    agree: int = 0
    """Entries of equal sign."""
    nonzero: int = 0
    """Entries where neither is zero."""
    n_values: int = 0

    @classmethod
    def of(cls, given: Tensor, true: Tensor) -> "Sums":
        """Sums of two tensors of one shape."""
        sums = cls(n_values=true.numel())
        given, true = (one.to_dense() if one.is_sparse else one for one in (given.detach(), true.detach()))
        for one, other in zip(given.reshape(-1).split(BLOCK), true.reshape(-1).split(BLOCK), strict=True):  # type: ignore[no-untyped-call]
            a, b = one.double(), other.double()
            sums.dot += float(a @ b)
            sums.given += float(a @ a)
            sums.true += float(b @ b)
            # signs, not the product of the entries, which may underflow
            signs = one.sign() * other.sign()
            sums.agree += int((signs > 0).sum())
            sums.nonzero += int((signs != 0).sum())
        return sums

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*(getattr(self, name) + getattr(other, name) for name in vars(self)))

    def alignment(self) -> GradientAlignment:
        """What they say."""
        return GradientAlignment(
            cosine=_ratio(self.dot, math.sqrt(self.given) * math.sqrt(self.true)),
            norm_ratio=_ratio(math.sqrt(self.given), math.sqrt(self.true)),
            sign_agreement=_ratio(self.agree, self.nonzero),
            n_values=self.n_values,
        )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def sample_sums(given: Tensor, true: Tensor) -> Tensor:
    """Sums over all but the first dimension: float64 (3, samples), ⟨g, g*⟩, ‖g‖² and ‖g*‖²."""
    a, b = (one.detach().reshape(len(one), -1) for one in (given, true))
    step = max(1, BLOCK // max(1, a.shape[1]))
    parts = []
    for some, others in zip(a.split(step), b.split(step), strict=True):  # type: ignore[no-untyped-call]
        u, v = some.double(), others.double()
        parts.append(torch.stack([torch.einsum("sf,sf->s", *pair) for pair in ((u, v), (u, u), (v, v))]))
    return torch.cat(parts, 1)


def mean_cosine(sums: Tensor) -> float:
    """Mean over the samples of the cosines from `sample_sums`; samples with a zero side are left out."""
    dot, given, true = sums
    defined = (given > 0) & (true > 0)
    if not defined.any():
        return math.nan
    return float((dot[defined] / (given[defined].sqrt() * true[defined].sqrt())).mean())


def expected_cosine(snr_db: float) -> float:
    """Cosine of a signal with itself under noise of that SNR: (1 + 1/SNR)^(-1/2)."""
    return 1 / math.sqrt(1 + 10 ** (-snr_db / 10))


def product_sums(weight: Tensor, upper: Rows, lower: Rows, n_classes: int) -> Sums:
    """Sums of a weight (d_upper, d_lower) with F_upper F_lowerᵀ, block by block.

    Args:
        weight: the weight between two points.
        upper: rows of F_upper (d_upper, classes).
        lower: rows of F_lower (d_lower, classes).
        n_classes: columns of both.
    """
    sums = Sums()
    for above in _blocks(weight.shape[0], n_classes, PRODUCT_SIDE):
        f_upper = upper(above).to(weight.device)
        for below in _blocks(weight.shape[1], n_classes, PRODUCT_SIDE):
            sums += Sums.of(f_upper @ lower(below).to(weight.device).T, weight[above, below])
    return sums


def top_sums(weight: Tensor, lower: Rows, n_classes: int) -> Sums:
    """Sums of the top weight (classes, d) with F_lowerᵀ."""
    sums = Sums()
    for below in _blocks(weight.shape[1], n_classes):
        sums += Sums.of(lower(below).to(weight.device).T, weight[:, below])
    return sums


def _blocks(n: int, width: int, most: int = ROWS_BLOCK) -> Iterator[slice]:
    step = max(1, min(most, ROWS_BLOCK // width))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))


def exact_fields(rows: Rows, n_outputs: int, vectors: Tensor) -> Tensor:
    """T times the vectors, float32 (vectors, n_outputs), T made in blocks of rows."""
    parts = [vectors @ rows(block).to(vectors.device).T for block in _blocks(n_outputs, vectors.shape[1])]
    return torch.cat(parts, 1)


def joint_cosine(sums: Sequence[Tensor]) -> float:
    """Mean cosine of the signals of several points, those of a sample joined into one vector.

    NaN if there are none, or if the points have different samples.
    """
    if len({one.shape for one in sums}) != 1:
        return math.nan
    return mean_cosine(torch.stack(list(sums)).sum(0))
