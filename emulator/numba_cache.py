"""Compiling of Numba kernels, and where the compiled code is kept.

Compiled code is kept on disk in a folder named after the content of all sources of this folder: Numba's own cache
notices a change in the file of a kernel only, not in the files that the kernel takes intrinsics and constants from.
"""

import functools
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba


@functools.cache
def source_key() -> str:
    """Hash of the content of all sources beside this one, 16 hexadecimal digits."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    contents = b"".join(file.name.encode() + hashlib.sha256(file.read_bytes()).digest() for file in files)
    return hashlib.sha256(contents).hexdigest()[:16]


@functools.cache
def cache_folder() -> Path | None:
    """Folder of the compiled kernels, named after their source; None if it cannot be written.

    It lies in $NUMBA_CACHE_DIR, or in the user's cache folder: never where others may write, for what is loaded from it
    is run.
    """
    try:
        base = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "optical_dfa" / source_key()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return None
    return folder


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call, or load from `cache_folder`. Without the interpreter's lock and without threads."""
    config: Any = numba.config
    folder, usual = cache_folder(), config.CACHE_DIR
    config.CACHE_DIR = str(folder or usual)  # read by the decorator, which has no argument for it
    try:
        kernel: Any = numba.njit(nogil=True, error_model="numpy", cache=folder is not None)(function)
    finally:
        config.CACHE_DIR = usual
    if folder is not None:
        kernel._cache._cache_file = _Signed(kernel._cache._cache_file)
    return kernel


class _Signed:
    """Numba's files of compiled code, which here hold the signature that they were compiled for.

    Numba numbers them: two processes that compile one kernel at the same time, for different arguments, may write their
    code under the same number, and the index then names the file of the other. Such code would run, and read wrong
    numbers from its arguments. Here it counts as not there, and is compiled again.
    """

    def __init__(self, files: Any) -> None:
        self._files = files

    def save(self, key: Any, data: Any) -> None:
        self._files.save(key, (key, data))

    def load(self, key: Any) -> Any:
        signature, data = self._files.load(key) or (None, None)
        return data if signature == key else None


def inlined(function: Callable[..., Any]) -> Any:
    """A part of a compiled function, put into it where it is called."""
    return numba.njit(inline="always", error_model="numpy")(function)


def joined(function: Callable[..., Any]) -> Any:
    """As `inlined`, by LLVM instead of Numba, which then types it once for all places: for large or much used parts."""
    return numba.njit(forceinline=True, nogil=True, error_model="numpy")(function)
