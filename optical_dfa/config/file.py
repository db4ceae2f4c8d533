"""Reads a run's configuration from YAML and `--set`, and reports every fault at once, each with its place."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath
from typing import Any, NamedTuple

from pydantic import ValidationError

from optical_dfa.config.models import FaultsError, RunConfig
from optical_dfa.config.yaml_marks import MarkedValue, Path, YamlSyntaxError, parse_marked
from optical_dfa.devices.faults import Fault, validation_faults
from optical_dfa.run_errors import ConfigError


def load_config(path: str | FilePath, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration in a YAML file, with some values changed.

    Args:
        path: YAML file with the sections of `RunConfig`; what it leaves out has its default.
        overrides: `section.key=value`, the value in YAML; later ones win. They need not be in the file.

    Raises:
        ConfigError: the file cannot be read, or is wrong; the message names file, line and key of every fault.
    """
    path = FilePath(path)
    try:
        marked = parse_marked(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}): a configuration is a YAML text file") from None
    except YamlSyntaxError as error:
        where = f"{path}:{error.line}" if error.line else str(path)
        raise ConfigError(f"{where}: not valid YAML: {error}") from None
    if not isinstance(marked.value, dict):
        given = "it is empty (write {} for every default)" if marked.value is None else f"got {marked.value!r:.60}"
        raise ConfigError(f"{path}: must hold a mapping with the sections {', '.join(RunConfig.model_fields)}; {given}")
    source = _Source(path, marked)
    for override in overrides:
        source.override(override)
    return source.config()


class _Place(NamedTuple):
    """Where a value was given; sorts by line, with `--set` last."""

    line: int
    text: str


class _Source:
    """The values of a file and of overrides, and where each came from."""

    def __init__(self, file: FilePath, marked: MarkedValue) -> None:
        self._file = file
        self._values: dict[str, Any] = marked.value
        self._places = {path: self._in_file(line) for path, line in marked.lines.items()}
        self._faults = [(self._in_file(line), fault) for line, fault in marked.faults]

    def override(self, text: str) -> None:
        """Change one value, as `section.key=value` says; what is wrong with it is kept for `config`."""
        key, equals, value = text.partition("=")
        path, place = tuple(key.strip().split(".")), _Place(sys.maxsize, f"--set {text}")
        if not equals or not all(path):
            self._faults.append((place, Fault((), "must be section.key=value, for instance training.epochs=3")))
            return
        try:
            marked = parse_marked(value)
        except YamlSyntaxError as error:
            self._faults.append((place, Fault((), f"the value is not valid YAML: {error}")))
            return
        self._faults += [(place, Fault((*path, *fault.path), fault.message)) for _, fault in marked.faults]
        if isinstance(device := self._values.get("device"), str):
            self._values["device"] = {"name": device}
        section = self._values
        for depth, name in enumerate(path[:-1], start=1):
            if section.get(name) is None:
                section[name] = {}
                self._places[path[:depth]] = place
            section = section[name]
            if not isinstance(section, dict):
                message = f"{'.'.join(path[:depth])} is {section!r} and has no keys: set it as a whole"
                self._faults.append((place, Fault((), message)))
                return
        section[path[-1]] = marked.value
        self._places = {known: where for known, where in self._places.items() if known[: len(path)] != path}
        self._places[path] = place

    def config(self) -> RunConfig:
        """The configuration.

        Raises:
            ConfigError: with every fault, in the order of the lines.
        """
        try:
            config = RunConfig.model_validate(self._values)
        except ValidationError as error:
            self._faults += [(self._place(fault.path), fault) for fault in _faults_of(error)]
        if self._faults:
            self._faults.sort(key=lambda located: located[0].line)
            lines = [f"{place.text}: {fault}" for place, fault in self._faults]
            if len(lines) > 1:
                lines.insert(0, f"{len(lines)} faults in the configuration:")
            raise ConfigError("\n".join(lines).replace("\n", "\n  "))
        return config

    def _in_file(self, line: int) -> _Place:
        return _Place(line, f"{self._file}:{line}")

    def _place(self, path: Path) -> _Place:
        """Where the value at `path`, or else the innermost thing around it, was given."""
        known = (self._places.get(path[:end]) for end in range(len(path), -1, -1))
        return next(filter(None, known), self._in_file(1))


def _faults_of(error: ValidationError) -> Iterator[Fault]:
    for detail, fault in zip(error.errors(), validation_faults(error, RunConfig), strict=True):
        cause = detail.get("ctx", {}).get("error")
        yield from cause.faults if isinstance(cause, FaultsError) else (fault,)
