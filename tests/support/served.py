"""Device servers for tests: in a thread of this process, or in a process of their own."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optical_dfa.devices import ProjectionDevice, RemoteDevice
from optical_dfa.devices.server.opu_server import Served, Server, write_keys
from optical_dfa.devices.serving import ServedDevice

ANYWHERE = "tcp://127.0.0.1:*"


@contextlib.contextmanager
def running(server: Server) -> Iterator[str]:
    """The address of a server that runs in a thread; afterwards it is stopped, and its error raised."""
    listening = threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            server.run(lambda _: listening.set())
        except BaseException as error:
            failed.append(error)
            listening.set()

    thread = threading.Thread(target=run)
    thread.start()
    listening.wait()
    try:
        if failed:
            raise failed[0]
        yield server.address
    finally:
        server.stop()
        thread.join(20)
        assert not thread.is_alive()


@contextlib.contextmanager
def serving(served: ProjectionDevice | Served, **options: Any) -> Iterator[str]:
    """The address of a server of a device, on this machine."""
    with running(
        Server(ServedDevice(served) if isinstance(served, ProjectionDevice) else served, ANYWHERE, **options)
    ) as at:
        yield at


def remote(address: str, n_inputs: int = 30, n_outputs: int = 21, **options: Any) -> RemoteDevice:
    """An impatient client."""
    values = {"patience_s": 2.0, "timeout_s": 20.0, **options}
    return RemoteDevice(n_inputs=n_inputs, n_outputs=n_outputs, address=address, **values)


class Keys:
    """Keys of a server, of a client that it knows, and of one that it does not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "clients"
        self.folder.mkdir(parents=True)
        for name in ("server", "stranger"):
            write_keys(str(folder), name)
        known, public = write_keys(str(folder), "known")
        Path(public).rename(self.folder / "known.public")
        self.server, self.public = str(folder / "server.secret"), str(folder / "server.public")
        self.known, self.stranger = known, str(folder / "stranger.secret")

    @property
    def of_server(self) -> dict[str, Any]:
        return {"key": self.server, "clients": str(self.folder)}

    def of_client(self, name: str = "known") -> dict[str, Any]:
        return {"server_key": self.public, "key": getattr(self, name)}


class Process:
    """`optical-dfa serve` in a process of its own, which may be killed and started again.

    Args:
        arguments: of the command.
        port: where it listens.
        log: file that what it says on standard error is added to; None: nobody hears it.
    """

    def __init__(self, *arguments: str, port: int, log: Path | None = None) -> None:
        self._log = log or Path(os.devnull)
        self.address = f"tcp://127.0.0.1:{port}"
        program = "from optical_dfa.cli import app; app()"
        self._command = [sys.executable, "-c", program, "serve", *arguments, "--listen", self.address]
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, "RANK": "0"}
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == f"listening on {self.address}\n", line

    def end(self, how: int = signal.SIGKILL) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.send_signal(how)
        status = self.process.wait(30)
        self.process.stdout.close()
        return status


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
