"""The conditions of a study with what was found there: what words, figures and page are made from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optical_dfa.config import RunConfig
from optical_dfa.study.design import Cell
from optical_dfa.study.models import Scalar, StudyConfig
from optical_dfa.study.results import number
from optical_dfa.study.tables import half_interval, text

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Estimate:
    """Mean of some seeds and half of its 95 % interval by Student's t; NaN where it is not known."""

    mean: float
    ci: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Of the values that are numbers."""
        known = [value for value in values if math.isfinite(value)]
        n = len(known)
        if not n:
            return cls(values[0] if values and values[0] == math.inf else math.nan, math.nan, 0)
        mean = math.fsum(known) / n
        if n == 1:
            return cls(mean, math.nan, 1)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (n - 1))
        return cls(mean, deviation * half_interval(n), n)

    def percent(self) -> str:
        """As `97.1 ± 0.3 %`."""
        if math.isnan(self.mean):
            return "–"
        interval = "" if math.isnan(self.ci) else f" ± {100 * self.ci:.1f}"
        return f"{100 * self.mean:.1f}{interval} %"


@dataclass(frozen=True)
class Condition:
    """Cells that differ in their seed alone."""

    method: str
    levels: Mapping[str, Scalar]
    config: RunConfig = field(repr=False)
    """Of the first seed."""
    results: Mapping[int, Mapping[str, Any]] = field(repr=False)
    """Seed → result of the complete cells."""
    n_cells: int

    @property
    def name(self) -> str:
        """Method and levels in words."""
        return ", ".join([self.method, *(f"{factor} {text(value)}" for factor, value in self.levels.items())])

    @property
    def is_dfa(self) -> bool:
        """Whether it has feedback."""
        return self.config.training.method == "dfa"

    @property
    def has_optics(self) -> bool:
        """Whether its device is the emulated bench."""
        return self.is_dfa and self.config.device["name"] == "emulator"

    @property
    def is_dark(self) -> bool:
        """Whether the device gave zeros alone, as of light below a step of the converter: no SNR says anything then."""
        return self.has_optics and math.isnan(self.estimate("feedback_cosine").mean)

    def estimate(self, metric: str) -> Estimate:
        """Of a metric over the seeds."""
        return Estimate.of([number(result.get(metric)) for result in self.results.values()])

    def curve(self, metric: str) -> list[Estimate]:
        """Of a metric, epoch by epoch, of the epochs that every seed has."""
        runs = [[number(epoch.get(metric)) for epoch in result["epochs"]] for result in self.results.values()]
        return [Estimate.of(values) for values in zip(*runs, strict=False)]


def conditions_of(cells: Sequence[Cell], results: Mapping[str, "FrozenTrial"]) -> list[Condition]:
    """The conditions of a design, in its order."""
    grouped: dict[Any, list[Cell]] = {}
    for cell in cells:
        grouped.setdefault(cell.condition, []).append(cell)
    return [
        Condition(
            same[0].method,
            same[0].levels,
            same[0].config,
            {cell.seed: results[cell.key].user_attrs["result"] for cell in same if cell.key in results},
            len(same),
        )
        for same in grouped.values()
    ]


def references_of(conditions: Sequence[Condition]) -> list[Condition]:
    """What optical feedback is held against: feedback without optics that no factor touches."""
    return [c for c in conditions if c.is_dfa and not c.has_optics and not c.levels and c.results]


def beside(condition: Condition, reference: Condition) -> Estimate:
    """Difference of the test accuracies, paired by seed: equal seeds have equal weights, data order and matrix."""
    seeds = sorted(condition.results.keys() & reference.results.keys())
    return Estimate.of(
        [condition.results[seed]["test_accuracy"] - reference.results[seed]["test_accuracy"] for seed in seeds]
    )


def varying(study: StudyConfig, conditions: Sequence[Condition], factor: str) -> list[Condition]:
    """The conditions that show what a factor does: of a grid all that have it, else those with the others at base."""
    having = [condition for condition in conditions if factor in condition.levels]
    if study.design == "grid":
        return having
    base = study.base_levels()

    def others_at_base(condition: Condition) -> bool:
        return all(value == base[name].value for name, value in condition.levels.items() if name != factor)

    return [condition for condition in having if others_at_base(condition)]


@dataclass(frozen=True)
class Change:
    """What a level of a factor does, beside its base level."""

    level: Scalar
    accuracy: Estimate
    """Mean over the other factors and seeds."""
    difference: Estimate | None
    """To the base level, paired by seed after the mean over the other factors; None for the base itself."""


def changes(study: StudyConfig, conditions: Sequence[Condition], factor: str, method: str) -> list[Change]:
    """The levels of a factor for one method, in the order of the file; levels without a result are left out."""
    settings = study.factors[factor]
    levels = [level.value for level in settings.resolved()]
    chosen = [condition for condition in varying(study, conditions, factor) if condition.method == method]
    found = {
        repr(level): _by_seed([each for each in chosen if repr(each.levels[factor]) == repr(level)]) for level in levels
    }
    base = found[repr(levels[settings.base_index])]
    out = []
    for index, level in enumerate(levels):
        values = found[repr(level)]
        if not values:
            continue
        differences = [values[seed] - base[seed] for seed in values if seed in base]
        difference = None if index == settings.base_index else Estimate.of(differences)
        out.append(Change(level, Estimate.of(list(values.values())), difference))
    return out


def _by_seed(chosen: Sequence[Condition]) -> dict[int, float]:
    """Seed → mean accuracy over the conditions, of seeds that have them all."""
    seeds = set.intersection(*(set(condition.results) for condition in chosen)) if chosen else set()
    return {
        seed: math.fsum(condition.results[seed]["test_accuracy"] for condition in chosen) / len(chosen)
        for seed in sorted(seeds)
    }
