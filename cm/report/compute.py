"""The figure of quality against training compute: the Frechet distance over the FLOPs of trainings."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cm import report
from cm.errors import UserError
from cm.report import footnotes, scores
from cm.report.plots import GREY, MARKERS, Plot, has_intervals
from cm.report.scores import Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cm.config import Artefact, Cell, Run, Suite
    from cm.report import FlopCounter

FLOPS = (
    "FLOPs are those of the training and of all trainings that it starts from, as cm describe counts them: a "
    "multiply-add counts as two, a backward pass as two forward passes, and only networks are counted."
)
ALONE = "The line to the left of a mark ends at the training alone, without those that it starts from."

Key = tuple[str, str, str, int]
Lines = dict[str, dict[int, "list[Model]"]]  # from a label to the number of evaluations to the models, by progress


@dataclasses.dataclass(frozen=True)
class Compute:
    """What a model cost: its training up to the model, and that together with the trainings it starts from."""

    alone: float
    total: float


@dataclasses.dataclass(frozen=True)
class Model:
    """The scores of all seeds of a model, and what each seed cost."""

    cost: Compute
    scores: list[Score]

    @property
    def distance(self) -> float:
        """The mean of the Frechet distance over the seeds."""
        return scores.mean_and_deviation([score["fid"] for score in self.scores])[0]


@report.kind("compute", form="figure", needs="scores", flops=True)
def compute(suite: Suite, artefact: Artefact, root: Path, counter: FlopCounter | None = None) -> Figure:
    """One colour for each label, one marker for each number of evaluations; models of one training are joined.

    The x axis has the FLOPs of a training and of those that it starts from, without `counter` their images. Raises
    UserError for a model whose training cost nothing here, since its weights were published.
    """
    found, costs = scores.load(suite, artefact, root), _costs(suite, artefact, counter)
    what = "FLOPs" if counter else "images"
    plot = Plot(found, f"{what} of training, with those of the trainings it starts from")
    plot.axes.set_xscale("log")
    counts = sorted({score.nfe for score in found})
    markers = {nfe: MARKERS[index % len(MARKERS)] for index, nfe in enumerate(counts)}
    for label, lines in _lines(found, costs).items():
        _draw_label(plot, label, lines, markers)
    for nfe, marker in markers.items():
        plot.axes.plot([], [], marker=marker, color=GREY, linestyle="none", label=f"NFE {nfe}")
    baseline = plot.add_baseline()
    plot.number_axis()
    own = footnotes.of_figure(found, marks="Bars", intervals=has_intervals(found), baseline=baseline)
    notes = [*([FLOPS] if counter else []), *_explain_lines(costs), *_name_published(suite, artefact)]
    return plot.finish([*notes, *own, *footnotes.of_origin(artefact)])


# ---- what a model cost ----------------------------------------------------------------------------------------------


def _costs(suite: Suite, artefact: Artefact, counter: FlopCounter | None) -> dict[Key, Compute]:
    """The cost of each model, in images without `counter`; trainings that differ in the seed cost the same."""

    def count(run: Run) -> int:
        images = 0 if run.released else run.training.images
        return images * counter.of_training(run, suite.experiments) if counter else images

    costs: dict[Key, Compute] = {}
    for cell in suite.cells(artefact):
        key = cell.run.dataset, cell.run.method, cell.run.variant, cell.progress
        if key not in costs:
            costs[key] = _cost(suite, artefact, cell, count)
    return costs


def _cost(suite: Suite, artefact: Artefact, cell: Cell, count: Callable[[Run], int]) -> Compute:
    run, *inputs = suite.experiments.with_inputs([cell.run])
    alone = count(run) * cell.progress / 100
    if not alone:
        raise UserError(f"artefact {artefact.name}: {run.name} has published weights, whose training is not known")
    return Compute(alone, alone + sum(map(count, inputs)))


# ---- marks ----------------------------------------------------------------------------------------------------------


def _lines(found: Sequence[Score], costs: Mapping[Key, Compute]) -> Lines:
    lines: Lines = {}
    groups = scores.groups(found, lambda score: (score.label, score.nfe, score.progress))
    for (label, nfe, _), group in groups.items():
        cost = costs[group[0].dataset, group[0].method, group[0].variant, group[0].progress]
        lines.setdefault(label, {}).setdefault(nfe, []).append(Model(cost, group))
    for models in itertools.chain.from_iterable(line.values() for line in lines.values()):
        models.sort(key=lambda model: model.cost.total)
    return lines


def _draw_label(plot: Plot, label: str, lines: Mapping[int, list[Model]], markers: Mapping[int, str]) -> None:
    """The marks of a label, joined over its training and, at its end, over the numbers of evaluations."""
    style = plot.next_style()
    if style["linestyle"] != "-":  # the colours repeat, and a line of one mark shows no dashes
        style["markerfacecolor"] = "white"
    for nfe, models in lines.items():
        points = {model.cost.total: model.scores for model in models}
        first = nfe == next(iter(lines))
        plot.add_error_bars(label if first else "", points, joined=True, style={**style, "marker": markers[nfe]})
    ends = [models[-1] for models in lines.values()]
    thin = {"color": style["color"], "linewidth": 0.8, "zorder": 1}
    plot.axes.plot([end.cost.total for end in ends], [end.distance for end in ends], linestyle=":", **thin)
    plot.axes.plot([ends[0].cost.alone, ends[0].cost.total], [ends[0].distance] * 2, **thin)


# ---- footnotes ------------------------------------------------------------------------------------------------------


def _explain_lines(costs: Mapping[Key, Compute]) -> list[str]:
    return [ALONE] if any(cost.alone < cost.total for cost in costs.values()) else []


def _name_published(suite: Suite, artefact: Artefact) -> list[str]:
    """Which labels start from published weights, whose training nobody counts here."""
    labels: dict[str, None] = {}
    for cell in suite.cells(artefact):
        if any(run.released for run in suite.experiments.with_inputs([cell.run])):
            labels[cell.label] = None
    return (
        [f"Not counted: the training of the published weights that {', '.join(labels)} start from."] if labels else []
    )
