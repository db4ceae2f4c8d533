"""Files that are there whole or not at all, whatever happens while they are written."""

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO

PART = ".part"
"""Suffix of what is being written, or was when the machine stopped."""


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file aside, force it to the disk, and move it into place.

    Args:
        path: the file; an existing one is replaced.
        write: writes the content to the binary file it is given.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        with part.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text_whole(path: Path, text: str) -> None:
    """`write_whole` for UTF-8 text."""
    write_whole(path, lambda file: file.write(text.encode()))


def _sync_folder(folder: Path) -> None:
    """Make a move last through a power cut; systems that cannot open a folder do without."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
