"""The figure of quality against cost: the Frechet distance over the evaluations of the network and their FLOPs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cm import report
from cm.report import footnotes, scores
from cm.report.plots import Plot
from cm.report.published import describe_origin, read_rows
from cm.report.scores import Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cm.config import Artefact, Suite
    from cm.report import FlopCounter


@report.kind("quality", form="figure", needs="scores", flops=True, check=read_rows)
def quality(suite: Suite, artefact: Artefact, root: Path, counter: FlopCounter | None = None) -> Figure:
    """One line for each label over the evaluations of the network per sample, with an axis of GFLOPs above.

    Published numbers of the same data and the same extractor are drawn as hollow marks.
    """
    found = scores.load(suite, artefact, root)
    plot = Plot(found, "network evaluations per sample (NFE)")
    plot.axes.set_xscale("log", base=2)
    for label, points in _lines(found).items():
        plot.add_line(label, points)
    published, notes = _published(suite, artefact, found[0])
    for method, numbers in published.items():
        plot.add_published(f"{method} (published)", numbers)
    baseline = plot.add_baseline()
    evaluations = itertools.chain((score.nfe for score in found), *published.values())
    plot.set_ticks(_powers_of_two(list(evaluations)))
    notes += _add_flops(plot, suite, artefact, counter)
    own = footnotes.of_figure(found, marks="Bands", intervals=False, baseline=baseline)
    return plot.finish([*own, *notes, *footnotes.of_origin(artefact)])


def _lines(found: Sequence[Score]) -> dict[str, dict[float, list[Score]]]:
    """From a label to the number of evaluations to the scores of all seeds, by rising number."""
    lines: dict[str, dict[float, list[Score]]] = {}
    for (label, nfe), group in scores.groups(found, lambda score: (score.label, score.nfe)).items():
        lines.setdefault(label, {})[nfe] = group
    return {label: dict(sorted(points.items())) for label, points in lines.items()}


def _powers_of_two(values: Sequence[int | float]) -> list[float]:
    """1, 2, 4, 8, ... as far as the values reach."""
    low, high = math.floor(math.log2(min(values))), math.ceil(math.log2(max(values)))
    return [2.0**power for power in range(low, high + 1)]


def _published(suite: Suite, artefact: Artefact, score: Score) -> tuple[Mapping[str, Mapping[float, float]], list[str]]:
    """From a published method to its distances by the number of evaluations, and whose numbers they are.

    Nothing if they are of other data or of another extractor, which one axis cannot show.
    """
    dataset = suite.experiments.data(score.dataset).name
    if artefact.published.get("dataset") != dataset or score.extractor["name"] != "inception":
        return {}, []
    found: dict[str, dict[float, float]] = {}
    for row in read_rows(artefact):
        if row["fid"]:
            found.setdefault(row["method"], {})[int(row["nfe"])] = float(row["fid"])
    return found, describe_origin(artefact, dataset, "inception")


def _add_flops(plot: Plot, suite: Suite, artefact: Artefact, counter: FlopCounter | None) -> list[str]:
    """The axis of GFLOPs where all networks cost the same; elsewhere a footnote with the cost of each."""
    if counter is None:
        return []
    costs = {cell.label: counter.of_evaluation(cell.run) / 1e9 for cell in suite.cells(artefact)}
    if len(set(costs.values())) == 1:
        plot.add_scaled_axis("GFLOPs per sample", next(iter(costs.values())))
        return ["A multiply-add counts as two FLOPs; only the network is counted."]
    words = ", ".join(f"{label} {cost:.3g}" for label, cost in costs.items())
    return [f"GFLOPs of one evaluation (a multiply-add counts as two): {words}."]
