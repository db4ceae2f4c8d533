"""Faults of a configuration in words: where, what was given, what is accepted, and the nearest known name."""

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing wrong in a configuration."""

    path: tuple[str | int, ...]
    """Keys and indices that lead to it."""
    message: str

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.path))}: {self.message}" if self.path else self.message


def listed(faults: Sequence[Fault]) -> str:
    """Faults as the end of a message: one on the same line, several on a line each."""
    return f" {faults[0]}" if len(faults) == 1 else "".join(f"\n  {fault}" for fault in faults)


def nearest(name: object, known: Iterable[str]) -> str:
    """' Did you mean …?' with the nearest known name, or nothing if none is near."""
    matches = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def unknown_key(key: object, known: Iterable[str]) -> str:
    """Message for a key that does not exist."""
    known = list(known)
    return f"unknown key.{nearest(key, known)} Known here: {', '.join(known)}"


def validation_faults(error: ValidationError, model: type) -> Iterator[Fault]:
    """Every fault that pydantic found.

    Args:
        error: what pydantic raised.
        model: the pydantic model or dataclass that was validated; its field names give the suggestions.
    """
    for detail in error.errors():
        path, kind = detail["loc"], detail["type"]
        if kind in ("extra_forbidden", "unexpected_keyword_argument"):
            yield Fault(path, unknown_key(path[-1], _fields_at(model, path[:-1])))
        elif kind in ("missing", "missing_argument"):
            yield Fault(path, "missing; it must be given")
        elif kind in ("tuple_type", "list_type"):
            yield Fault(path, f"must be a list, [{detail['input']!r}] for one value; got {detail['input']!r}")
        elif kind == "value_error":
            yield Fault(path, str(detail["ctx"]["error"]))
        elif kind == "literal_error":
            expected = detail["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            yield Fault(path, f"must be one of {', '.join(expected)}; got {detail['input']!r}."
                              f"{nearest(detail['input'], expected)}")  # fmt: skip
        else:
            yield Fault(path, f"{detail['msg'][0].lower()}{detail['msg'][1:]}; got {detail['input']!r}")


def _fields_at(model: type, path: Iterable[str | int]) -> list[str]:
    """Names of the fields of the model that `path` leads to; none where the path leaves the known models."""
    current: Any = model
    for key in path:
        fields = _field_types(current)
        if not isinstance(key, str) or key not in fields:
            return []
        current = fields[key]
    return list(_field_types(current))


def _field_types(model: Any) -> dict[str, Any]:
    candidates = [model, *getattr(model, "__args__", ())]  # `Model | None` is a model too
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return {name: field.annotation for name, field in candidate.model_fields.items()}
        if dataclasses.is_dataclass(candidate):
            return {field.name: field.type for field in dataclasses.fields(candidate)}
    return {}
