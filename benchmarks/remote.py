"""What the network costs: a device behind a server with keys, beside the same device here; a Markdown table.

    python benchmarks/remote.py                             # half a minute
    chrt -r 5 python benchmarks/remote.py -o docs/results   # before other work; writes remote-CPU.md there, too

The device needs 0.5 ms a frame and two frames a vector, as an OPU does at its best, and gives 10,000 outputs. Server
and client share one machine and talk over TCP, encrypted and authenticated (CURVE). A call here and the same call there
take turns; `more` is the median, over the pairs, of what the call there takes more by the clock on the wall.

The last column is the CPU time of both sides, all threads, that a call takes more when it is served: encryption mostly,
while the device shows the next vectors. On a machine with other work, waiting for a core adds to the times and hardly
to this one.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from optical_dfa.devices import DeviceInfo, ProjectionDevice, RemoteDevice, Usage
from optical_dfa.devices.base import Fields, Vectors
from optical_dfa.devices.server.opu_server import Server, write_keys
from optical_dfa.devices.serving import ServedDevice

FRAME_S = 0.5e-3
FRAMES_PER_VECTOR = 2
BAR, BAR_FROM = 0.10, 64
"""Most that a served call may take more, as a fraction, from so many vectors on."""


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


@dataclass(frozen=True)
class Row:
    """Calls of one size, medians over the pairs; times in seconds."""

    batch: int
    here: float
    there: float
    more: float
    """What there takes more than here, as a fraction."""
    spread: tuple[float, float]
    """Its quartiles."""
    more_cpu: float

    @property
    def cells(self) -> list[str]:
        """Of the table."""
        judged = self.batch >= BAR_FROM
        verdict = ("✓ met" if self.more <= BAR else "✗ missed") if judged else ""
        low, high = self.spread
        return [
            str(self.batch), f"{1e3 * self.here:.2f}", f"{1e3 * self.there:.2f}", f"{self.more:.1%}",
            f"{low:.1%} … {high:.1%}", f"{BAR:.0%}" if judged else "", verdict, f"{1e3 * self.more_cpu:.2f}",
        ]  # fmt: skip


def measure(batches: list[int], sizes: tuple[int, int], pairs: int) -> list[Row]:
    """Rows of the table; the server has a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "clients").mkdir()
        write_keys(folder, "server")
        write_keys(f"{folder}/clients", "client")
        context = multiprocessing.get_context("spawn")
        address = context.Queue()
        process = context.Process(target=serve, args=(folder, sizes, address), daemon=True)
        process.start()
        remote = RemoteDevice(
            n_inputs=sizes[0], n_outputs=sizes[1], address=address.get(timeout=120),
            server_key=f"{folder}/server.public", key=f"{folder}/clients/client.secret",
        )  # fmt: skip
        with TimedDevice(*sizes) as local, remote:
            rows = [measure_batch(batch, local, remote, process.pid or 0, pairs) for batch in batches]
        process.terminate()
        process.join()
    return rows


def measure_batch(batch: int, local: TimedDevice, remote: RemoteDevice, server: int, pairs: int) -> Row:
    """Calls of so many vectors; the first pair does not count."""
    vectors = np.random.default_rng(batch).integers(-1, 2, (batch, local.info.n_inputs), np.int8)
    found = []
    for _ in range(pairs + 1):
        seconds, used = [], []
        for device in (local, remote):
            start, begun = time.perf_counter(), cpu_s(os.getpid()) + cpu_s(server)
            device.project(vectors)
            seconds.append(time.perf_counter() - start)
            used.append(cpu_s(os.getpid()) + cpu_s(server) - begun)
        found.append((*seconds, seconds[1] / seconds[0] - 1, used[1] - used[0]))
    here, there, more, cpu = zip(*found[1:], strict=True)
    quarter = statistics.quantiles(more, n=4) if pairs > 1 else [more[0]] * 3
    median = statistics.median
    return Row(batch, median(here), median(there), median(more), (quarter[0], quarter[2]), median(cpu))


def heading(command: str) -> list[str]:
    """Title, what is measured, and on what."""
    import msgpack
    import zmq

    import optical_dfa
    from optical_dfa.bench import machine

    here = machine.describe()
    real_time = os.sched_getparam(0).sched_priority if os.sched_getscheduler(0) == os.SCHED_RR else None
    facts = {
        "CPU": f"{here.cpu}, family/model {here.family_model}, {here.cores} cores for both sides",
        "system": f"{here.system}, load {machine.load()} before",
        "priority": f"real-time {real_time}, before other work" if real_time else "normal",
        "software": f"optical_dfa {optical_dfa.__version__}, Python {here.python}, NumPy {np.__version__}, "
        f"pyzmq {zmq.pyzmq_version()}, libzmq {zmq.zmq_version()}, msgpack {'.'.join(map(str, msgpack.version))}",
    }
    about = (__doc__ or "").split("\n\n", 2)[2].strip()
    title = f"# A served device on {here.cpu}, {here.cores} cores"
    command = f"chrt -r {real_time} {command}" if real_time else command
    return [title, "", f"`{command}` printed this.", "", about, "", "| | |", "|---|---|"] + [
        f"| {name} | {value} |" for name, value in facts.items()
    ]


COLUMNS = (
    "vectors a call", "here, ms", "served, ms", "more", "quartiles", "bar", "", "more CPU time, ms",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64, 128, 256], help="vectors a call")
    parser.add_argument("--pairs", type=int, default=31)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--outputs", type=int, default=10_000)
    parser.add_argument("-o", "--out", type=Path, help="folder for remote-CPU.md")
    options = parser.parse_args(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    lines = heading(" ".join(["python", "benchmarks/remote.py", *given]))
    lines += ["", f"{options.inputs:,} inputs, {options.outputs:,} outputs, {options.pairs} pairs.", ""]
    lines += [f"| {' | '.join(COLUMNS)} |", "|---:|---:|---:|---:|---|---:|---|---:|"]
    for row in measure(options.batches, (options.inputs, options.outputs), options.pairs):
        lines.append(f"| {' | '.join(row.cells)} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out is not None:
        from optical_dfa.bench import machine

        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"remote-{machine.describe().slug}.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
