"""Reads configurations from YAML and `--set`, and reports every fault at once, each with its place."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path as FilePath
from typing import Any, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ValidationError

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
    source = Source.read(path, RunConfig.model_fields)
    for override in overrides:
        source.override(override)
    return source.validated(RunConfig)


class _Place(NamedTuple):
    """Where a value was given; sorts by line, with `--set` last."""

    line: int
    text: str


Model = TypeVar("Model", bound=BaseModel)


class Source:
    """The values of a YAML file and of overrides, where each came from, and the faults found so far.

    Attributes:
        values: plain dicts and lists.
    """

    def __init__(self, file: FilePath, marked: MarkedValue) -> None:
        self._file = file
        self.values: dict[str, Any] = marked.value
        self._places = {path: self._in_file(line) for path, line in marked.lines.items()}
        self._faults = [(self._in_file(line), fault) for line, fault in marked.faults]

    @classmethod
    def read(cls, path: str | FilePath, sections: Iterable[str]) -> Self:
        """Read a file that must hold a mapping.

        Args:
            path: the file.
            sections: keys it may have, for the message.

        Raises:
            ConfigError: it cannot be read, is not YAML, or holds no mapping.
        """
        path = FilePath(path)
        try:
            marked = parse_marked(path.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError as error:
            message = f"{path}: not UTF-8 text (byte {error.start}): a configuration is a YAML text file"
            raise ConfigError(message) from None
        except YamlSyntaxError as error:
            where = f"{path}:{error.line}" if error.line else str(path)
            raise ConfigError(f"{where}: not valid YAML: {error}") from None
        if not isinstance(marked.value, dict):
            given = "it is empty (write {} for every default)" if marked.value is None else f"got {marked.value!r:.60}"
            raise ConfigError(f"{path}: must hold a mapping with the sections {', '.join(sections)}; {given}")
        return cls(path, marked)

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
        if isinstance(device := self.values.get("device"), str):
            self.values["device"] = {"name": device}
        section = self.values
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

    def validated(self, model: type[Model]) -> Model:
        """The values as that model.

        Raises:
            ConfigError: with every fault, in the order of the lines.
        """
        try:
            config = model.model_validate(self.values)
        except ValidationError as error:
            self.add(faults_of(error, model))
            config = None
        self.check()
        assert config is not None  # a validation error holds a fault
        return config

    def add(self, faults: Iterable[Fault], inside: Path = ()) -> None:
        """Note faults; their paths begin at `inside`."""
        for fault in faults:
            path = (*inside, *fault.path)
            self._faults.append((self._place(path), Fault(path, fault.message)))

    def check(self) -> None:
        """Raise `ConfigError` with every fault so far, in the order of the lines, if there is any."""
        if self._faults:
            self._faults.sort(key=lambda located: located[0].line)
            lines = [f"{place.text}: {fault}" for place, fault in self._faults]
            if len(lines) > 1:
                lines.insert(0, f"{len(lines)} faults in the configuration:")
            raise ConfigError("\n".join(lines).replace("\n", "\n  "))

    def _in_file(self, line: int) -> _Place:
        return _Place(line, f"{self._file}:{line}")

    def _place(self, path: Path) -> _Place:
        """Where the value at `path`, or else the innermost thing around it, was given."""
        known = (self._places.get(path[:end]) for end in range(len(path), -1, -1))
        return next(filter(None, known), self._in_file(1))


def faults_of(error: ValidationError, model: type[BaseModel]) -> Iterator[Fault]:
    """Every fault that the validation found, those of checks that span several keys with their full paths."""
    for detail, fault in zip(error.errors(), validation_faults(error, model), strict=True):
        cause = detail.get("ctx", {}).get("error")
        yield from cause.faults if isinstance(cause, FaultsError) else (fault,)
