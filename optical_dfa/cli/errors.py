"""Errors of a user as one clean message; bugs keep their traceback."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from optical_dfa.devices import DeviceError, FingerprintMismatch, InvalidConfig, UnknownDevice
from optical_dfa.errors import AttachError, FeedbackError
from optical_dfa.run_errors import InputError, StudyIncomplete, TrainingError, TrainingInterrupted

BAD_INPUT = 2
FAULT = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells expect

_STATUS: tuple[tuple[tuple[type[BaseException], ...], int], ...] = (
    ((InputError, UnknownDevice, InvalidConfig, FingerprintMismatch, AttachError), BAD_INPUT),
    ((TrainingInterrupted, KeyboardInterrupt), INTERRUPTED),
    ((TrainingError, StudyIncomplete, DeviceError, FeedbackError, OSError), FAULT),
)


@contextmanager
def clean_errors() -> Iterator[None]:
    """Within the block, expected errors end the program with a message and a status, and warnings take one line."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            yield
        except tuple(kind for kinds, _ in _STATUS for kind in kinds) as error:
            status = next(status for kinds, status in _STATUS if isinstance(error, kinds))
            message = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
            lines = [message if status == INTERRUPTED else f"error: {message}", *getattr(error, "__notes__", ())]
            typer.echo("\n".join(lines), err=True)
            raise typer.Exit(status) from None


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)  # not typer.echo: a live bar moves what is printed above itself
