"""Clients that ask a device server for all sorts of things, and know every answer."""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from device_kinds import counts, opened
from served import remote


@dataclass
class Load:
    """What some clients met."""

    seconds: list[float] = field(default_factory=list)
    """Of each request."""
    wrong: list[str] = field(default_factory=list)
    """Answers that were not those of a device of the client's own."""

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.seconds, percent)) * 1e3


def put_load(address: str, clients: int, seconds: float, **keys: Any) -> Load:
    """Ask for so long: one to 200 vectors, now and then a repeated position or a new connection."""
    load, end = Load(), time.monotonic() + seconds

    def work(stream: int) -> None:
        generator = np.random.default_rng(stream)
        device = remote(address, stream=stream, timeout_s=120.0, **keys).open()
        try:
            with opened("noisy", stream=stream, backend="numpy") as local:
                while time.monotonic() < end:
                    batch = int(generator.choice([1, 2, 7, 40, 200], p=[0.4, 0.25, 0.2, 0.1, 0.05]))
                    vectors = generator.integers(-1, 2, (batch, 30), np.int8)
                    if generator.random() < 0.05:
                        state = device.state_dict()
                        device.project(vectors)
                        device.load_state_dict(state)
                    start = time.perf_counter()
                    fields = device.project(vectors)
                    load.seconds.append(time.perf_counter() - start)
                    if not np.array_equal(fields, local.project(vectors)):
                        load.wrong.append(f"client {stream}, request {len(load.seconds)}")
                    if generator.random() < 0.01:
                        device.close()
                        device.open()
                if device.state_dict() != local.state_dict() or counts(device.usage)["frames"] < local.usage.frames:
                    load.wrong.append(f"client {stream}: {device.state_dict()}, {local.state_dict()}")
        except BaseException as error:
            load.wrong.append(f"client {stream}: {error!r}")
        finally:
            device.close()

    threads = [threading.Thread(target=work, args=(stream,)) for stream in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 180)
    return load


def resident_bytes(pid: int) -> int:
    """Main memory of a process."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * 4096
