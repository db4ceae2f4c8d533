"""The command `optical-dfa estimate`: progress, tables, files."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from optical_dfa.config import RunConfig
from optical_dfa.files import write_text_whole
from optical_dfa.run_errors import InputError


@dataclass(frozen=True)
class Options:
    """What to estimate, as the command takes it."""

    config: Path
    overrides: Sequence[str] = ()
    out: Path | None = None
    threads: int | None = None
    quick: bool = False

    def check(self) -> None:
        """Refuse what cannot be estimated, before anything is measured.

        Raises:
            InputError: what was given, what is accepted.
        """
        if self.out is not None:
            if self.out.exists() and not self.out.is_dir():
                raise InputError(f"-o {self.out}: is a file: give a folder")
            from optical_dfa.figures import require_matplotlib

            require_matplotlib()

    @property
    def command(self) -> str:
        """The command line that asks for this."""
        words = ["optical-dfa", "estimate", str(self.config)]
        words += [word for override in self.overrides for word in ("--set", override)]
        words += ["--threads", str(self.threads)] if self.threads is not None else []
        words += ["--quick"] if self.quick else []
        words += ["-o", str(self.out)] if self.out is not None else []
        return shlex.join(words)


def run_estimate(config: RunConfig, options: Options, console: Console) -> None:
    """Measure, print the tables, and write tables, figure and JSON where `options.out` says.

    Raises:
        InputError: the options are not accepted, or the data cannot be had; nothing was measured.
        optical_dfa.devices.InvalidConfig: the net is larger than the modelled machine.
    """
    from optical_dfa.estimate import estimate
    from optical_dfa.estimate.figure import draw
    from optical_dfa.estimate.markdown import to_markdown
    from optical_dfa.estimate.report import to_json
    from optical_dfa.estimate.terminal import show

    with console.status("starting") as status:
        found = estimate(
            config,
            name=options.config.stem,
            threads=options.threads,
            quick=options.quick,
            tell=lambda what: status.update(f"measuring, {what}"),
        )
    show(found, console)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        write_text_whole(options.out / "estimate.json", to_json(found))
        write_text_whole(options.out / "estimate.md", to_markdown(found, options.command))
        draw(found, options.out / "break-even.png")
        console.print(f"\nIn {options.out}: estimate.md, estimate.json, break-even.png", soft_wrap=True)
