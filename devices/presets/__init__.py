"""Presets of emulated benches: named YAML files, one number a line, each with its unit and source.

A preset has the sections of `optical_dfa.emulator.BenchParameters`; one that is left out is off. It may have a section
`readout`; without one it is four-step phase stepping. Overrides change single values of it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from optical_dfa.devices.errors import InvalidConfig
from optical_dfa.devices.faults import Fault, listed, nearest, validation_faults
from optical_dfa.devices.presets.summary import summary
from optical_dfa.devices.readouts.settings import PhaseSteppingSettings, ReadoutSettings, readout_settings
from optical_dfa.emulator import BenchParameters

_PARAMETERS = TypeAdapter(BenchParameters)


@dataclass(frozen=True)
class Preset:
    """A named bench."""

    name: str
    description: str
    bench: BenchParameters
    readout: ReadoutSettings = field(default_factory=PhaseSteppingSettings)

    def summary(self) -> str:
        """Description and every value that is on, a line each, with its unit."""
        return f"{self.name}: {self.description}\n{summary(self.bench, self.readout)}"


def preset_names() -> list[str]:
    """Names of the presets, in alphabetical order."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load_preset(preset: str | Preset, overrides: Mapping[str, Any] | None = None) -> Preset:
    """The preset of that name with some values changed.

    Args:
        preset: a name from `preset_names`, or a preset.
        overrides: sections to change, for instance `{"camera": {"read_noise_e": 20}}`.

    Raises:
        InvalidConfig: unknown preset; unknown, mistyped or impossible values, all of them at once.
    """
    if isinstance(preset, Preset):
        name, description = preset.name, preset.description
        values = {**_PARAMETERS.dump_python(preset.bench), "readout": asdict(preset.readout)}
    else:
        known = preset_names()
        if preset not in known:
            message = f"unknown preset {preset!r}.{nearest(preset, known)} Known: {', '.join(known)}"
            raise InvalidConfig(message, [Fault(("preset",), message)])
        values = yaml.safe_load(resources.files(__name__).joinpath(f"{preset}.yaml").read_text("utf-8"))
        name, description = preset, values.pop("description")
    changes = dict(overrides or {})
    before, readout = values.pop("readout", {}), changes.pop("readout", {})
    if "kind" in readout and readout["kind"] != before.get("kind", "phase_stepping"):
        before = {}  # nothing that one kind is set to means anything to another
    try:
        # as JSON: in pydantic's strict mode (no "4" for 4, no true for 1.0) a mapping makes a dataclass only from there
        bench = _PARAMETERS.validate_json(json.dumps(_merged(values, changes)))
    except ValidationError as error:
        faults = list(validation_faults(error, BenchParameters))
        raise InvalidConfig(f"preset {name!r} with these overrides is not valid:{listed(faults)}", faults) from None
    return Preset(name, description, bench, readout_settings(_merged(before, readout)))


def _merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in overrides.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
