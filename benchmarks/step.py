"""The training step, forward + backward + SGD, beside plain backpropagation; a Markdown table.

    python benchmarks/step.py                      # all rows with 1 and 2 threads, some minutes
    python benchmarks/step.py --pairs 3            # rough
    python benchmarks/step.py --scale 0.02         # toy sizes, to see that it runs; bars are not judged
    python benchmarks/step.py -o docs/results      # write step-CPU.md there, too
    PYTHONPATH=TINYDFA:BIOTORCH python benchmarks/step.py    # and peers, where they can be imported

Each row runs in a process of its own. Steps of backpropagation and of the others take turns; a ratio is that of two
steps right after each other, the table gives the median. Rows of shorter steps have more pairs, up to twelve times as
many. With one thread it is of process CPU time, which other programs on the machine hardly change; with more, of the
wall clock, since threads that wait for each other count as CPU time.

The floor is the ratio of the multiply-adds alone: backpropagation needs three products for each layer (two for the
first), feedback two, and the projection. Rows `free` show what any feedback can reach here: PyTorch's own step in which
every block is handed a ready-made tensor as its gradient. It lies above the floor where elementwise work counts, and
where the CPU is slower at the products that remain. What lies between `free` and feedback is, for a small output,
Python: hooks, encoding, one call of the device, some 0.5 ms, which weigh in the shortest step. Row `by hand` is the
same feedback with nothing around it: written out in PyTorch for that very net, no hooks, no device, no checks.

Where memory is given back and taken again in each step, its first touch is a large part of the step: a page of 4 kB
takes 2.5 µs on a virtual machine, and a net of 8 layers of 2048 has 30,000 pages of gradients. How much is given back
depends on which block happens to lie on top of the heap, in backpropagation as with feedback, and says nothing about
either. Times are therefore taken with an allocator that keeps what it has (`MALLOC_MMAP_THRESHOLD_=33554432
MALLOC_TRIM_THRESHOLD_=17179869184` of the C library); a second table has them with its usual settings.

Memory is the peak of resident memory in one step above what was resident before it (model, data, code). The allocator
is told to give every block of 64 kB or more back at once, so that what is resident is in use. Medians of three
processes.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

Step = Callable[[], None]

PEERS = {"TinyDFA": "tinydfa", "BioTorch": "biotorch"}
FREE, BY_HAND = "free", "by hand"
TOY = "bars hold for full sizes alone"


@dataclass(frozen=True)
class Row:
    """A net, its batch, how its error is projected, and the bars of PERFORMANCE.md."""

    hidden: int
    layers: int
    classes: int
    batch: int
    device: str
    must: float
    aim: float
    features: int = 784
    by_hand: bool = False  # measured beside the same feedback written out

    @property
    def widths(self) -> list[int]:
        return [self.features, *[self.hidden] * self.layers, self.classes]

    @property
    def name(self) -> str:
        return f"{self.features}-{self.hidden}x{self.layers}-{self.classes}, batch {self.batch}"

    def pairs(self, of_longest: int) -> int:
        """Pairs that take about as long as so many of the longest row, at most 12 times as many."""
        steps = [row.batch * sum(n_in * n_out for n_in, n_out in pairwise(row.widths)) for row in (self, ROWS["wide"])]
        return of_longest * max(1, min(12, steps[1] // steps[0]))

    @property
    def floor(self) -> float:
        """Multiply-adds of weights and projection with feedback, over those of backpropagation."""
        weights = [n_in * n_out for n_in, n_out in pairwise(self.widths)]
        return (2 * sum(weights) + self.classes * self.hidden) / (3 * sum(weights) - weights[0])

    def scaled(self, factor: float) -> "Row":
        sizes = {name: max(2, round(getattr(self, name) * factor)) for name in ("features", "hidden", "batch")}
        return replace(self, **sizes, classes=max(2, min(self.classes, round(self.classes * max(factor, 0.2)))))


ROWS = {
    "small": Row(1024, 3, 10, 128, "digital", 0.80, 0.76, by_hand=True),
    "wide": Row(2048, 8, 10, 256, "digital", 0.72, 0.69),
    "classes": Row(1024, 8, 1000, 256, "digital", 0.78, 0.74),
    "emulator": Row(2048, 8, 10, 256, "emulator", 0.80, 0.72),
}
MEMORY = Row(1024, 8, 10, 8192, "digital", 1.02, 1.00)


# ---- in the child


def steps_of(row: Row, names: list[str], stack: Any) -> dict[str, Step]:
    """One training step of each contender, on equal nets and data; what they open is closed with `stack`."""
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy

    from optical_dfa import attach

    def net(between: Callable[[], list[nn.Module]] = list) -> nn.Sequential:
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(row.widths):
            layers += [nn.Linear(n_in, n_out), nn.Tanh(), *between()]
        return nn.Sequential(*layers[: len(layers) - 1 - len(between())])

    torch.manual_seed(1)
    x, y = torch.randn(row.batch, row.features), torch.randint(0, row.classes, (row.batch,))

    def step(model: nn.Module, forward: Callable[[], torch.Tensor]) -> Step:
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)

        def run() -> None:
            cross_entropy(forward(), y).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)  # last, so that no gradient is there between steps

        return run

    def ours() -> Step:
        model = net()
        options = {"preset": "phase-stepping"} if row.device == "emulator" else {}
        stack.enter_context(attach(model, after=nn.Tanh, device={"name": row.device, **options}))
        return step(model, lambda: model(x))

    def blockwise(feedback: Callable[[torch.Tensor, list[torch.Tensor]], None]) -> Step:
        """Blocks cut from each other; `feedback` runs the backward pass of logits and ends of the blocks."""
        model = net()
        blocks = [model[place : place + 2] for place in range(0, len(model), 2)]
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)

        def run() -> None:
            h, ends = x, []
            for block in blocks[:-1]:
                ends.append(block(h))
                h = ends[-1].detach()
            feedback(blocks[-1](h), ends)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return run

    def free() -> Step:
        """Every block gets a ready-made tensor as its gradient: what feedback would cost if it cost nothing."""
        given = [torch.full((row.batch, row.hidden), 1e-6) for _ in range(row.layers)]
        return blockwise(lambda top, ends: torch.autograd.backward([cross_entropy(top, y), *ends], [None, *given]))

    def by_hand() -> Step:
        """The same feedback for this very net, and nothing else."""
        matrix = torch.randn(row.classes, row.hidden)

        def feedback(logits: torch.Tensor, ends: list[torch.Tensor]) -> None:
            (error,) = torch.autograd.grad(cross_entropy(logits, y), logits, retain_graph=True)
            limit = error.abs().amax(1, keepdim=True).mul_(0.5)
            shown = (error > limit).float() - (error < -limit).float()
            scale = error.norm(dim=1, keepdim=True) / shown.norm(dim=1, keepdim=True)
            field = (shown @ matrix).mul_(scale.mul_(row.hidden**-0.5))
            torch.autograd.backward([logits, *ends], [error, *[field] * len(ends)])

        return blockwise(feedback)

    def tinydfa() -> Step:
        from tinydfa import DFA, DFALayer

        points: list[Any] = []

        def point() -> list[nn.Module]:
            points.append(DFALayer())
            return points[-1:]

        model = net(point)
        model.append(DFA([one for one in model if isinstance(one, DFALayer)]))
        return step(model, lambda: model(x))

    def biotorch() -> Step:
        from biotorch.module.biomodule import BioModule

        model = BioModule(net(), mode="dfa", output_dim=row.classes)
        return step(model, lambda: model(x, y, cross_entropy))

    def bp() -> Step:
        model = net()
        return step(model, lambda: model(x))

    makers = {"bp": bp, "ours": ours, FREE: free, BY_HAND: by_hand, "TinyDFA": tinydfa, "BioTorch": biotorch}
    return {name: makers[name]() for name in names}


def timed(step: Step) -> tuple[float, float]:
    """CPU and wall seconds of a step."""
    cpu, wall = time.process_time(), time.perf_counter()
    step()
    return time.process_time() - cpu, time.perf_counter() - wall


def child_times(row: Row, pairs: int) -> dict[str, Any]:
    """Pairs (contender, bp) of (CPU, wall) seconds, for each contender that can be run."""
    from contextlib import ExitStack, redirect_stdout

    lacking = {}
    with ExitStack() as stack, redirect_stdout(sys.stderr):  # a peer prints in its forward
        others = [*([FREE] if row.device == "digital" else []), *([BY_HAND] if row.by_hand else [])]
        steps = steps_of(row, ["bp", "ours", *others], stack)
        if row.device == "digital":
            for name, module in PEERS.items():
                if find_spec(module) is None:
                    lacking[name] = "not installed"
                    continue
                try:
                    steps |= steps_of(row, [name], stack)
                    steps[name]()
                except Exception as error:  # a peer may fail in any way
                    steps.pop(name, None)
                    lacking[name] = f"{type(error).__name__}: {error}"
        for step in 2 * list(steps.values()):
            step()
        found: dict[str, list[Any]] = {name: [] for name in steps if name != "bp"}
        for number in range(pairs):
            for name in found:
                # first in one pair, second in the next: neither always finds the caches of the other
                order = ("bp", name) if number % 2 else (name, "bp")
                times = {one: timed(steps[one]) for one in order}
                found[name].append((times[name], times["bp"]))
    return {"pairs": found, "lacking": lacking}


def child_memory(row: Row, name: str) -> dict[str, Any]:
    """Bytes that one step needs at its peak beyond what was there before it."""
    from contextlib import ExitStack

    from optical_dfa.bench import machine

    with ExitStack() as stack:
        (step,) = steps_of(row, [name], stack).values()
        step()  # opens the device, loads all code
        before = machine.reset_peak_bytes()
        if before is None:
            return {"lacking": "the peak of resident memory cannot be read here (it needs Linux)"}
        step()
        after = machine.peak_bytes()
    assert after is not None
    return {"bytes": after - before}


# ---- in the parent


def in_child(task: str, row: Row, threads: int, **more: Any) -> dict[str, Any]:
    """What a process of its own found."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment |= {"OPENBLAS_NUM_THREADS": str(threads), "OPTICAL_DFA_THREADS": str(threads)}
    if more.pop("keeps", False):
        environment |= {"MALLOC_MMAP_THRESHOLD_": str(1 << 25), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
    if task == "memory":
        environment |= {"MALLOC_MMAP_THRESHOLD_": str(1 << 16), "MALLOC_TRIM_THRESHOLD_": str(1 << 16)}
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        request = json.dumps({"task": task, "row": asdict(row), "threads": threads, "answer": str(answer), **more})
        subprocess.run([sys.executable, __file__, "--child", request], env=environment, check=True)
        found: dict[str, Any] = json.loads(answer.read_text())
    return found


def child(request: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(request["threads"])
    row = Row(**request["row"])
    found = child_times(row, request["pairs"]) if request["task"] == "times" else child_memory(row, request["name"])
    Path(request["answer"]).write_text(json.dumps(found))


def ratios(pairs: list[Any], clock: int) -> list[float]:
    return [contender[clock] / bp[clock] for contender, bp in pairs]


def verdict(value: float, row: Row, toy: bool) -> str:
    if toy:
        return ""
    return "★ aim" if value <= row.aim else ("✓ met" if value <= row.must else "✗ missed")


def spread(values: list[float]) -> str:
    quarter = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return f"{quarter[0]:.3f} … {quarter[2]:.3f}"


def time_rows(chosen: list[str], threads: list[int], options: argparse.Namespace, keeps: bool) -> list[str]:
    lines = [
        "| net | device | threads | step / BP | quartiles | clock | other clock | floor | must | aim | | BP step, ms |",
        "|---|---|---:|---:|---|---|---:|---:|---:|---:|---|---:|",
    ]
    for name in chosen:
        for count in threads:
            row = ROWS[name].scaled(options.scale) if options.scale != 1 else ROWS[name]
            found = in_child("times", row, count, pairs=row.pairs(options.pairs), keeps=keeps)
            clock = 0 if count == 1 else 1
            for contender, pairs in found["pairs"].items():
                value, other = (statistics.median(ratios(pairs, which)) for which in (clock, 1 - clock))
                step_ms = 1e3 * statistics.median(bp[clock] for _, bp in pairs)
                ours = contender == "ours"
                cells = [row.name, row.device if ours else contender, str(count), f"{value:.3f}"]
                cells += [spread(ratios(pairs, clock)), ("CPU", "wall")[clock], f"{other:.3f}"]
                cells += [f"{row.floor:.3f}", f"{row.must:.2f}", f"{row.aim:.2f}"] if ours else ["", "", ""]
                cells += [verdict(value, row, options.scale != 1) if ours else "", f"{step_ms:.1f}"]
                lines.append(f"| {' | '.join(cells)} |")
                print(lines[-1], file=sys.stderr)
            for peer, why in found["lacking"].items():
                if why != "not installed":
                    lines.append(f"| {row.name} | {peer} | {count} | cannot run: {why} | | | | | | | | |")
    return lines


def memory_rows(options: argparse.Namespace) -> list[str]:
    row = MEMORY.scaled(options.scale) if options.scale != 1 else MEMORY
    found = {name: [in_child("memory", row, 1, name=name) for _ in range(3)] for name in ("bp", "ours")}
    if any("lacking" in one for runs in found.values() for one in runs):
        return [found["bp"][0].get("lacking", "memory could not be measured")]
    size = {name: statistics.median(one["bytes"] for one in runs) for name, runs in found.items()}
    value = size["ours"] / size["bp"] if size["bp"] else math.nan  # toy sizes stay within pages that are there
    return [
        "| net | peak of BP, MB | peak with feedback, MB | ratio | must | aim | |",
        "|---|---:|---:|---:|---:|---:|---|",
        f"| {row.name} | {size['bp'] / 1e6:.1f} | {size['ours'] / 1e6:.1f} | {value:.3f} "
        f"| {row.must:.2f} | {row.aim:.2f} | {verdict(value, row, options.scale != 1)} |",
    ]


def heading(command: str) -> list[str]:
    import torch

    import optical_dfa
    from optical_dfa.bench import machine

    here, numerics = machine.describe(), machine.numerics()
    facts = {
        "CPU": f"{here.cpu}, family/model {here.family_model}, {here.cores} cores",
        "instructions": ", ".join(here.features),
        "system": f"{here.system}, {here.memory_gb} GB, load {machine.load()} before",
        "software": f"optical_dfa {optical_dfa.__version__}, Python {here.python}, torch {torch.__version__}, "
        f"NumPy {numerics['numpy']}, Numba {numerics['numba']}",
        "torch": torch.backends.cpu.get_cpu_capability() + (", MKL" if torch.backends.mkl.is_available() else ""),
        "OPENBLAS\\_CORETYPE": f"{os.environ.get('OPENBLAS_CORETYPE', 'unset')} (torch does not read it; NumPy's "
        f"OpenBLAS: {numerics['blas_core']})",
    }
    about = (__doc__ or "").split("\n\n", 2)[2].strip()
    title = f"# The training step on {here.cpu}, {here.cores} cores"
    return [title, "", f"`{command}` printed this.", "", about, "", "| | |", "|---|---|"] + [
        f"| {name} | {value} |" for name, value in facts.items()
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, "memory"], default=[*ROWS, "memory"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument(
        "--pairs", type=int, default=25, help="pairs of steps of each contender, in the rows of the longest step"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor on features, widths and batch")
    parser.add_argument("-o", "--out", type=Path, help="folder for step-CPU.md")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        child(options.child)
        return
    from optical_dfa.bench import machine

    given = sys.argv[1:] if arguments is None else arguments
    lines = heading(" ".join(["python", "benchmarks/step.py", *given]))
    chosen = [name for name in options.rows if name != "memory"]
    if chosen:
        for title, keeps in {"Time": True, "Time with the usual allocator": False}.items():
            lines += ["", f"## {title}", "", *time_rows(chosen, options.threads, options, keeps)]
    if "memory" in options.rows:
        lines += ["", "## Memory", "", *memory_rows(options)]
    if options.scale != 1:
        lines += ["", f"Sizes scaled by {options.scale:g}: {TOY}."]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"step-{machine.describe().slug}.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
