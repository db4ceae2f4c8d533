"""The estimate as tables of text, which Markdown and the terminal then draw. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from optical_dfa.estimate.breakeven import most_speedup
from optical_dfa.estimate.model import Cost
from optical_dfa.estimate.report import BreakEven, Case, Estimate
from optical_dfa.estimate.size import AXES

EXTRAPOLATED = "~"

CLOCKS = {"cpu": "CPU time (one thread)", "wall": "Wall time"}

CASES: tuple[Case, ...] = ("all lit", "as displayed")


@dataclass(frozen=True)
class Section:
    """One table."""

    title: str
    columns: tuple[str, ...]
    n_text: int
    """Columns at the left that hold text; the others hold numbers."""
    lines: Sequence[tuple[str, ...]]
    notes: list[str]


def sections(estimate: Estimate) -> list[Section]:
    """The tables, in the order they are read."""
    return [_optics(estimate), _step(estimate), _break_even(estimate)]


def title(estimate: Estimate) -> str:
    """The net in one line."""
    name = f"{estimate.name}: " if estimate.name else ""
    activation = estimate.config["model"]["activation"]
    return f"{name}{'-'.join(map(str, _widths(estimate)))} {activation}, batch {estimate.size.batch}"


def facts(estimate: Estimate) -> list[tuple[str, str]]:
    """What was modelled and what measured on, in words."""
    optics, machine = estimate.optics, estimate.machine
    preset = f"preset {optics.preset}"
    if estimate.stands_in:
        preset += f" (device {estimate.config['device']['name']!r} has no optics: this preset stands in)"
    load = " … ".join("not known" if value is None else f"{value:.1f}" for value in estimate.load)
    plural = "" if estimate.threads == 1 else "s"
    quick = ", quick" if estimate.quick else ""
    frame = f"{optics.n_pixels:,} pixels, {duration(optics.frame_time_us * 1e-6)} a frame"
    cores = f"{estimate.threads} thread{plural} of {machine.cores} cores"
    rows = [
        ("modelled", f"{preset}; {frame}, {optics.power_w:g} W"),
        ("measured", f"{machine.cpu}, {cores}; digital projection on {estimate.digital_backend}"),
        ("load; taken", f"{load} processes; {estimate.date[:10]}, {estimate.seconds:.0f} s{quick}"),
    ]
    if estimate.config["feedback"]["ternarize"] is None:
        rows.append(("encoder", "the default one; the real error of this configuration cannot be displayed"))
    return rows


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for limit, factor, unit in ((1e-6, 1e9, "ns"), (1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s")):
        if seconds < limit * 0.9995:
            return f"{_digits(seconds * factor)} {unit}"
    return f"{_digits(seconds / 60)} min" if seconds < 7200 else f"{_digits(seconds / 3600)} h"


def energy(joules: float) -> str:
    """Three digits and a unit."""
    for limit, factor, unit in ((1.0, 1e3, "mJ"), (1e3, 1.0, "J"), (1e6, 1e-3, "kJ")):
        if joules < limit * 0.9995:
            return f"{_digits(joules * factor)} {unit}"
    return f"{_digits(joules * 1e-6)} MJ"


def where(found: BreakEven) -> str:
    """Stretches of an axis in words; to two digits, and marked, where they are extrapolated."""
    words = []
    for first, last in found.spans:
        start, end = _value(first, found), _value(last, found)
        if last == found.limit:
            words.append("everywhere" if first == 1 else f"from {start}")
        else:
            words.append(f"up to {end}" if first == 1 else f"{start} … {end}")
    return ", ".join(words) or "nowhere"


def _value(value: int, found: BreakEven) -> str:
    if value <= found.measured_to:
        return f"{value:,}"
    return f"{EXTRAPOLATED}{float(f'{value:.1e}'):,.0f}"  # a third digit would be none of the law's


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"


def _widths(estimate: Estimate) -> list[int]:
    size = estimate.size
    return [size.n_features, *size.hidden, size.n_classes]


def _optics(estimate: Estimate) -> Section:
    lines = []
    for spent in estimate.spent:
        costs: list[tuple[str, Cost]] = [
            ("an error", spent.vector),
            (f"a step, {estimate.size.batch:,} errors", spent.step),
            (f"an epoch, {estimate.steps_per_epoch:,} steps", spent.epoch),
            (f"the run, {estimate.epochs:,} epochs", spent.run),
        ]
        for what, cost in costs:
            frames = f"{cost.frames:,.0f}" if cost.frames >= 100 else f"{cost.frames:.3g}"
            lines.append((f"{spent.case}: {what}", frames, duration(cost.seconds), energy(cost.joules)))
    fraction = estimate.of_case("as displayed").dark_fraction
    return Section(
        "The modelled optics",
        ("", "frames", "time", "energy"),
        1,
        lines,
        [
            "All lit: + and - of every vector have a feature ON, the worst case. As displayed: in the first step "
            f"{fraction:.0%} of the sides are dark ({estimate.vectors_looked_at:,} vectors), and their frames are "
            "skipped; training changes that."
        ],
    )


def _step(estimate: Estimate) -> Section:
    times = estimate.times
    optical = [(f"DFA, optics {spent.case}", spent.step.seconds) for spent in estimate.spent]
    rows = [("backpropagation", times.forward, times.bp_backward, 0.0)]
    rows += [
        (name, times.dfa_forward, times.dfa_backward, projection)
        for name, projection in [
            ("DFA, digital", times.projection),
            *optical,
            ("DFA, free projection", 0.0),
        ]
    ]
    bp = sum(rows[0][1:]) + times.optimizer
    lines = []
    for name, forward, backward, projection in rows:
        total = forward + backward + projection + times.optimizer
        parts = (forward, backward, projection, times.optimizer, total)
        lines.append((name, *(f"{part * 1e3:,.2f}" if part else "–" for part in parts), f"{total / bp:,.2f}"))
    stages = len(estimate.size.hidden) + 1
    return Section(
        "A training step, ms",
        ("", "forward", "backward", "projection", "optimiser", "sum", "of BP"),
        1,
        lines,
        [
            f"{CLOCKS[estimate.clock]}, medians of {times.repetitions} repetitions that took turns; the optics is "
            "modelled.",
            "A free projection is the most that any optics can gain on this machine, where the layers run one after "
            f"the other. With a processor for each of N = {stages} layers, backpropagation takes N + N steps and DFA "
            f"N + 1: at most {most_speedup(stages):.2f} times faster, and below 2 for any depth.",
        ],
    )


def _break_even(estimate: Estimate) -> Section:
    lines = []
    errors = []
    for name in AXES:
        found = [each for each in estimate.break_even if each.axis == name]
        for reference, label in (("digital projection", "projection"), ("backward pass", "backward pass")):
            cells = [
                where(each) for case in CASES for each in found if (each.reference, each.case) == (reference, case)
            ]
            lines.append((name, label, *cells, f"{found[0].measured_to:,}", f"{found[0].limit:,}"))
        errors.append(f"{name} {max(law.worst_error for law in estimate.laws if law.axis == name):.0%}")
    size, whole = estimate.size, estimate.whole_camera
    dark = estimate.of_case("as displayed").dark_fraction
    digital = max(
        (point for point in estimate.points if point.size.n_classes == size.n_classes),
        key=lambda point: point.size.batch * point.size.n_outputs,
    )
    per_output = {
        "digital": digital.times.projection / (digital.size.batch * digital.size.n_outputs),
        "here": estimate.optics.frames(1, dark) * estimate.optics.frame_time_us * 1e-6 / size.n_outputs,
        "whole": whole.frames(1, dark) * whole.frame_time_us * 1e-6 / whole.n_outputs,
    }
    shown = {name: duration(seconds) for name, seconds in per_output.items()}
    return Section(
        "Where the optics is faster",
        ("axis", "compared", "all lit", "as displayed", "measured to", "looked at to"),
        2,
        lines,
        [
            "Projection: optical against digital. Backward pass: that of DFA with the optical projection, against that "
            "of backpropagation. One axis changes at a time; with width and depth, all hidden layers are as wide as "
            "the widest. The fraction of dark sides stays as it is.",
            f"{EXTRAPOLATED} extrapolated beyond the measured sizes, by laws of time fitted to them, a sum of terms "
            "such as seconds a multiply-add (all in estimate.json), to two digits. Largest error of a law at a "
            f"measured size: {', '.join(errors)}.",
            f"Per vector and output: digital {shown['digital']} (largest projection measured), optics as displayed "
            f"{shown['here']} for this net, {shown['whole']} with the whole camera ({whole.n_outputs:,} outputs). "
            "The digital product leaves out features that no vector of the batch lights.",
        ],
    )
