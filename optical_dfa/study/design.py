"""From a study to its cells: each a training run, and what it stands for in the table. No torch."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import ValidationError

from optical_dfa.config import RunConfig
from optical_dfa.config.file import faults_of
from optical_dfa.devices import available_devices
from optical_dfa.study.code_version import code_version
from optical_dfa.study.models import Level, Scalar, StudyConfig
from optical_dfa.study.overrides import with_overrides


@dataclass(frozen=True)
class Cell:
    """One training run of a study."""

    key: str
    """16 hexadecimal digits: hash of configuration, seed and code version."""
    method: str
    seed: int
    levels: Mapping[str, Scalar]
    """Factor → value. A factor that changes nothing here is left out: the camera, where nothing is displayed."""
    config: RunConfig = field(repr=False)

    @property
    def condition(self) -> tuple[str, tuple[tuple[str, Scalar], ...]]:
        """What cells share that differ in their seed alone."""
        return self.method, tuple(self.levels.items())


class CombinationError(ValueError):
    """A method with some levels is no training configuration, though each by itself is one."""


def cells_of(study: StudyConfig, tuned: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    """The cells of a study, in the order they are run. Combinations that come to the same run are one cell.

    Args:
        study: what is asked.
        tuned: method → dotted keys that a search found.

    Raises:
        CombinationError: a combination is no training configuration.
    """
    configs: dict[str, RunConfig] = {}  # checking one takes 10 ms, and most combinations of some methods are the same
    found: dict[str, list[tuple[str, int, dict[str, Scalar], RunConfig]]] = {}
    combinations = []
    for method, levels in conditions(study):
        values = {name: level.value for name, level in levels.items()}
        merged = merge(study, tuned, method, levels)
        text = json.dumps(merged, sort_keys=True)
        if text not in configs:
            try:
                configs[text] = RunConfig.model_validate(merged)
            except ValidationError as error:
                at = ", ".join([method, *(f"{name} {value}" for name, value in values.items())])
                faults = "; ".join(map(str, faults_of(error, RunConfig)))
                raise CombinationError(f"{at}: {faults}") from None
        combinations.append((method, values, configs[text]))
    for seed, (method, values, config) in itertools.product(study.seeds, combinations):
        seeded = with_seed(config, seed)
        found.setdefault(key_of(seeded), []).append((method, seed, values, seeded))
    matters = {method: _that_matter(study, method, combinations) for method in study.methods}
    cells = []
    for key, same in found.items():
        method, seed, values, config = same[0]
        shared = {
            name: value
            for name, value in values.items()
            if name in matters[method] and _all_equal(other[2][name] for other in same)
        }
        cells.append(Cell(key, method, seed, shared, config))
    return cells


def conditions(study: StudyConfig) -> Iterator[tuple[str, dict[str, Level]]]:
    """Every method with every combination of levels that the design asks for."""
    factors = {name: factor.resolved() for name, factor in study.factors.items()}
    base = study.base_levels()
    if study.design == "grid":
        chosen = [dict(zip(factors, levels, strict=True)) for levels in itertools.product(*factors.values())]
    else:
        chosen = [base]
        for name, levels in factors.items():
            chosen += [{**base, name: level} for level in levels if level != base[name]]
    return itertools.product(study.methods, chosen)


def _that_matter(
    study: StudyConfig, method: str, combinations: Sequence[tuple[str, dict[str, Scalar], RunConfig]]
) -> set[str]:
    """Factors of which some level, the others at their base, comes to another run than the base."""
    base = {name: level.value for name, level in study.base_levels().items()}
    keys = {repr(values): key_of(config) for own, values, config in combinations if own == method}
    found = set()
    for name, factor in study.factors.items():
        if any(keys[repr({**base, name: level.value})] != keys[repr(base)] for level in factor.resolved()):
            found.add(name)
    return found


def merge(
    study: StudyConfig, tuned: Mapping[str, Mapping[str, Any]], method: str, levels: Mapping[str, Level]
) -> dict[str, Any]:
    """The training configuration of one condition: base, then method, then what a search found, then factors.

    What a method sets, a factor leaves alone, single keys and whole sections: the factor `device.camera.adc_bits` does
    not apply to a method that says `device: digital`. Runs have one thread unless the study says otherwise: with one, a
    result is the same to the bit however many workers there are.

    Raises:
        OverrideError: a dotted key leads through something that has no keys.
    """
    own = study.methods[method]
    varied = [
        {key: value for key, value in level.set.items() if not any(f"{key}.".startswith(f"{mine}.") for mine in own)}
        for level in levels.values()
    ]
    values = with_overrides(study.base, own, tuned.get(method, {}), *varied)
    if values.get("training", {}).get("threads") is None:
        values = with_overrides(values, {"training.threads": 1})
    return values


def with_seed(config: RunConfig, seed: int) -> RunConfig:
    """The same run with that seed for training and, where the device has one, for matrix and noise."""
    device = {**config.device, "seed": seed} if config.device["name"] in _seeded_devices() else config.device
    training = config.training.model_copy(update={"seed": seed})
    return config.model_copy(update={"training": training, "device": device})


def key_of(config: RunConfig) -> str:
    """Hash of what decides the result of a run. Feedback and device do not where the method uses none."""
    values = config.as_dict()
    if config.training.method != "dfa":
        del values["feedback"], values["device"]
    text = json.dumps([values, code_version()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _seeded_devices() -> frozenset[str]:
    return frozenset(entry.name for entry in available_devices() if "seed" in entry.options)


def _all_equal(values: Iterator[Scalar]) -> bool:
    return len(set(map(repr, values))) == 1
