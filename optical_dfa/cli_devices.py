"""The table of `optical-dfa devices`."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from optical_dfa.devices import DeviceEntry, available_devices, load_preset, preset_names

_SET_BY_THE_NET = ("n_inputs", "n_outputs")


def show_devices(console: Console) -> None:
    """Print every device with what it is and takes, and the presets of the emulator."""
    console.print(_devices(available_devices()))
    console.print(_presets())
    console.print("Choose one with --set device=NAME, its options with --set device.OPTION=VALUE.", style="dim")


def _devices(entries: list[DeviceEntry]) -> Table:
    table = _table("Devices", "name", "what it is", "options", "here")
    for entry in entries:
        source = "" if entry.source == "optical_dfa" else f" (from {entry.source})"
        options = "\n".join(option for option in entry.options if option not in _SET_BY_THE_NET)
        table.add_row(entry.name, entry.summary + source, options, entry.problem or "yes")
    return table


def _presets() -> Table:
    table = _table("Presets of the emulator", "name", "what it is")
    for preset in map(load_preset, preset_names()):
        table.add_row(preset.name, preset.description)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "name", header_style="dim")
    return table
