"""Dotted keys put into nested configurations."""

import copy
from collections.abc import Mapping
from typing import Any

from optical_dfa.devices.faults import Fault


class OverrideError(ValueError):
    """A dotted key leads through something that has no keys."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


def with_overrides(base: Mapping[str, Any], *overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the values at dotted keys changed; later ones win. The base is left alone.

    Raises:
        OverrideError: a key leads through a number, text or list.
    """
    values = copy.deepcopy(dict(base))
    for changes in overrides:
        for key, value in changes.items():
            _set(values, key, value)
    return values


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    inside = values
    for depth, name in enumerate(sections, start=1):
        if isinstance(inside.get(name), str) and sections[:depth] == ["device"]:
            inside[name] = {"name": inside[name]}
        inside = _section(inside, name, ".".join(sections[:depth]))
    inside[last] = copy.deepcopy(value)


def _section(inside: dict[str, Any], name: str, key: str) -> dict[str, Any]:
    if inside.get(name) is None:
        inside[name] = {}
    section = inside[name]
    if not isinstance(section, dict):
        raise OverrideError(Fault((), f"{key} is {section!r} and has no keys: set it as a whole"))
    return section
