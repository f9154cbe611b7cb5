"""The figure of searched time points: the Frechet distance over the time, with every evaluation of a search."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cm import report
from cm.errors import UserError
from cm.report import footnotes, scores
from cm.report.plots import CHOSEN, Plot, has_intervals
from cm.report.score_file import Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cm.config import Artefact, Cell, SearchResult, Suite
    from cm.config.searches import Evaluation, PointSearch

Line = dict[float, list[Score]]  # from the time of an evaluation to its distance, the only one there


def check_samplers(artefact: Artefact) -> None:
    """UserError for an artefact with a sampler whose time points are not searched."""
    for entry in artefact.entries:
        for sampler in entry.samplers or (entry.sampler or "the default",):
            if sampler.partition(",")[0] != "search":
                raise UserError(
                    f"artefact {artefact.name}: {entry.method} has the sampler '{sampler}', which has no search: "
                    "expected 'search,steps~n'"
                )


@report.kind("time_search", form="figure", needs="searches", check=check_samplers)
def time_search(suite: Suite, artefact: Artefact, root: Path) -> Figure:
    """The Frechet distance over the time of each searched point; the chosen times have a ring."""
    lines: dict[str, Line] = {}
    chosen: list[Line] = []
    notes: list[str] = []
    for cell in suite.cells(artefact):
        result = _read(cell, root)
        for number, search in enumerate(result.searches, 1):
            label = _name_line(cell, number, artefact)
            lines[label] = {one.time: [_score(cell, result, one)] for one in search.evaluations}
            chosen.append({search.time: lines[label][search.time]})
            notes += _describe(label, search)
    if not lines:
        raise UserError(f"artefact {artefact.name}: no entries, so nothing to draw")
    return _draw(lines, chosen, [*notes, *footnotes.of_origin(artefact)])


def _draw(lines: dict[str, Line], chosen: Sequence[Line], notes: Sequence[str]) -> Figure:
    groups = itertools.chain.from_iterable(line.values() for line in lines.values())
    found = [group[0] for group in groups]
    plot = Plot(found, "time t of the point")
    plot.axes.set_xscale("log")
    for label, line in lines.items():
        plot.add_error_bars(label, dict(sorted(line.items())), joined=True)
    for point in chosen:
        plot.add_rings(point, CHOSEN)
    baseline = plot.add_baseline()
    plot.number_axis()
    own = footnotes.of_figure(found, marks="Bars", intervals=has_intervals(found), baseline=baseline)
    return plot.finish([*own, *notes])


def _read(cell: Cell, root: Path) -> SearchResult:
    """The search of a cell; UserError if it is missing, damaged, or of something else."""
    from cm.config import read_search

    path = Path(scores.layout_of(root).search(*cell.samples))
    found = read_search(path)
    if (found.run, found.progress, found.sampler) != (cell.run.name, cell.progress, cell.sampler):
        raise UserError(f"{path} is the search of {found.run}, {found.progress} %, {found.sampler}")
    return found


def _name_line(cell: Cell, number: int, artefact: Artefact) -> str:
    seed = f", seed {cell.run.seed}" if len(artefact.seeds) > 1 else ""
    return f"{cell.label}, point {number}{seed}"


def _score(cell: Cell, result: SearchResult, one: Evaluation) -> Score:
    """An evaluation as a score, without the seed: the bars are intervals over the samples, not over seeds."""
    reference = dict(result.reference)
    return Score(
        path=Path(),
        dataset=cell.run.dataset,
        label=cell.label,
        metrics={"fid": one.fid},
        unavailable={},
        uncertainty={"fid": {"low": one.low, "high": one.high}},
        samples=result.samples,
        protocol=result.protocol,
        quantization=result.quantization,
        extractor=result.extractor,
        split_halves=reference.pop("split_halves", None),
        reference=reference,
        seconds={},
        commit=result.commit,
        version=", ".join(f"{name} {number}" for name, number in result.versions.items()),
    )


def _describe(label: str, search: PointSearch) -> list[str]:
    """What a reader must know of a search: a minimum at an end of the interval, and what contradicts a single one."""
    found = [f"{label}: the chosen time {search.time:g} is an end of the interval."] if search.at_end else []
    if search.violations:
        largest = max(search.violations, key=lambda one: one.drop)
        within = "within" if largest.within_intervals else "beyond"
        found.append(
            f"{label}: {len(search.violations)} of the {len(search.evaluations)} evaluations contradict a single "
            f"minimum; the largest contradiction, {largest.drop:.3g} between t = {largest.nearer:g} and "
            f"{largest.farther:g}, is {within} the intervals."
        )
    return found
