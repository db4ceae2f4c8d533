"""The pictures of a bench. matplotlib (extra `plot`) is loaded only here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optical_dfa.figures import require_matplotlib
from optical_dfa.view import panels
from optical_dfa.view.report import View
from optical_dfa.view.words import title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 120
_PANEL = (4.9, 4.1)
"""Inches of a panel."""


@dataclass(frozen=True)
class Picture:
    """A picture: its file name without suffix, and what draws its panels."""

    name: str
    panels: tuple[Callable[["Axes", View], None], ...]
    needs_noise: bool = False


PICTURES = (
    Picture("camera-frame", (panels.frame_without_reference, panels.frame_with_reference)),
    Picture("intensity", (panels.intensity_without_reference, panels.intensity_with_reference)),
    Picture("field", (panels.field,)),
    Picture("autocorrelation", (panels.autocorrelation,)),
    Picture("noise-budget", (panels.budget,), needs_noise=True),
    Picture("exposure", (panels.exposure,), needs_noise=True),
    Picture("alignment", (panels.alignment,)),
)

OVERVIEW = "overview"

SUFFIXES = (".png", ".svg")


def draw(view: View, folder: Path) -> list[Path]:
    """Write every picture and the overview, PNG and SVG; returns the files.

    Pictures of an earlier bench that this one does not have are removed from the folder.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    require_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    noisy = view.numbers.budget is not None
    files = []
    for picture in PICTURES:
        paths = [folder / f"{picture.name}{suffix}" for suffix in SUFFIXES]
        if picture.needs_noise and not noisy:
            for path in paths:
                path.unlink(missing_ok=True)
            continue
        _save(view, picture.panels, (1, len(picture.panels)), paths)
        files += paths
    every = [panel for picture in PICTURES for panel in picture.panels]
    overview = [folder / f"{OVERVIEW}{suffix}" for suffix in SUFFIXES]
    _save(view, tuple(every), (3, 3), overview)
    return files + overview


def _save(
    view: View, drawn: tuple[Callable[["Axes", View], None], ...], grid: tuple[int, int], paths: list[Path]
) -> None:
    import matplotlib as mpl  # optional, and slow to import
    from matplotlib.figure import Figure

    rows, columns = grid
    # text stays text, ids do not change from run to run
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "optical_dfa"}):
        # not pyplot: no global state, no display
        figure = Figure(figsize=(_PANEL[0] * columns + 0.4, _PANEL[1] * rows + 0.5), layout="constrained")
        for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, drawn, strict=True):
            panel(axes, view)
        figure.suptitle(title(view.numbers), fontsize=(9, 10, 13)[columns - 1])
        for path in paths:
            metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
            figure.savefig(path, dpi=_DPI, metadata=metadata)
            figure.set_layout_engine("none")  # it stays laid out; a second time would take as long as drawing
