"""The command `optical-dfa bench-view`: progress, table, files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from optical_dfa.cli.overrides import options_from
from optical_dfa.figures import require_matplotlib
from optical_dfa.files import write_text_whole
from optical_dfa.run_errors import ConfigError, InputError
from optical_dfa.view import Options, look, to_json
from optical_dfa.view.figures import draw
from optical_dfa.view.terminal import show


def preset_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """Sections of a preset from `--set` texts, with or without the `device.` that they have in a configuration.

    Raises:
        ConfigError: a text is not of that form.
    """
    options = options_from([text.strip().removeprefix("device.") for text in texts])
    for name, value in options.items():
        if not isinstance(value, dict):
            raise ConfigError(f"--set {name}: must be section.key=value, for instance camera.read_noise_e=20")
    return options


def run_view(options: Options, out: Path | None, console: Console) -> None:
    """Measure, print the table, and write numbers and pictures where `out` says.

    Raises:
        InputError, optical_dfa.devices.InvalidConfig: the options are not accepted; nothing was measured.
    """
    if out is not None:
        if out.exists() and not out.is_dir():
            raise InputError(f"-o {out}: is a file: give a folder")
        require_matplotlib()
    with console.status("starting") as status:
        found = look(options, tell=lambda what: status.update(f"measuring, {what}"))
    show(found.numbers, console)
    if out is not None:
        with console.status("drawing"):
            files = draw(found, out)
        write_text_whole(out / "bench.json", to_json(found.numbers))
        names = ", ".join(file.stem for file in files if file.suffix == ".png")
        console.print(f"\nIn {out}: bench.json; PNG and SVG: {names}", soft_wrap=True)
