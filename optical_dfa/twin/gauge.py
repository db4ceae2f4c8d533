"""Phases and powers of frames that may as well be fields of the features: no image tells them apart."""

import numpy as np
import numpy.typing as npt

from optical_dfa.twin.observed import Floats

NEIGHBOURS = 48
"""Frames before and behind one that its phase is compared with."""

MOST_PATTERNS = 400
"""Of one part, whose gauge is looked for in full; of larger ones only the common phase is."""


class Gauge:
    """What other fields of the features explain as well.

    Phases ψ_g of the patterns g: with X the patterns (patterns, features) and P the projection on what columns can
    explain, those with (1 - P) diag(ψ) X = 0, the null space of (1 - P) ∘ (X Xᵀ). Parts of the features that share no
    pattern have a phase each, at least; light that is always there is a feature of all.

    Powers that follow the steps: a power 1 + δ cos φ of a bright reference arm is a field that is even over the image.

    Args:
        patterns: (F, inputs) of the frames.
        background: light is there in every frame.
    """

    def __init__(self, patterns: npt.NDArray[np.uint8], background: bool = False) -> None:
        shown, group = np.unique(patterns, axis=0, return_inverse=True)
        self._group = group.reshape(-1)
        self._n_groups = len(shown)
        self._one = np.concatenate([shown.astype(np.float64), np.ones((len(shown), 1))], axis=1)
        together = [np.arange(len(shown))] if background else _parts(shown)
        self._parts = [(chosen, _free_phases(shown[chosen], background)) for chosen in together]

    def of_power(self, power: Floats, told: npt.NDArray[np.bool_], angle: Floats) -> Floats:
        """What of the powers (F,) to take for none: what follows the steps as an even field of the features does.

        Args:
            power: of the frames, 1 on average.
            told: (F,) frames whose power is known.
            angle: (F,) phase of the reference arm in each.
        """
        weight = told.astype(np.float64)
        count = np.bincount(self._group, weight, self._n_groups)
        root = np.sqrt(count / 2)
        basis, _ = np.linalg.qr(self._one * root[:, None])
        taken = np.zeros(len(power))
        for wave in (np.cos(angle), np.sin(angle)):
            follows = np.bincount(self._group, weight * (power - 1) * wave, self._n_groups) / np.maximum(count / 2, 1)
            even = basis @ (basis.T @ (follows * root)) / np.maximum(root, 1)
            taken += even[self._group] * wave * weight
        return taken

    def of(self, phase: Floats, told: npt.NDArray[np.bool_]) -> Floats:
        """What of the phases (F,) to take for zero: the free part of the mean of each pattern beside its neighbours.

        Args:
            phase: of the frames.
            told: (F,) frames whose phase is known.
        """
        weight = told.astype(np.float64)
        smooth = _neighbourhood(phase * weight) / np.maximum(_neighbourhood(weight), 1)
        count = np.bincount(self._group, weight, self._n_groups)
        beside = np.bincount(self._group, np.where(told, phase - smooth, 0), self._n_groups) / np.maximum(count, 1)
        taken = np.zeros(self._n_groups)
        for chosen, free in self._parts:
            root = np.sqrt(count[chosen])
            basis, _ = np.linalg.qr(free * root[:, None])
            taken[chosen] = np.where(root > 0, basis @ (basis.T @ (beside[chosen] * root)) / np.maximum(root, 1), 0)
        common = float((phase * weight).sum()) / max(float(weight.sum()), 1)
        return np.asarray(taken[self._group] + common)


def _neighbourhood(values: Floats) -> Floats:
    """Sum of each value and its neighbours."""
    summed = np.convolve(values, np.ones(2 * NEIGHBOURS + 1), "full")
    return np.asarray(summed[NEIGHBOURS : NEIGHBOURS + len(values)])


def _parts(shown: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.int64]]:
    """Patterns that hang together by features they share; without those of no feature."""
    lit = shown.astype(np.bool_)
    none = lit.shape[1]
    of_feature = np.arange(none)
    while True:
        of_pattern = np.where(lit, of_feature, none).min(axis=1)
        new = np.minimum(of_feature, np.where(lit, of_pattern[:, None], none).min(axis=0))
        if (new == of_feature).all():
            break
        of_feature = new
    return [np.flatnonzero(of_pattern == label) for label in np.unique(of_pattern[of_pattern < none])]


def _free_phases(shown: npt.NDArray[np.uint8], background: bool) -> Floats:
    """Basis (patterns, free) of the phases that columns explain."""
    if len(shown) > MOST_PATTERNS:
        return np.ones((len(shown), 1))
    x = shown.astype(np.float64)
    one = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    kept = np.eye(len(x)) - one @ np.linalg.pinv(one)
    shared = x @ x.T + background
    values, vectors = np.linalg.eigh(kept * shared)
    return np.asarray(vectors[:, values < 1e-9 * max(float(np.trace(shared)), 1)])
