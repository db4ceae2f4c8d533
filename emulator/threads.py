"""The threads that all Numba kernels of this process share.

Kernels run without the interpreter's lock. Numba's own `parallel=True` is not used: its threads die with a fork and
with two threads that call at once.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from optical_dfa.emulator.checks import require

THREADS_VARIABLE = "OPTICAL_DFA_THREADS"
"""Environment variable: most threads of one call. Never more than the CPUs that the process may use."""

Job = TypeVar("Job")
Scratch = TypeVar("Scratch")


def n_threads() -> int:
    """Threads that a large piece of work is split over.

    Raises:
        ValueError: the environment variable OPTICAL_DFA_THREADS is not a whole number, 1 or more.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wish = os.environ.get(THREADS_VARIABLE, "")
    accepted = wish == "" or (wish.isdecimal() and int(wish) > 0)
    require(accepted, f"environment variable {THREADS_VARIABLE}", wish, "a whole number, 1 or more")
    return min(cpus, int(wish)) if wish else cpus


def share(
    jobs: Iterable[Job], threads: int, make_scratch: Callable[[], Scratch], work: Callable[[Job, Scratch], None]
) -> None:
    """Do every job, in no order, on this thread and up to `threads` - 1 others.

    Args:
        jobs: what to do.
        threads: most threads.
        make_scratch: makes the buffers of one thread.
        work: does one job with the buffers of its thread.
    """
    waiting = deque(jobs)

    def serve() -> None:
        scratch = make_scratch()
        while True:
            try:
                job = waiting.popleft()  # atomic: jobs go to whoever is free
            except IndexError:
                return
            work(job, scratch)

    others = [_pool.executor().submit(serve) for _ in range(min(threads, len(waiting)) - 1)]
    try:
        serve()
    finally:
        for other in others:
            other.result()


class _Pool:
    """Threads, made when they are first needed. A forked child has none of its parent's and begins anew."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    def executor(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="optical-dfa")
            return self._executor


_pool = _Pool()


def _forget_pool() -> None:
    global _pool
    _pool = _Pool()  # with a fresh lock: the old one may have been held at the moment of the fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
