"""The figures of a report. matplotlib is loaded only by them."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from optical_dfa.figures import COLOURS, DASHES
from optical_dfa.study.models import StudyConfig
from optical_dfa.study.report.conditions import Condition
from optical_dfa.study.report.factor_figures import against_factor, heat_map
from optical_dfa.study.report.figure_parts import Drawn, finite_or
from optical_dfa.study.report.noise_figures import against_snr, speckle

MOST_CURVES = 8


def draw_all(study: StudyConfig, conditions: Sequence[Condition]) -> Iterator[Drawn]:
    """Every figure that the results give, in the order of the report."""
    done = [condition for condition in conditions if condition.results]
    for number, factor in enumerate(study.factors, start=1):
        if any(factor in condition.levels for condition in done):
            yield against_factor(study, done, factor, number)
    if study.design == "grid":
        for one, other in itertools.combinations(study.factors, 2):
            having = [condition for condition in done if {one, other} <= condition.levels.keys()]
            for method in dict.fromkeys(condition.method for condition in having):
                yield heat_map(study, [c for c in having if c.method == method], one, other, method)
    if any(condition.has_optics for condition in done):
        yield against_snr(done)
        yield speckle([condition for condition in done if condition.has_optics])
    if done:
        yield _learning(study, done)


def _learning(study: StudyConfig, done: Sequence[Condition]) -> Drawn:
    figure = Figure(figsize=(10.4, 4.4), layout="constrained")
    accuracy, alignment = figure.subplots(1, 2)
    plain = [condition for condition in done if not condition.levels]
    varied = sorted((c for c in done if c.levels), key=lambda c: -finite_or(c.estimate("test_accuracy").mean, 0))
    room = max(2, MOST_CURVES - len(plain))
    picked = [varied[round(i * (len(varied) - 1) / max(1, room - 1))] for i in range(min(room, len(varied)))]
    picked = [*plain, *{condition.name: condition for condition in picked}.values()]
    palette = (*COLOURS, "black", "0.55")
    for index, condition in enumerate(picked):
        colour, dashes = palette[index % len(palette)], DASHES[index % len(DASHES)]
        for axes, metric, unit in ((accuracy, "test_accuracy", 100), (alignment, "alignment", 1)):
            curve = condition.curve(metric)
            means = unit * np.array([estimate.mean for estimate in curve])
            if not np.isfinite(means).any():
                continue
            half = unit * np.nan_to_num([estimate.ci for estimate in curve])
            epochs = np.arange(1, len(curve) + 1)
            axes.plot(epochs, means, color=colour, dashes=dashes, linewidth=1.6, label=condition.name)
            axes.fill_between(epochs, means - half, means + half, color=colour, alpha=0.15, linewidth=0)
    accuracy.set(xlabel="epoch", ylabel="test accuracy (%)", title="test accuracy")
    alignment.set(xlabel="epoch", ylabel="cosine with backpropagation's gradient", title="gradient alignment")
    for axes in (accuracy, alignment):
        axes.grid(alpha=0.3)
        axes.set_ylim(*np.clip(axes.get_ylim(), *((0, 100.5) if axes is accuracy else (-1.05, 1.05))))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = accuracy.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    figure.suptitle("Learning curves", fontsize=12)
    shown = "" if len(picked) == len(done) else f" {len(picked)} of {len(done)} conditions, from best to worst."
    return Drawn("learning", f"Mean over seeds, band: 95 % interval.{shown}", figure)
