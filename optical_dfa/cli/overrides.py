"""`--set key=value` as nested options."""

from collections.abc import Sequence
from typing import Any

from optical_dfa.config.yaml_marks import YamlSyntaxError, parse_marked
from optical_dfa.run_errors import ConfigError


def options_from(overrides: Sequence[str]) -> dict[str, Any]:
    """Options of a device from `key=value` and `section.key=value` texts, the values in YAML; later ones win.

    Raises:
        ConfigError: a text is not of that form.
    """
    options: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path):
            raise ConfigError(f"--set {text}: must be key=value, for instance seed=3 or camera.adc_bits=12")
        try:
            marked = parse_marked(value)
        except YamlSyntaxError as error:
            raise ConfigError(f"--set {text}: the value is not valid YAML: {error}") from None
        if marked.faults:
            raise ConfigError(f"--set {text}: {marked.faults[0][1]}")
        section = options
        for name in path[:-1]:
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise ConfigError(f"--set {text}: {name} is {section!r} and has no keys: set it as a whole")
        section[path[-1]] = marked.value
    return options
