"""Stops between two steps, not inside one: Ctrl-C and SIGTERM become a question the loop asks."""

import signal
import threading
from types import FrameType
from typing import Any, Self


class InterruptGuard:
    """While entered, the first SIGINT or SIGTERM sets `requested`; the second SIGINT interrupts at once.

    Outside the main thread, where Python does not allow handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._restore()

    def _request(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
