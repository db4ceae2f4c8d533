"""Ternary vectors that measure a matrix: Hadamard probes, on all inputs at once or on groups of them."""

import numpy as np
import numpy.typing as npt

EVEN_BITS = 0x55555555


class BlockHadamard:
    """Probes of a Hadamard matrix of order `weight` for each group of inputs, the other inputs dark.

    With all inputs in one group, every probe lights every input, and an entry of the matrix is known with
    1/n_inputs of the variance that showing one input at a time gives. Where so much light saturates the camera, smaller
    groups light fewer inputs, for 1/weight of the variance. No other set of vectors that lights an input `weight` times
    does better: the information on an entry is the number of probes that light it, and orthogonal columns lose none of
    it. Groups are of equal size, within one: as much light, and noise, for every input.

    The matrix is Sylvester's, H[p, k] = (-1)^popcount(p & k), which a fast transform inverts. Its columns carry the
    signs of a bent function (O. S. Rothaus, J. Comb. Theory A 20, 300, 1976), (-1)^(b₀b₁ + b₂b₃ + …) of the bits of k:
    without, the first probe would light all inputs on the + side, twice the light of any other, and saturate first.
    With them, the two sides of every full probe differ by √weight inputs where weight is a power of four, else by
    √(2·weight) or none.

    Attributes:
        n_inputs, weight, n_probes: sizes.
        lit: most inputs lit by a probe.

    Args:
        n_inputs: inputs of the device.
        weight: order of the Hadamard matrices, a power of two: most inputs of a group, and how often each is lit.
    """

    def __init__(self, n_inputs: int, weight: int) -> None:
        whole = isinstance(weight, int) and not isinstance(weight, bool)
        if not whole or weight < 1 or weight & (weight - 1) or weight > full_weight(n_inputs):
            accepted = f"a power of two from 1 to {full_weight(n_inputs):,} for {n_inputs:,} inputs"
            raise ValueError(f"weight must be {accepted}; got {weight!r}")
        self.n_inputs, self.weight = n_inputs, weight
        n_groups = -(-n_inputs // weight)
        self.n_probes = n_groups * weight
        self.lit = -(-n_inputs // n_groups)
        self._group = np.arange(n_inputs) * n_groups // n_inputs
        first = -(-np.arange(n_groups) * n_inputs // n_groups)  # input of each group
        self._column = np.arange(n_inputs) - first[self._group]
        bent = np.bitwise_count(self._column & (self._column >> 1) & EVEN_BITS) & 1
        self._signs = np.where(bent, np.int8(-1), np.int8(1))

    def vectors(self, start: int, stop: int) -> npt.NDArray[np.int8]:
        """Probes `start` … `stop` - 1, int8 (probes, n_inputs) in {-1, 0, 1}."""
        group, row = np.divmod(np.arange(start, stop)[:, None], self.weight)
        odd = np.bitwise_count(row & self._column) & 1
        signs = np.where(odd, -self._signs, self._signs)
        return np.where(group == self._group, signs, np.int8(0))

    def solve(self, fields: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Least-squares estimate of rows of the matrix, (1/weight) Hᵀ·fields, and what it leaves unexplained.

        Args:
            fields: float64 (n_probes, outputs), what the device answered to each probe. Overwritten.

        Returns:
            The rows, float64 (outputs, n_inputs), and the sum of squares of the residuals of each output, float64
            (outputs,), which has n_probes - n_inputs degrees of freedom.
        """
        groups = fields.reshape(-1, self.weight, fields.shape[1])
        half = 1
        while half < self.weight:  # fast Walsh-Hadamard transform of each group
            pairs = groups.reshape(len(groups), -1, 2, half, fields.shape[1])
            first, second = pairs[:, :, 0], pairs[:, :, 1]
            first += second
            second *= -2
            second += first
            half *= 2
        fields /= self.weight
        lit = self._group * self.weight + self._column
        rows = (fields[lit] * self._signs[:, None]).T
        fields[lit] = 0  # what is left are columns of H without an input: noise alone
        return rows, self.weight * np.square(fields, out=fields).sum(axis=0)


def full_weight(n_inputs: int) -> int:
    """Order of the smallest Sylvester-Hadamard matrix with a column for each input: the next power of two."""
    return 1 << (n_inputs - 1).bit_length()
