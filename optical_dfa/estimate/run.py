"""The whole estimate: measures sizes around the configured net, fits the laws, finds the break-evens."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import optical_dfa
from optical_dfa.bench import machine
from optical_dfa.config import RunConfig
from optical_dfa.data import ImageTask, NodeTask, load_task
from optical_dfa.devices import make_device
from optical_dfa.estimate.analysis import Comparison, fit_laws
from optical_dfa.estimate.breakeven import largest_accepted
from optical_dfa.estimate.measure import Effort, digital_options, measure, medians
from optical_dfa.estimate.model import Cost, Optics, dark_fraction
from optical_dfa.estimate.report import SCHEMA, Case, Estimate, Point, Spent
from optical_dfa.estimate.size import AXES, AxisName, Size
from optical_dfa.estimate.threads import all_threads
from optical_dfa.run_errors import InputError
from optical_dfa.training.models import encoder_from

FACTORS: dict[AxisName, tuple[float, ...]] = {
    "width": (1 / 4, 1 / 2, 2, 4, 8, 16),
    "depth": (1 / 2, 3 / 2, 2, 4, 8, 16),
    "batch": (1 / 128, 1 / 32, 1 / 8, 1 / 2, 4, 16),
    "classes": (1 / 4, 4, 16, 64, 256, 1024),
}
"""Measured sizes, in units of the configured net's."""

FULL, QUICK = Effort(fewest=3, most=15, seconds=0.25), Effort(fewest=3, most=5, seconds=0.05)

ROUNDS = {False: 4, True: 1}
"""How often all sizes are measured in turn, so that a busy minute does not fall on one of them; by `quick`."""

MOST_OUTPUTS = 1 << 31
"""Of any device."""

MOST_MACS = {False: 5e9, True: 2e7}
"""Multiply-adds of a backward pass beyond which a size is not measured, unless `OWN` allows it; by `quick`."""

MOST_WEIGHTS = 1 << 27
"""The same for entries of weight matrices: half a gigabyte, four times over with gradients and Adam."""

OWN = 2.5
"""Sizes up to that many times the configured net are measured anyway: a law needs more than one point."""


def estimate(
    config: RunConfig,
    *,
    name: str = "",
    threads: int | None = None,
    quick: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Estimate:
    """What a step of this net costs on the modelled optical machine, and what it takes here.

    Measured here: the digital projection through the device contract, the forward pass, the backward pass of
    backpropagation and of DFA, the optimiser; by CPU time with one thread, by wall time with more. Sizes around the
    configured one give the laws of time by which the break-evens are found. `training.method` does not matter: all are
    measured. The optics is modelled, not measured: `Optics` says with which preset, `projection_cost` by which rule.

    Args:
        config: net, data, batch, optimiser, encoder and device.
        name: for titles.
        threads: of everything that computes here; None: `training.threads`, or all cores of this process.
        quick: fewer repetitions, smaller sizes.
        tell: called with what is measured next.

    Raises:
        InputError: the data cannot be had, or there are not so many threads.
        optical_dfa.devices.InvalidConfig: the net is larger than the modelled machine.
    """
    start, date, load = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds"), machine.load()
    here = machine.describe()
    threads = threads if threads is not None else min(config.training.threads or here.cores, here.cores)
    if not 1 <= threads <= here.cores:
        raise InputError(f"{threads} threads: must be from 1 to {here.cores}, the cores of this process")
    tell("reading the data")
    task = load_task(config.task.name, config.task.folder)
    if isinstance(task, NodeTask):
        raise InputError(f"task {task.name!r} is a graph, and fully connected nets are compared: take another task")
    n_batch = min(config.training.batch_size, len(task.train_images))
    size = Size(task.n_features, config.model.hidden, task.n_classes, n_batch, config.feedback.layout)
    encoder = encoder_from(config.feedback.ternarize)
    optics = Optics(config.device, encoder.planes if encoder else 1)
    sized = optics.sized(size.n_classes, size.n_outputs)
    # measured with three other processes on two cores: wall time 2.5 times longer, CPU time about the same
    clock = time.process_time if threads == 1 else time.perf_counter
    sizes = [size, *sizes_around(size, MOST_MACS[quick])]
    rows: list[list[dict[str, float]]] = [[] for _ in sizes]
    with all_threads(threads):
        for turn in range(ROUNDS[quick]):
            for number, each in enumerate(sizes):
                tell(f"round {turn + 1} of {ROUNDS[quick]}: {each}")
                own = each == size
                batch = (task.train_images[:n_batch], task.train_labels[:n_batch]) if own else None
                measured = measure(config, each, QUICK if quick else FULL, clock, batch)
                rows[number] += measured.rows
                if own:
                    first = measured
        digital = make_device("digital", **digital_options(config), n_inputs=size.n_classes, n_outputs=size.n_outputs)
    points = [Point(each, medians(found)) for each, found in zip(sizes, rows, strict=True)]
    tell("finding the break-evens")
    dark: dict[Case, float] = {"all lit": 0.0, "as displayed": dark_fraction(first.shown)}
    laws = fit_laws(size, points)
    comparison = Comparison(size, optics, laws, dark, points)
    break_even = comparison.break_even()
    return Estimate(
        schema=SCHEMA,
        optical_dfa=optical_dfa.__version__,
        date=date,
        seconds=round(time.perf_counter() - start, 1),
        quick=quick,
        threads=threads,
        clock="cpu" if threads == 1 else "wall",
        load=[load, machine.load()],
        machine=here,
        name=name,
        config=config.as_dict(),
        size=size,
        steps_per_epoch=-(-len(task.train_images) // config.training.batch_size),
        epochs=config.training.epochs,
        optics=sized,
        whole_camera=optics.sized(
            size.n_classes, largest_accepted(lambda outputs: optics.accepts(size.n_classes, outputs), MOST_OUTPUTS)
        ),
        stands_in=optics.stands_in,
        digital_backend=digital.info.backend,
        vectors_looked_at=len(first.shown),
        spent=[_spent(case, fraction, optics, size, task, config.training.epochs) for case, fraction in dark.items()],
        times=points[0].times,
        points=points,
        laws=list(laws.values()),
        break_even=break_even,
        curves=comparison.curves(break_even),
    )


def sizes_around(size: Size, most_macs: float) -> Iterator[Size]:
    """Sizes that differ from this one along one axis, each once, those too large to measure left out."""
    seen = {size}
    most_macs = max(most_macs, OWN * (size.weight_macs + size.error_macs))
    most_weights = max(MOST_WEIGHTS, OWN * size.weights)
    for name, axis in AXES.items():
        values = {max(1, round(axis.of(size) * factor)) for factor in FACTORS[name]}
        for value in sorted(values):
            other = axis.at(size, value)
            if name == "classes" and value < 2:
                continue  # a softmax of one class has no error
            small = other.weight_macs + other.error_macs <= most_macs and other.weights <= most_weights
            if small and other not in seen:
                seen.add(other)
                yield other


def _spent(case: Case, fraction: float, optics: Optics, size: Size, task: ImageTask, epochs: int) -> Spent:
    def cost(errors: int) -> Cost:
        return optics.cost(size.n_classes, size.n_outputs, errors, fraction)

    images = len(task.train_images)
    return Spent(case, fraction, cost(1), cost(size.batch), cost(images), cost(images * epochs))
