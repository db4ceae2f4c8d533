"""Who works on a cell, and whether that process is still there."""

import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Worker:
    """One process."""

    host: str
    """Name of the machine and, on Linux, of the space in which process numbers count."""
    pid: int
    started: str
    """When it started, by the kernel's clock: numbers of processes come round again."""

    @classmethod
    def here(cls) -> "Worker":
        """This process."""
        return cls(_host(), os.getpid(), _started(os.getpid()))

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def is_dead(worker: Mapping[str, Any]) -> bool:
    """Whether that process is known to be gone. One on another machine never is: its heartbeat tells."""
    return bool(worker["host"] == _host() and _started(worker["pid"]) != worker["started"])


@cache
def _host() -> str:
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = "-"
    return f"{socket.gethostname()} {space}"


def _started(pid: int) -> str:
    """Empty if there is no such process; a number that is always the same where the kernel does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except FileNotFoundError:
        return "" if Path("/proc/self/stat").exists() else _started_elsewhere(pid)
    except ProcessLookupError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]  # state and start time, proc(5)


def _started_elsewhere(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "running"
