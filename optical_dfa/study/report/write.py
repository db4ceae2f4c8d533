"""Writes what a study found into its folder: tables, figures, report."""

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from optical_dfa.files import write_text_whole, write_whole
from optical_dfa.study.code_version import code_version
from optical_dfa.study.file import Study
from optical_dfa.study.queue import Queue
from optical_dfa.study.report.conditions import Condition, conditions_of
from optical_dfa.study.report.figure_parts import Drawn
from optical_dfa.study.report.figures import draw_all
from optical_dfa.study.report.page import page
from optical_dfa.study.report.words import summary
from optical_dfa.study.storage import sqlite_url
from optical_dfa.study.tables import Tables, tables, write


def write_report(study: Study, queue: Queue, folder: Path, storage: str) -> Path:
    """Write tables, figures and report of what is done so far.

    Args:
        study: what was asked.
        queue: its cells.
        folder: where to.
        storage: its name in the report, without a password.

    Returns:
        The report, `report.html`.
    """
    progress, results = queue.progress(), queue.results()
    found = tables(study.cells, results, progress.failed, list(study.config.factors))
    write(found, folder)
    conditions = conditions_of(study.cells, results)
    figures = [
        (drawn.name, drawn.caption, _save(drawn, folder / "figures")) for drawn in draw_all(study.config, conditions)
    ]
    text = page(
        study,
        conditions,
        found,
        progress,
        summary(study.config, conditions, progress),
        figures,
        _provenance(
            study,
            found,
            conditions,
            [trial.user_attrs["timing"] for trial in results.values()],
            "study.db beside this page" if storage == sqlite_url(folder) else storage,  # shows no path of this machine
        ),
    )
    path = folder / "report.html"
    write_text_whole(path, text)
    return path


def _save(drawn: Drawn, folder: Path) -> bytes:
    """Write PNG and SVG; gives the SVG."""
    from matplotlib import rc_context

    folder.mkdir(parents=True, exist_ok=True)
    png, svg = io.BytesIO(), io.BytesIO()
    drawn.figure.savefig(png, format="png", dpi=120)
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": drawn.name}):
        drawn.figure.savefig(svg, format="svg", metadata={"Date": None})
    write_whole(folder / f"{drawn.name}.png", lambda file: file.write(png.getvalue()))
    write_whole(folder / f"{drawn.name}.svg", lambda file: file.write(svg.getvalue()))
    return svg.getvalue()


def _provenance(
    study: Study, found: Tables, conditions: Sequence[Condition], timings: Sequence[dict[str, object]], storage: str
) -> dict[str, str]:
    machines = [timing["machine"] for timing in timings]

    def all_of(name: str) -> str:
        return ", ".join(sorted({str(machine[name]) for machine in machines})) or "–"  # type: ignore[index]

    data = sorted({result["data_sha256"] for condition in conditions for result in condition.results.values()})
    warned = sorted({line for c in conditions for result in c.results.values() for line in result["warnings"]})
    seconds, cpu = found.timings["seconds"].sum(), found.timings["cpu_seconds"].sum()
    first, last = (found.timings["started"].min(), found.timings["started"].max()) if len(found.timings) else ("–", "–")
    values = {
        "command": f"optical-dfa study {study.path}",
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "runs started": f"{first} to {last}",
        "code": code_version(),
        "storage": storage,
        "time in runs": f"{seconds:,.0f} s, {cpu:,.0f} s of CPU time; {cpu / max(1, len(found.timings)):.2f} s a run",
        "processes": str(found.timings[["host", "pid"]].drop_duplicates().shape[0]),
        "CPU": all_of("cpu"),
        "platform": all_of("platform"),
        "Python; torch; NumPy": "; ".join(all_of(name) for name in ("python", "torch", "numpy")),
        "threads of a run": all_of("threads"),
        "SHA-256 of the data": ", ".join(data) or "–",
    }
    if warned:
        values["warnings"] = " | ".join(warned)
    return values
