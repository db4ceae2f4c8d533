"""Presets of emulated benches: named YAML files, one number a line, each with its unit and source.

A preset has the sections of `optical_dfa.emulator.BenchParameters`; one that is left out is off. It may have a section
`readout`; without one it is four-step phase stepping. Overrides change single values of it.

A preset of one's own is the path of such a file. It may have a section `measured`, which names the files of the light
that was measured on a bench, relative to its folder: a digital twin, as `optical-dfa twin` writes it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from optical_dfa.devices.errors import InvalidConfig
from optical_dfa.devices.faults import Fault, listed, nearest, validation_faults
from optical_dfa.devices.presets.summary import summary
from optical_dfa.devices.readouts.settings import PhaseSteppingSettings, ReadoutSettings, readout_settings
from optical_dfa.devices.twin_files import MeasuredFiles
from optical_dfa.emulator import BenchParameters

_PARAMETERS = TypeAdapter(BenchParameters)

SUFFIXES = (".yaml", ".yml")
"""How the path of a preset of one's own ends."""


@dataclass(frozen=True)
class Preset:
    """A named bench."""

    name: str
    description: str
    bench: BenchParameters
    readout: ReadoutSettings = field(default_factory=PhaseSteppingSettings)
    measured: MeasuredFiles | None = None
    """Light that was measured, in place of the matrix of a seed."""

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
        preset: a name from `preset_names`, the path of a file of one's own (`.yaml`), or a preset.
        overrides: sections to change, for instance `{"camera": {"read_noise_e": 20}}`.

    Raises:
        InvalidConfig: unknown preset; unknown, mistyped or impossible values, all of them at once.
    """
    measured = None
    if isinstance(preset, Preset):
        name, description, measured = preset.name, preset.description, preset.measured
        values = {**_PARAMETERS.dump_python(preset.bench), "readout": asdict(preset.readout)}
    else:
        name, values = str(preset), _content(preset)
        description = str(values.pop("description", ""))
        if "measured" in values:
            measured = _measured_files(Path(preset), values.pop("measured"))
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
    return Preset(name, description, bench, readout_settings(_merged(before, readout)), measured)


def _content(preset: str) -> dict[str, Any]:
    """What the file of a preset says."""
    if isinstance(preset, str) and preset.endswith(SUFFIXES):
        try:
            content = yaml.safe_load(Path(preset).read_text("utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise _refused(f"{preset}: cannot be read as a preset ({error}): optical-dfa twin writes one") from None
        if not isinstance(content, dict):
            raise _refused(f"{preset}: must be a mapping of sections, as the files of devices/presets are")
        return content
    known = preset_names()
    if preset not in known:
        raise _refused(f"unknown preset {preset!r}.{nearest(preset, known)} Known: {', '.join(known)}")
    packaged: dict[str, Any] = yaml.safe_load(resources.files(__name__).joinpath(f"{preset}.yaml").read_text("utf-8"))
    return packaged


def _measured_files(preset: Path, section: object) -> MeasuredFiles:
    if not (isinstance(section, dict) and section.keys() == {"matrix", "maps"}):
        raise _refused(f"{preset}: measured must have the keys matrix and maps, two files; got {section!r}")
    return MeasuredFiles(*(preset.parent / str(section[name]) for name in ("matrix", "maps")))


def _refused(message: str) -> InvalidConfig:
    return InvalidConfig(message, [Fault(("preset",), message)])


def _merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in overrides.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
