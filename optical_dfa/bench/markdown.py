"""The report as a Markdown page."""

from optical_dfa.bench.cells import LEGEND, facts, sections
from optical_dfa.bench.report import Report, summary

EXPLANATION = """\
Values are ratios of process CPU time, measured in pairs one right after the other in one process; the median of the
pairs, with the smallest and the largest. G1 is NumPy's float32 product of (batch, inputs) and (inputs, pixels), T
stored, on the same job; the complex field has two outputs a pixel, hence twice its multiplications. `Haswell` and
`unset` are settings of OPENBLAS_CORETYPE, which holds OpenBLAS at AVX2 or leaves it to the CPU; each has a process of
its own. Seconds are CPU time too, but those of the full product. A bar written a/b is a with `Haswell`, b with
`unset`."""


def to_markdown(report: Report) -> str:
    """The whole page."""
    lines = [f"# The emulator on {report.machine.cpu}, {report.machine.cores} cores", ""]
    lines += [f"`{report.command}` printed this.", "", EXPLANATION, "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_escaped(value)} |" for name, value in facts(report) if name != "command"]
    lines += ["", f"{summary(report)}.", "", f"{LEGEND}."]
    for section in sections(report, spread=True):
        rule = ["---"] * section.n_text + ["---:"] * (len(section.columns) - section.n_text)
        lines += ["", f"## {section.title}", "", f"| {' | '.join(section.columns)} |", f"|{'|'.join(rule)}|"]
        lines += [f"| {' | '.join(_escaped(cell.text) for cell in line)} |" for line in section.lines]
        for note in section.notes:
            lines += ["", f"{note[0].upper()}{note[1:]}."]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("_", "\\_")
