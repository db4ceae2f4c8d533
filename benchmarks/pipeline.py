"""Gradient accumulation with `feedback.deferred()` beside the same without; a Markdown table, and a timeline.

    python benchmarks/pipeline.py                     # all rows, about three minutes
    python benchmarks/pipeline.py --pairs 3           # rough
    python benchmarks/pipeline.py --toy               # a small net, to see that it runs; bars are not judged
    python benchmarks/pipeline.py -o docs/results     # write pipeline-CPU.md there, too
    python benchmarks/pipeline.py --figure docs/images/pipeline    # and the timeline, .png and .svg

A step is eight micro-batches, forward and backward, on one thread. The device is the emulator, made slow: a request
waits until the time of its frames is over (the device `faulty`, option `real_time`). Frames are so long that the device
takes an eighth of the time of the computing, the same, or four times as long; `served` is the same device in another
process, behind a server on loopback. Steps with and without `deferred()` take turns, from the same state of the device,
and must give the same gradients to the bit. There is a pause before each, because Linux takes a program under `chrt`
that does not rest off its core for a moment in every second.

Device and compute are those of the step without: the sum of its projections, and the rest of it. A pipeline takes at
least the longer of the two, and what the other has to do before the first and behind the last micro-batch. The bound is
the longer one and one micro-batch of the shorter one; the bar lets 5 % on top. Medians of pairs; a ratio is that of a
step to the bound of its own pair.
"""

import argparse
import contextlib
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from optical_dfa import Feedback, attach
from optical_dfa.devices import FaultyDevice, ProjectionDevice, RemoteDevice
from optical_dfa.devices.base import Fields, Usage, Vectors
from optical_dfa.devices.server.opu_server import Server
from optical_dfa.devices.serving import ServedDevice
from optical_dfa.devices.wrapped import WrappedDevice

MICRO_BATCHES = 8
SLACK = 0.05
PAUSE_S = 0.1
RATIOS = {"device ≪ compute": 1 / 8, "device ≈ compute": 1.0, "device ≫ compute": 4.0}
FULL = {"widths": (784, *[2048] * 6, 10), "batch": 32}
TOY = {"widths": (20, 30, 30, 4), "batch": 4}

Span = tuple[float, float]
"""Beginning and end, seconds."""


@dataclass
class Timeline:
    """When what was done for each micro-batch, seconds from the beginning of the step."""

    forward: list[Span] = field(default_factory=list)
    device: list[Span] = field(default_factory=list)
    backward: list[Span] = field(default_factory=list)
    total: float = 0.0

    @property
    def device_s(self) -> float:
        return sum(end - start for start, end in self.device)

    @property
    def compute_s(self) -> float:
        """All but the projections; of a step in which nothing overlaps."""
        return self.total - self.device_s

    @property
    def bound_s(self) -> float:
        """What a pipeline of these times may take, without the slack."""
        longer, shorter = max(self.device_s, self.compute_s), min(self.device_s, self.compute_s)
        return longer + shorter / MICRO_BATCHES


class Logged(WrappedDevice):
    """A device whose projections are written down; open."""

    spans: list[Span]

    def spec(self) -> dict[str, Any]:
        return self.inner.spec()

    def _project(self, vectors: Vectors) -> tuple[Fields, Usage]:
        start = time.perf_counter()
        result = self.inner._project(vectors)
        self.spans.append((start, time.perf_counter()))
        return result


# ---- the device


def slow_emulator(sizes: tuple[int, int], real_time: float) -> FaultyDevice:
    emulator = {"name": "emulator", "preset": "phase-stepping"}
    return FaultyDevice(device=emulator, real_time=real_time, n_inputs=sizes[0], n_outputs=sizes[1])


def serve(sizes: tuple[int, int], real_time: float, address: "multiprocessing.Queue[str]") -> None:
    """The server's process."""
    Server(ServedDevice(slow_emulator(sizes, real_time)), "tcp://127.0.0.1:*").run(address.put)


@contextlib.contextmanager
def device_of(kind: str, sizes: tuple[int, int], real_time: float) -> Iterator[ProjectionDevice]:
    if kind == "here":
        with slow_emulator(sizes, real_time) as device:
            yield device
        return
    context = multiprocessing.get_context("spawn")
    address = context.Queue()
    process = context.Process(target=serve, args=(sizes, real_time, address), daemon=True)
    process.start()
    try:
        with RemoteDevice(n_inputs=sizes[0], n_outputs=sizes[1], address=address.get(timeout=120)) as device:
            yield device
    finally:
        process.terminate()
        process.join()


# ---- a step


class Bed:
    """A net and its micro-batches, with clocks at its parts."""

    def __init__(self, widths: tuple[int, ...], batch: int, device: ProjectionDevice) -> None:
        torch.manual_seed(0)
        layers = [module for n_in, n_out in pairwise(widths) for module in (nn.Linear(n_in, n_out), nn.Tanh())]
        self.net = nn.Sequential(*layers[:-1])
        self.data = [
            (torch.randn(batch, widths[0]), torch.randint(0, widths[-1], (batch,))) for _ in range(MICRO_BATCHES)
        ]
        self.device = Logged(device).open()
        self.feedback: Feedback = attach(self.net, after=nn.Tanh, device=self.device)
        self.state = self.feedback.state_dict()
        self.starts: list[float] = []
        first = self.net[0]
        assert isinstance(first, nn.Linear)
        first.register_forward_pre_hook(lambda *_: self.starts.append(time.perf_counter()))
        # the field is there; and the gradient that a backward pass comes to last
        self.feedback.on_projection(lambda _: self.settling.append(time.perf_counter()))
        first.weight.register_post_accumulate_grad_hook(lambda _: self.settled.append(time.perf_counter()))

    def step(self, deferred: bool) -> tuple[Timeline, list[Tensor]]:
        """Times and gradients of one step, from the same state each time."""
        self.feedback.load_state_dict(self.state)
        self.net.zero_grad()
        self.device.spans, self.starts, self.settling, self.settled = [], [], [], []
        ends = []
        time.sleep(PAUSE_S)
        begun = time.perf_counter()
        with self.feedback.deferred() if deferred else contextlib.nullcontext():
            for x, y in self.data:
                cross_entropy(self.net(x), y).backward()
                ends.append(time.perf_counter())
        total = time.perf_counter() - begun
        if not deferred:  # there, the backward pass begins with the projection
            ends = [start for start, _ in self.device.spans]

        def spans(starts: list[float], ends: list[float]) -> list[Span]:
            return [(start - begun, end - begun) for start, end in zip(starts, ends, strict=True)]

        timeline = Timeline(
            spans(self.starts, ends),
            [(start - begun, end - begun) for start, end in self.device.spans],
            spans(self.settling, self.settled),
            total,
        )
        return timeline, [parameter.grad.clone() for parameter in self.net.parameters() if parameter.grad is not None]


def real_time_for(ratio: float, sizes: dict[str, Any]) -> float:
    """How many times the modelled time a frame must take, for the device to take `ratio` times what computing takes."""
    with device_of("here", (sizes["widths"][-1], max(sizes["widths"][1:-1])), 0.0) as device:
        bed = Bed(**sizes, device=device)
        bed.step(False)
        before = device.usage.device_seconds
        compute = [bed.step(False)[0].compute_s for _ in range(5)]
        return ratio * statistics.median(compute) / ((device.usage.device_seconds - before) / 5)


def measure(kind: str, ratio: float, sizes: dict[str, Any], pairs: int) -> list[tuple[Timeline, Timeline]]:
    """Timelines of steps without and with `deferred()`, in pairs."""
    real_time = real_time_for(ratio, sizes)
    found = []
    with device_of(kind, (sizes["widths"][-1], max(sizes["widths"][1:-1])), real_time) as device:
        bed = Bed(**sizes, device=device)
        for pair in range(pairs + 1):
            order = (False, True) if pair % 2 else (True, False)
            steps = {deferred: bed.step(deferred) for deferred in order}
            plain, other = steps[False], steps[True]
            if not all(torch.equal(one, two) for one, two in zip(plain[1], other[1], strict=True)):
                raise AssertionError("the gradients differ")
            if pair:
                found.append((plain[0], other[0]))
    return found


# ---- the table


def row_of(kind: str, name: str, pairs: list[tuple[Timeline, Timeline]], toy: bool) -> str:
    def middle(values: Iterator[float]) -> float:
        return statistics.median(values)

    value = middle(deferred.total / plain.bound_s for plain, deferred in pairs)
    verdict = "" if toy else "✓ met" if value <= 1 + SLACK else "✗ missed"
    times = [
        middle(plain.device_s for plain, _ in pairs),
        middle(plain.compute_s for plain, _ in pairs),
        middle(plain.total for plain, _ in pairs),
        middle(deferred.total for _, deferred in pairs),
        middle(plain.bound_s for plain, _ in pairs),
    ]
    gain = middle(plain.total / deferred.total for plain, deferred in pairs)
    cells = [kind, name, *(f"{1e3 * one:.1f}" for one in times), f"{value:.3f}", f"{1 + SLACK:.2f}", verdict]
    return f"| {' | '.join([*cells, f'{gain:.2f}'])} |"


HEAD = [
    "| device | | device, ms | compute, ms | one after the other, ms | deferred, ms | bound, ms "
    "| deferred / bound | bar | | times as fast |",
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---|---:|",
]


def heading(command: str, sizes: dict[str, Any]) -> list[str]:
    import optical_dfa
    from optical_dfa.bench import machine

    here = machine.describe()
    about = (__doc__ or "").split("\n\n", 2)[2].strip()
    net = "-".join(map(str, sizes["widths"]))
    facts = {
        "CPU": f"{here.cpu}, family/model {here.family_model}, {here.cores} cores",
        "system": f"{here.system}, load {machine.load()} before",
        "software": f"optical_dfa {optical_dfa.__version__}, Python {here.python}, torch {torch.__version__}",
        "net": f"{net}, tanh, micro-batches of {sizes['batch']}, preset phase-stepping, depth 3",
    }
    title = f"# Deferred projections on {here.cpu}, {here.cores} cores"
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    return [title, "", f"`{command}` printed this.", "", about, "", "| | |", "|---|---|", *rows, ""]


# ---- the figure


def draw(plain: Timeline, deferred: Timeline, path: Path) -> None:
    """The two steps above each other, on one axis of time; writes PATH.png and PATH.svg."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    from optical_dfa.figures import COLOURS

    blue, orange, green = COLOURS[:3]
    matplotlib.rcParams["svg.hashsalt"] = "pipeline"
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    titles = ("one after the other", "deferred")
    for axes, timeline, title in zip(panels, (plain, deferred), titles, strict=True):
        lanes = ((1, blue, timeline.forward), (1, green, timeline.backward), (0, orange, timeline.device))
        for lane, colour, spans in lanes:
            bars = [(1e3 * start, 1e3 * (end - start)) for start, end in spans]
            axes.broken_barh(bars, (lane - 0.38, 0.76), facecolor=colour, edgecolor="white", linewidth=0.8)
            for number, (start, width) in enumerate(bars, 1):
                if width > 12 * plain.total:
                    place = (start + width / 2, lane)
                    axes.annotate(
                        str(number),
                        place,
                        ha="center",
                        va="center",
                        color="black" if colour == orange else "white",
                        fontsize=8,
                    )
        axes.set_yticks([0, 1], ["device", "compute"])
        axes.set_ylim(-0.55, 1.55)
        axes.set_title(f"{title}: {1e3 * timeline.total:.0f} ms", loc="left", fontsize=10)
        axes.axvline(1e3 * timeline.total, color="black", linewidth=1)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    panels[-1].set_xlabel("time (ms)")
    panels[-1].set_xlim(0, 1e3 * plain.total * 1.01)
    names = {"forward pass, loss, encoding": blue, "projection": orange, "backward pass of the layers": green}
    figure.legend(
        handles=[Patch(color=colour, label=name) for name, colour in names.items()],
        loc="outside lower center", ncols=3, fontsize=9, frameon=False,
    )  # fmt: skip
    title = f"A step of {len(plain.forward)} micro-batches on a device that takes as long as the computing, measured"
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=130)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9, help="pairs of steps of each row")
    parser.add_argument("--devices", nargs="+", choices=["here", "served"], default=["here", "served"])
    parser.add_argument("--toy", action="store_true", help="a small net; bars are not judged")
    parser.add_argument("-o", "--out", type=Path, help="folder for pipeline-CPU.md")
    parser.add_argument("--figure", type=Path, help="path of the timeline, without ending")
    options = parser.parse_args(arguments)
    from optical_dfa.bench import machine

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sizes = TOY if options.toy else FULL
    given = sys.argv[1:] if arguments is None else arguments
    lines = heading(" ".join(["python", "benchmarks/pipeline.py", *given]), sizes) + HEAD
    for kind in options.devices:
        for name, ratio in RATIOS.items():
            pairs = measure(kind, ratio, sizes, options.pairs)
            lines.append(row_of(kind, name, pairs, options.toy))
            print(lines[-1], file=sys.stderr)
            if options.figure is not None and kind == "here" and ratio == 1:
                ordered = sorted(pairs, key=lambda pair: pair[1].total / pair[0].bound_s)
                draw(*ordered[len(ordered) // 2], options.figure)
    torch.set_num_threads(threads)
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"pipeline-{machine.describe().slug}.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
