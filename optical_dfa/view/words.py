"""What bench it is, in words."""

from collections.abc import Mapping
from typing import Any

from optical_dfa.view.report import Numbers


def title(numbers: Numbers) -> str:
    """Preset and changes, and in a second line what is shown on it."""
    changed = ", ".join(f"{name} {value}" for name, value in _flat(numbers.overrides).items())
    rows, columns = numbers.image_shape
    frames = f"{numbers.steps} frame{'s' * (numbers.steps > 1)} a pattern"
    return (
        f"Emulated bench “{numbers.preset}”{f' with {changed}' if changed else ''}\n"
        f"{numbers.n_on} of {numbers.n_inputs} features ON, {rows:,} x {columns:,} pixels, "
        f"{numbers.readout.replace('_', ' ')}, {frames}"
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
