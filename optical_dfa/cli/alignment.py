"""What `optical-dfa train` says of alignment at the end of a run."""

from pathlib import Path

import typer

from optical_dfa.alignment import JsonLines
from optical_dfa.training.run_folder import RunFolder


def show_alignment(path: Path) -> None:
    """Print the last measurement of the run in that folder, and where the others are."""
    folder = RunFolder(path)
    if history := JsonLines(folder.alignment).read():
        typer.echo(f"\n{history[-1]}\n")
        drawn = f", drawn in {folder.alignment_figure}" if folder.alignment_figure.exists() else ""
        typer.echo(f"{len(history)} measurements in {folder.alignment}{drawn}")
