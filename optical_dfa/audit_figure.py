"""The audit as a diagram: blocks from input to output, the error on top, the device beside them, feedback as arrows."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from optical_dfa.audit import Audit, AuditRow, Source
from optical_dfa.audit_table import Group, groups_of, prefix_of, runs_of, short
from optical_dfa.figures import COLOURS, require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".svg", ".png", ".pdf")

EXACT, FEEDBACK, BACKPROPAGATED, LIGHT = COLOURS[0], COLOURS[2], COLOURS[3], COLOURS[5]
COLOUR_OF: dict[Source, str] = {"exact": EXACT, "feedback": FEEDBACK, "backpropagated": BACKPROPAGATED}

MOST_LINES = 40
"""Lines of modules in the whole diagram; blocks with more than their share are summed up."""
MOST_BLOCKS = 14
"""Boxes; in longer nets, blocks that are alike are left out in their middle."""

# inches; the axes are laid out in them, the origin at the top left
LEFT, BOX, GAP, DEVICE, RIGHT = 0.35, 5.9, 0.34, 1.5, 0.35
DEVICE_LEFT = LEFT + BOX + 1.1
LINE, HEAD, PAD = 0.2, 0.27, 0.08


@dataclass(frozen=True)
class Line:
    """A line of a box."""

    text: str
    values: str
    source: Source


@dataclass(frozen=True)
class Box:
    """A block of the net, or what stands for several."""

    title: str
    lines: tuple[Line, ...]
    feedback: bool
    """A feedback arrow ends here."""
    ellipsis: bool = False

    @property
    def height(self) -> float:
        """Inches."""
        return HEAD if self.ellipsis else HEAD + LINE * len(self.lines) + PAD


def draw_audit(audit: Audit, path: Path) -> None:
    """Draw the diagram; see `Audit.draw`."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: a diagram can be written as {', '.join(SUFFIXES)}")
    require_matplotlib()
    from matplotlib.figure import Figure  # optional, and slow to import

    boxes = boxes_of(audit)
    notes = _footnotes(audit)
    stack = sum(box.height + GAP for box in boxes)
    top = 0.55  # below the title
    height = top + HEAD + GAP + stack + HEAD + 0.25 + 0.55 + 0.2 * len(notes)
    width = DEVICE_LEFT + DEVICE + RIGHT
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    axes.text(
        LEFT, 0.3, f"{audit.net or 'Net'}: where each gradient comes from", fontsize=12, weight="bold", va="center"
    )
    bottom = _stack(axes, boxes, top, audit)
    _legend(axes, boxes, bottom + 0.36)
    for number, note in enumerate(notes):
        axes.text(LEFT, bottom + 0.7 + 0.2 * number, note, fontsize=8, color="0.25", va="center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def boxes_of(audit: Audit) -> list[Box]:
    """Boxes from the output down to the input."""
    groups = groups_of(audit)
    exact = [group for group in groups if not group.points and group.rows and group.rows[0].source == "exact"]
    blocks: list[Group | str] = []
    for run in runs_of([group for group in groups if group.points]):
        if len(groups) > MOST_BLOCKS and len(run) > 2:
            blocks += [run[0], f"{len(run) - 2} more blocks alike, each with its feedback", run[-1]]
        else:
            blocks += run
    share = max(2, MOST_LINES // max(1, len(blocks) + len(exact)))
    found = [Box("exact gradient, from the output", _lines(group, audit, share), False) for group in exact]
    for block in reversed(blocks):
        if isinstance(block, str):
            found.append(Box(block, (), True, ellipsis=True))
        else:
            found.append(Box(_title(block, audit), _lines(block, audit, share), True))
    return found


def _title(group: Group, audit: Audit) -> str:
    if len(group.points) > 1:
        names = ", ".join(group.points) if len(group.points) <= 3 else f"{len(group.points)} points"
        return f"shared, feedback at {names}"
    kind = (audit.kinds or {}).get(group.points[0])
    return f"feedback at {group.points[0]}" + (f" ({kind})" if kind else "")


def _lines(group: Group, audit: Audit, most: int) -> tuple[Line, ...]:
    """A line for each module and source, output first; if there are more than `most`, one for each source."""
    kinds, prefix = audit.kinds or {}, prefix_of(group)
    lines = []
    for (owner, source), same in groupby(group.rows, key=lambda row: (row.parameter.rpartition(".")[0], row.source)):
        rows = list(same)
        name = short(owner or rows[0].parameter, prefix)
        text = f"{name}  {_cut(kinds[owner], 20)}" if owner and owner in kinds else name
        lines.append(Line(_cut(text + _through(rows, prefix), 78), _values(rows), source))
    if len(lines) <= most:
        return tuple(reversed(lines))
    words: dict[Source, str] = {
        "exact": "exact gradient",
        "feedback": "feedback",
        "backpropagated": "feedback, backpropagated inside the block",
    }
    return tuple(
        Line(f"{_modules(rows)}: {text}", _values(rows), source)
        for source, text in words.items()
        if (rows := [row for row in group.rows if row.source == source])
    )


def _modules(rows: Sequence[AuditRow]) -> str:
    n = len({row.parameter.rpartition(".")[0] or row.parameter for row in rows})
    return f"{n} module{'s' * (n != 1)}"


def _through(rows: Sequence[AuditRow], prefix: str) -> str:
    exact = rows[0].source == "exact"
    names = list(dict.fromkeys(name for row in rows for name in (row.exact_through if exact else row.through)))
    text = f"  through {short(names[0], prefix)}" if names else ""
    text += f" +{len(names) - 1}" if len(names) > 1 else ""
    points = list(dict.fromkeys(point for row in rows for point in row.points)) if exact else []
    return text + (f"  and feedback at {points[0]}" if points else "") + (f" +{len(points) - 1}" if points[1:] else "")


def _values(rows: Sequence[AuditRow]) -> str:
    return f"{sum(row.n_values for row in rows):,}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _stack(axes: "Axes", boxes: Sequence[Box], top: float, audit: Audit) -> float:
    """Error, boxes, device, input and the arrows between them; the lower edge, inches."""
    error = top + HEAD
    _frame(axes, LEFT, top, BOX, HEAD, "0.2")
    through = f", through {_cut(', '.join(audit.error_through), 40)}" if audit.error_through else ""
    axes.text(LEFT + BOX / 2, top + HEAD / 2, f"error  e = ∂L/∂output{through}", fontsize=9, ha="center", va="center")
    y, arrows = error + GAP, []
    for box in boxes:
        previous = y - GAP
        _arrow(axes, (LEFT + BOX / 2, y), (LEFT + BOX / 2, previous), "0.45", 1.2)
        _box(axes, box, y)
        if box.feedback:
            arrows.append(y + HEAD / 2)
        elif box.lines:
            _arrow(axes, (LEFT + 0.5, previous), (LEFT + 0.5, y), EXACT, 2.0)
        y += box.height + GAP
    _arrow(axes, (LEFT + BOX / 2, y), (LEFT + BOX / 2, y - GAP), "0.45", 1.2)
    axes.text(LEFT + BOX / 2, y + HEAD / 2, "input", fontsize=9, ha="center", va="center")
    if arrows:
        _device(axes, audit, top, arrows)
    return y + HEAD


def _device(axes: "Axes", audit: Audit, top: float, arrows: Sequence[float]) -> None:
    middle = DEVICE_LEFT + DEVICE / 2
    start = top + HEAD + GAP
    height = max(arrows[-1] + HEAD / 2 - start, 0.95)
    _frame(axes, DEVICE_LEFT, start, DEVICE, height, LIGHT, fill="#FBEDE3")
    text = f"device\n{_cut(audit.device, 18)}\nT·e" + (f"\nlayout {audit.layout}" if audit.layout else "")
    axes.text(middle, start + height / 2, text, fontsize=9, ha="center", va="center", linespacing=1.4)
    axes.plot([LEFT + BOX, middle], [top + HEAD / 2] * 2, color=LIGHT, linewidth=2.0, solid_capstyle="butt")
    _arrow(axes, (middle, top + HEAD / 2), (middle, start), LIGHT, 2.0)
    for y in arrows:
        _arrow(axes, (DEVICE_LEFT, max(y, start + 0.05)), (LEFT + BOX, y), FEEDBACK, 2.0)


def _box(axes: "Axes", box: Box, y: float) -> None:
    if box.ellipsis:
        axes.text(
            LEFT + BOX / 2, y + HEAD / 2, f"⋮   {box.title}   ⋮", fontsize=9, ha="center", va="center", color="0.3"
        )
        return
    _frame(axes, LEFT, y, BOX, box.height, FEEDBACK if box.feedback else EXACT)
    axes.text(LEFT + 0.12, y + HEAD / 2, box.title, fontsize=9, weight="bold", va="center")
    stem, last = LEFT + 0.24, None
    for number, line in enumerate(box.lines):
        centre = y + HEAD + LINE * (number + 0.5)
        axes.text(LEFT + 0.52, centre, line.text, fontsize=8, va="center")
        axes.text(LEFT + BOX - 0.12, centre, line.values, fontsize=8, va="center", ha="right", family="monospace")
        if line.source == "backpropagated":
            last = centre
            _arrow(axes, (stem, centre), (LEFT + 0.47, centre), BACKPROPAGATED, 1.3)
        else:
            axes.plot([stem], [centre], marker="s", markersize=5, color=COLOUR_OF[line.source], zorder=3)
    if last is not None:
        axes.plot([stem, stem], [y + HEAD - 0.02, last], color=BACKPROPAGATED, linewidth=1.5, linestyle=(0, (3, 2)))


def _legend(axes: "Axes", boxes: Sequence[Box], y: float) -> None:
    sources = {line.source for box in boxes for line in box.lines}
    entries = [("forward", "0.45", "-"), ("error to the device", LIGHT, "-"), ("feedback", FEEDBACK, "-")]
    entries += [("backpropagated inside a block", BACKPROPAGATED, "--")] if "backpropagated" in sources else []
    entries += [("exact gradient", EXACT, "-")] if "exact" in sources else []
    x = LEFT
    for label, colour, style in entries:
        axes.plot([x, x + 0.32], [y, y], color=colour, linewidth=2, linestyle=style)
        axes.text(x + 0.4, y, label, fontsize=8.5, va="center")
        x += 0.66 + 0.062 * len(label)


def _footnotes(audit: Audit) -> list[str]:
    notes = ["Numbers: entries of the parameters of a module."]
    for source, words in (("frozen", "Frozen"), ("none", "No gradient")):
        if rows := [row for row in audit.rows if row.source == source]:
            names = _cut(", ".join(row.parameter for row in rows), 90)
            notes.append(f"{words}: {_values(rows)} entries in {names}")
    return notes


def _frame(axes: "Axes", x: float, y: float, width: float, height: float, colour: str, fill: str = "white") -> None:
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=0.06"
    patch = FancyBboxPatch((x, y), width, height, boxstyle=style, edgecolor=colour, facecolor=fill, linewidth=1.4)
    axes.add_patch(patch)


def _arrow(axes: "Axes", start: tuple[float, float], end: tuple[float, float], colour: str, width: float) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": width, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 9}
    axes.annotate("", end, start, arrowprops=style)
