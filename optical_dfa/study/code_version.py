"""Which code made a result: a new version of it makes new results, not old ones under another name."""

import hashlib
from functools import cache
from pathlib import Path

import optical_dfa

_NOT_DECIDING = {"bench", "cli", "estimate", "measure", "study", "view"}
"""Subpackages that no number of a training run depends on, but for `_DECIDING`."""

_DECIDING = {"study/cell.py", "study/probe.py"}


@cache
def code_version() -> str:
    """Version of the package and 12 hexadecimal digits of the SHA-256 of the sources that decide a result."""
    root = Path(optical_dfa.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(_sources(root)):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return f"{optical_dfa.__version__}+{digest.hexdigest()[:12]}"


def _sources(root: Path) -> list[Path]:
    # one level at a time: globs do not descend into the links devices/ and emulator/
    folders = [root, *(path for path in root.iterdir() if path.is_dir())]
    folders += [path for folder in folders[1:] for path in folder.iterdir() if path.is_dir()]
    found = [path for folder in folders for path in folder.iterdir() if path.suffix in (".py", ".yaml", ".cu")]
    return [
        path
        for path in found
        if (name := path.relative_to(root)).as_posix() in _DECIDING or name.parts[0] not in _NOT_DECIDING
    ]
