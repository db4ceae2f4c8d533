"""The summary of a study in words."""

import itertools
import math
from collections.abc import Iterator, Sequence

from optical_dfa.study.models import StudyConfig
from optical_dfa.study.queue import Progress
from optical_dfa.study.report.conditions import Change, Condition, Estimate, beside, changes, references_of
from optical_dfa.study.tables import text

CLOSE = 0.01
"""A condition learns as well as another if the whole interval of the difference is within this accuracy: a point."""


def summary(study: StudyConfig, conditions: Sequence[Condition], progress: Progress) -> list[str]:
    """Sentences, in the order they are read."""
    return [
        _extent(study, conditions, progress),
        *_methods(conditions),
        *_factors(study, conditions),
        *_snr(conditions),
    ]


def _extent(study: StudyConfig, conditions: Sequence[Condition], progress: Progress) -> str:
    words = f"{progress.complete} of {progress.total} runs are complete"
    if progress.failed:
        words += f", {len(progress.failed)} failed"
    if progress.open:
        words += f", {progress.open} are still to be done"
    design = "every combination of levels" if study.design == "grid" else "one factor at a time around the base"
    return (
        f"{words}: {len(conditions)} conditions, {design}, {_count(len(study.seeds), 'seed')} each. "
        "Accuracy is that of the test images after the last epoch; ± is the 95 % interval of the mean over seeds "
        "(Student's t), and * marks differences whose interval leaves out zero."
    )


def _methods(conditions: Sequence[Condition]) -> Iterator[str]:
    plain, varied = [], []
    for method in dict.fromkeys(condition.method for condition in conditions):
        mine = [condition for condition in conditions if condition.method == method and condition.results]
        if len(mine) == 1:
            plain.append(f"{method} {mine[0].estimate('test_accuracy').percent()}")
        elif mine:
            ordered = sorted(mine, key=lambda condition: condition.estimate("test_accuracy").mean)
            worst, best = ordered[0], ordered[-1]
            varied.append(f"{method}: from {_at(worst)} to {_at(best)}.")
    if plain:
        yield f"Test accuracy: {'; '.join(plain)}."
    yield from varied


def _at(condition: Condition) -> str:
    where = ", ".join(f"{factor} {text(value)}" for factor, value in condition.levels.items())
    return f"{condition.estimate('test_accuracy').percent()} ({where})"


def _factors(study: StudyConfig, conditions: Sequence[Condition]) -> Iterator[str]:
    for factor in study.factors:
        for method in study.methods:
            found = changes(study, conditions, factor, method)
            if len(found) > 1:
                yield _factor(study, factor, method, found)


def _factor(study: StudyConfig, factor: str, method: str, found: Sequence[Change]) -> str:
    base = next((change for change in found if change.difference is None), found[0])
    others = " (mean over the other factors)" if study.design == "grid" and len(study.factors) > 1 else ""
    parts = [
        f"{_points(change.difference)} at {text(change.level)}{_mark(change.difference)}"
        for change in found
        if change.difference is not None
    ]
    return (
        f"{factor}, {method}{others}: {base.accuracy.percent()} at {text(base.level)}; beside it, in points, "
        f"{', '.join(parts)}."
    )


def _points(difference: Estimate) -> str:
    interval = "" if math.isnan(difference.ci) else f" ± {100 * difference.ci:.1f}"
    return f"{100 * difference.mean:+.1f}{interval}".replace("-", "\N{MINUS SIGN}")


def _mark(difference: Estimate) -> str:
    """A star where the interval leaves zero out."""
    return " *" if abs(difference.mean) > difference.ci else ""


def _snr(conditions: Sequence[Condition]) -> Iterator[str]:
    known = [c for c in conditions if c.has_optics and not c.is_dark and math.isfinite(c.estimate("snr_db").mean)]
    known = sorted(known, key=lambda condition: -condition.estimate("snr_db").mean)
    for reference in references_of(conditions):
        if not known or any(math.isnan(beside(condition, reference).ci) for condition in known):
            continue
        as_well = list(itertools.takewhile(lambda each: _is_close(beside(each, reference)), known))  # noqa: B023
        at = "the 95 % interval of the difference, paired by seed, is within a point"
        if as_well:
            lowest = as_well[-1].estimate("snr_db").mean
            yield (
                f"With a measured SNR of {lowest:.1f} dB or better, every condition learns as well as "
                f"{reference.method}: {at}."
            )
        else:
            snr_db, difference = known[0].estimate("snr_db").mean, _points(beside(known[0], reference))
            yield (
                f"At the best SNR, {snr_db:.1f} dB, it is {difference} points beside {reference.method}: not shown to "
                f"learn as well, which is when {at}."
            )


def _is_close(difference: Estimate) -> bool:
    return abs(difference.mean) + difference.ci <= CLOSE


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
