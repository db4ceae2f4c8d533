"""The table of `optical-dfa devices`."""

from dataclasses import fields

from rich.console import Console
from rich.table import Table

from optical_dfa.devices import DeviceEntry, available_devices, load_preset, preset_names

_SET_BY_THE_NET = ("n_inputs", "n_outputs")


def show_devices(console: Console) -> None:
    """Print every device with what it is and takes, the presets of the emulator, and what they set."""
    for table in (_devices(available_devices()), _presets(), _preset_values()):
        console.print(table)
        console.print()
    console.print("For instance: --set device=digital, or --set device.camera.adc_bits=12")
    console.print("Every device also takes on_fault: what to do when it fails")


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


def _preset_values() -> Table:
    table = _table("Values of a preset, all of them options too", "section", "values")
    preset = load_preset(preset_names()[0])
    bench = preset.bench
    table.add_row("readout", ", ".join(value.name for value in fields(preset.readout)))
    for section in fields(bench):
        table.add_row(section.name, ", ".join(value.name for value in fields(getattr(bench, section.name))))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("name", "section"), header_style="dim")
    return table
