"""The estimate as a Markdown page. No torch."""

from optical_dfa.estimate.report import Estimate
from optical_dfa.estimate.tables import facts, sections, title


def to_markdown(estimate: Estimate, command: str) -> str:
    """The whole page.

    Args:
        estimate: what to show.
        command: the command line that asked for it.
    """
    lines = [f"# {title(estimate)}", "", f"`{command}` printed this.", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_escaped(value)} |" for name, value in facts(estimate)]
    for section in sections(estimate):
        rule = ["---"] * section.n_text + ["---:"] * (len(section.columns) - section.n_text)
        lines += ["", f"## {section.title}", "", f"| {' | '.join(section.columns)} |", f"|{'|'.join(rule)}|"]
        lines += [f"| {' | '.join(map(_escaped, line))} |" for line in section.lines]
        for note in section.notes:
            lines += ["", _escaped(note)]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("_", "\\_").replace("~", "\\~")
