"""Reads a study from its file; every fault at once, each with its line. No torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from optical_dfa.config import RunConfig
from optical_dfa.config.file import Source, faults_of
from optical_dfa.devices.faults import Fault
from optical_dfa.run_errors import ConfigError
from optical_dfa.study.design import Cell, CombinationError, cells_of
from optical_dfa.study.models import Range, StudyConfig
from optical_dfa.study.overrides import OverrideError, with_overrides


@dataclass(frozen=True)
class Study:
    """A study that can be run."""

    path: Path
    text: str = field(repr=False)
    """The file as it is."""
    config: StudyConfig
    tuned: Mapping[str, Mapping[str, Any]]
    """Method → dotted keys that a search found."""
    cells: tuple[Cell, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the file, without its suffix."""
        return self.path.stem


def load_study(path: str | Path, *, with_tuned: bool = True) -> Study:
    """The study in a YAML file.

    Args:
        path: the file.
        with_tuned: False leaves out what a search found: for the search.

    Raises:
        ConfigError: the file, the file of its `tuned`, or a configuration that it asks for, is wrong; the message names
            file, line and key of every fault.
    """
    path = Path(path)
    source = Source.read(path, StudyConfig.model_fields)
    study = source.validated(StudyConfig)
    tuned = {} if study.tuned is None or not with_tuned else read_tuned(path.parent / study.tuned, study)
    _check(source, study, tuned)
    try:
        cells = cells_of(study, tuned)
    except CombinationError as error:
        source.add([Fault((), str(error))], ("methods",))
        source.check()
        raise
    return Study(path, path.read_text("utf-8"), study, tuned, tuple(cells))


def read_tuned(path: Path, study: StudyConfig) -> dict[str, dict[str, Any]]:
    """Method → dotted keys, as `optical-dfa tune` wrote them; methods that the study does not have are left out.

    Raises:
        ConfigError: it cannot be read.
    """
    values = Source.read(path, study.methods).values
    if not all(isinstance(found, dict) for found in values.values()):
        raise ConfigError(f"{path}: must hold a mapping of dotted keys for each method, as optical-dfa tune writes it")
    return {method: found for method, found in values.items() if method in study.methods}


def _check(source: Source, study: StudyConfig, tuned: Mapping[str, Mapping[str, Any]]) -> None:
    """Every fault of base, methods and levels, each by itself."""
    known = set(map(str, found := list(_faults(study.base))))
    source.add(found, ("base",))
    for place, changes in _parts(study, tuned):
        new = [fault for fault in _faults(study.base, *changes) if str(fault) not in known]
        source.add([Fault((), str(fault)) for fault in new], place)
    source.check()


def _parts(
    study: StudyConfig, tuned: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[tuple[str | int, ...], Sequence[Mapping[str, Any]]]]:
    """Each thing that changes the base, with its place in the file."""
    for method, changes in study.methods.items():
        yield ("methods", method), [changes]
        if method in tuned:
            yield ("tuned",), [changes, tuned[method]]
    first = next(iter(study.methods.values()))
    for name, factor in study.factors.items():
        for index, level in enumerate(factor.resolved()):
            at = ("levels", index, "set") if factor.levels else ("values", index)
            # alone, or with the first method, which may set what the factor varies around
            alone, both = [level.set], [first, level.set]
            yield ("factors", name, *at), both if list(_faults(study.base, *alone)) else alone
    for key, space in study.tune.space.items() if study.tune else ():
        ends = {"low": space.low, "high": space.high} if isinstance(space, Range) else dict(enumerate(space))
        for where, value in ends.items():
            yield ("tune", "space", key, where), [first, {key: value}]


def _faults(*parts: Mapping[str, Any]) -> Iterator[Fault]:
    try:
        RunConfig.model_validate(with_overrides(*parts))
    except (ValidationError, OverrideError) as error:
        yield from _of(error)


def _of(error: ValidationError | OverrideError) -> Iterator[Fault]:
    if isinstance(error, OverrideError):
        yield error.fault
    else:
        yield from faults_of(error, RunConfig)
