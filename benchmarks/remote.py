"""What the network costs: a device behind a server with keys, beside the same device here.

The device needs 0.5 ms a frame and two frames a vector, as an OPU does at its best, and gives 10,000 outputs. Both
are timed in one run, in turns, and the median of the pairs is the result. The last column is the CPU time, of both
sides and all their threads, that a call takes more when it is served: on a machine with other work, waiting for a core
adds to the first columns and hardly to this one.

    python benchmarks/remote.py
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from optical_dfa.devices import DeviceInfo, ProjectionDevice, RemoteDevice, Usage
from optical_dfa.devices.base import Fields, Vectors
from optical_dfa.devices.server.opu_server import Server, write_keys
from optical_dfa.devices.serving import ServedDevice

FRAME_S = 0.5e-3
FRAMES_PER_VECTOR = 2
BAR = 0.10


class TimedDevice(ProjectionDevice):
    """Takes the time of the frames, and gives numbers that it drew before."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.matrix_identity = {"kind": "timed"}
        self._fields = np.random.default_rng(0).standard_normal((512, n_outputs)).astype(np.float32)
        self.info = DeviceInfo(
            name="timed", n_inputs=n_inputs, n_outputs=n_outputs, linear=True, exact=False, accepts_real=False,
            backend="none", frames_per_vector=FRAMES_PER_VECTOR, n_pixels=n_outputs, outputs_per_mode=1,
            output_map="rows", matrix=None,
        )  # fmt: skip

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        end = time.perf_counter() + FRAME_S * FRAMES_PER_VECTOR * len(vectors)
        fields = self._fields[: len(vectors)].copy()
        time.sleep(max(0.0, end - time.perf_counter()))
        return fields, Usage(frames=FRAMES_PER_VECTOR * len(vectors))


def serve(folder: str, sizes: tuple[int, int], address: "multiprocessing.Queue[str]") -> None:
    """The server's process."""
    served = ServedDevice(TimedDevice(*sizes))
    Server(served, "tcp://127.0.0.1:*", f"{folder}/server.secret", f"{folder}/clients").run(address.put)


def cpu_s(pid: int) -> float:
    """CPU time of a process, all threads (Linux: the clock of CLOCK_PROCESS_CPUTIME_ID of another process)."""
    return time.clock_gettime((~pid << 3) | 2)


def measure(batches: list[int], sizes: tuple[int, int], pairs: int) -> list[tuple[int, float, float, float, float]]:
    """Batch, seconds here, seconds there, the median of what there takes more, as a fraction, and more CPU seconds."""
    folder = tempfile.mkdtemp()
    (Path(folder) / "clients").mkdir()
    write_keys(folder, "server")
    write_keys(f"{folder}/clients", "client")
    context = multiprocessing.get_context("spawn")
    address = context.Queue()
    process = context.Process(target=serve, args=(folder, sizes, address), daemon=True)
    process.start()
    results = []
    remote = RemoteDevice(
        n_inputs=sizes[0], n_outputs=sizes[1], address=address.get(timeout=120),
        server_key=f"{folder}/server.public", key=f"{folder}/clients/client.secret",
    )  # fmt: skip
    with TimedDevice(*sizes) as local, remote:
        for batch in batches:
            vectors = np.random.default_rng(batch).integers(-1, 2, (batch, sizes[0]), np.int8)
            times = []
            for pair in range(pairs + 1):
                seconds, used = [], []
                for device in (local, remote):
                    start, begun = time.perf_counter(), cpu_s(os.getpid()) + cpu_s(process.pid or 0)
                    device.project(vectors)
                    seconds.append(time.perf_counter() - start)
                    used.append(cpu_s(os.getpid()) + cpu_s(process.pid or 0) - begun)
                if pair:
                    times.append([*seconds, seconds[1] / seconds[0] - 1, used[1] - used[0]])
            results.append((batch, *(statistics.median(column) for column in zip(*times, strict=True))))
    process.terminate()
    process.join()
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=31)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--outputs", type=int, default=10_000)
    options = parser.parse_args()
    print(f"{options.inputs} inputs, {options.outputs} outputs, loopback, CURVE, median of {options.pairs} pairs")
    print(f"bar: {BAR:.0%} more from batch 64 on")
    print(f"{'batch':>6} {'here, ms':>10} {'served, ms':>11} {'more':>7} {'more CPU, ms':>13}")
    batches = [1, 16, 64, 128, 256]
    for batch, here, there, more, cpu in measure(batches, (options.inputs, options.outputs), options.pairs):
        print(f"{batch:6} {1e3 * here:10.2f} {1e3 * there:11.2f} {more:7.1%} {1e3 * cpu:13.2f}")


if __name__ == "__main__":
    main()
