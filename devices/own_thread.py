"""A thread that hardware or a socket lives on: whatever thread calls, it is used by this one alone."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class OwnThread:
    """Runs calls one after the other on a thread of its own, which does not keep the interpreter alive.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.Queue[tuple[Callable[[], Any], Future[Any]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[[], Result]) -> Future[Result]:
        """`call` without waiting."""
        future: Future[Result] = Future()
        self._calls.put((function, future))
        return future

    def call(self, function: Callable[[], Result], timeout_s: float | None = None) -> Result:
        """What `function` returns or raises on the thread.

        Raises:
            TimeoutError: it did not return in time; it goes on, and later calls wait for it.
        """
        return self.submit(function).result(timeout_s)

    def stop(self, timeout_s: float | None = None) -> bool:
        """Let the thread end behind the calls that wait; returns whether it has ended in time."""
        self._calls.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        for function, future in iter(self._calls.get, None):
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
