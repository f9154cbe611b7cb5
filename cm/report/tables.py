"""Tables of scores and run times: one row for each model and sampler, beside published numbers where there are any."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm import report
from cm.errors import UserError
from cm.report import figures, footnotes, scores
from cm.report.published import describe_origin, published, read_rows
from cm.report.scores import Score
from cm.report.training_seconds import read_seconds
from cm.report.writing import HIGH, LOW, STD, Place, format_setting, table

if TYPE_CHECKING:
    from pandas import DataFrame

    from cm.config import Artefact, Cell, Suite
    from cm.report.others import Others

Row = dict[str, Any]
AT_INFINITY = " at infinity"
LOWEST_BLOCK = ", minimum of {} blocks"
TRAINING_TIME = (
    "Training seconds are the wall-clock time of the steps and of writing the models, over all starts of a training; "
    "core seconds are the time that the processor's cores worked for it, which other processes on the machine hardly "
    "change."
)


def _check_comparison(artefact: Artefact) -> None:
    from cm.report.others import check_others

    read_rows(artefact)
    check_others(artefact)


@report.kind(
    "comparison",
    form="table",
    needs="scores",
    baseline=True,
    options={"others": tuple[str, ...]},
    check=_check_comparison,
)
def comparison(suite: Suite, artefact: Artefact, root: Path) -> DataFrame:
    """Tables 1 and 2 of the paper: one row for each label and NFE.

    Real images come first, then the models, with published numbers beside the measured ones, then the results of the
    files that the option `others` names, marked by a letter, then the remaining published rows.
    """
    from cm.report.others import load_others

    found = scores.load(suite, artefact, root)
    baselines, at_infinity = scores.baselines(suite, found, root), _has_extrapolation(found)
    remaining, others = published(artefact), load_others(artefact, found[0])
    rows = [_baseline_row("Method", baseline, at_infinity) for baseline in baselines]
    for (label, nfe), group in scores.groups(found, lambda score: (score.label, score.nfe)).items():
        rows.append({"Method": label, "NFE": nfe, **_measure(group, at_infinity), **remaining.pop((label, nfe), {})})
    best = _find_best(rows, found[0].heading("fid"), range(len(baselines), len(rows)))
    rows += itertools.chain.from_iterable(_rows_of_others(one, at_infinity) for one in others)
    rows += [{"Method": method, "NFE": nfe, **row} for (method, nfe), row in remaining.items()]
    notes = [
        *(one.note() for one in others),
        *footnotes.of_table(found, baselines, at_infinity=at_infinity),
        *describe_origin(artefact, suite.experiments.data(found[0].dataset).name, found[0].extractor["name"]),
    ]
    return table(rows, notes, best=best, marked=_places_of_few_samples(rows, found))


@report.kind("ablation", form="both", needs="scores", baseline=True)
def ablation(suite: Suite, artefact: Artefact, root: Path) -> tuple[DataFrame, Any]:
    """A row for each combination of the varied settings, then real images; and the figure."""
    found = scores.load(suite, artefact, root)
    if not any(score.varied for score in found):
        raise UserError(f"artefact {artefact.name}: an ablation needs 'vary:' or 'variants:' in its entries")
    baselines, at_infinity = scores.baselines(suite, found, root), _has_extrapolation(found)
    rows: list[Row] = []
    for group in scores.groups(found, figures.place).values():
        first = group[0]
        settings = {key: _setting(value) for key, value in first.varied.items()}
        rows.append({**settings, "variant": first.variant, "NFE": first.nfe, **_measure(group, at_infinity)})
    best = _find_best(rows, found[0].heading("fid"), range(len(rows)))
    rows += [_baseline_row("variant", baseline, at_infinity) for baseline in baselines]
    notes = footnotes.of_table(found, baselines, at_infinity=at_infinity)
    drawn = table(rows, notes, best=best, marked=_places_of_few_samples(rows, found))
    return drawn, figures.ablation(found, footnotes.of_origin(artefact))


@report.kind("timings", form="table", needs="seconds")
def timings(suite: Suite, artefact: Artefact, root: Path) -> DataFrame:
    """Seconds of training, which it leaves beside its models, and of sampling, from the score files that exist."""
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in suite.cells(artefact):
        groups.setdefault((cell.label, cell.run.variant, cell.sampler, cell.progress), []).append(cell)
    notes = [TRAINING_TIME, *([footnotes.OVER_SEEDS] if len(artefact.seeds) > 1 else [])]
    return table([_time(cells, root) for cells in groups.values()], notes)


# ---- rows of scores -------------------------------------------------------------------------------------------------


def _measure(group: Sequence[Score], at_infinity: bool) -> Row:
    """Each metric of the scores of one model: mean and deviation over seeds, or value and interval of a single seed.

    `at_infinity`: with a column for the Frechet distance extrapolated to infinitely many samples.
    """
    row: Row = {}
    for metric in group[0].metrics:
        heading = group[0].heading(metric)
        row |= _spread(heading, _values(group, metric))
        if metric == "fid" and group[0].blocks:
            lowest = [min(score.block_values(metric)) for score in group]
            row |= _spread(heading + LOWEST_BLOCK.format(len(group[0].blocks)), lowest)
        interval = group[0].interval(metric) if len(group) == 1 else None
        row |= {heading + LOW: interval[0], heading + HIGH: interval[1]} if interval else {}
        if at_infinity and metric == "fid":
            row |= _spread(heading + AT_INFINITY, [score.at_infinity(metric) for score in group])
    return {**row, "seeds": len(group), "samples": group[0].samples}


def _rows_of_others(others: Others, at_infinity: bool) -> list[Row]:
    return [
        {"Method": f"{group[0].label} ({others.mark})", "NFE": group[0].nfe, **_measure(group, at_infinity)}
        for group in others.groups()
    ]


def _values(group: Sequence[Score], metric: str) -> list[float | None]:
    """The metric of each seed; for a single seed that was scored in blocks, that of each block."""
    if len(group) == 1 and group[0].blocks and metric not in group[0].unavailable:
        return list(group[0].block_values(metric))
    return [None if metric in score.unavailable else score[metric] for score in group]


def _baseline_row(label_column: str, baseline: Score, at_infinity: bool) -> Row:
    return {label_column: baseline.label, "NFE": None, **_measure([baseline], at_infinity), "seeds": None}


def _has_extrapolation(found: Sequence[Score]) -> bool:
    """Whether there are fewer samples than the protocol asks for, and the distance is extrapolated from them."""
    return found[0].has_fewer_samples and any(score.at_infinity("fid") is not None for score in found)


def _spread(heading: str, values: Sequence[float | None]) -> Row:
    mean, deviation = scores.spread(values)
    return {heading: mean, heading + STD: deviation}


def _find_best(rows: Sequence[Mapping[str, Any]], heading: str, candidates: Sequence[int]) -> Place | None:
    """Row and column of the lowest value among the candidates, None if there is nothing to compare."""
    if len(candidates) < 2 or any(rows[index].get(heading) is None for index in candidates):
        return None
    return min(candidates, key=lambda index: rows[index][heading]), heading


def _places_of_few_samples(rows: Sequence[Mapping[str, Any]], found: Sequence[Score]) -> list[Place]:
    """The numbers of samples to mark, where models have fewer than the protocol asks for."""
    required = found[0].protocol["samples"] if found[0].has_fewer_samples else 0
    return [(index, "samples") for index, row in enumerate(rows) if row.get("samples", required) < required]


def _setting(value: Any) -> Any:
    return value if figures.is_number(value) else format_setting(value)


# ---- rows of times --------------------------------------------------------------------------------------------------


def _time(cells: Sequence[Cell], root: Path) -> Row:
    """The times of one model and sampler, over its seeds."""
    run = cells[0].run
    trained = [read_seconds(cell.run.name, root) for cell in cells]
    wall, deviation = scores.mean_and_deviation([seconds.wall for seconds in trained])
    scored = [scores.read(cell, root) for cell in cells if scores.score_path(cell, root).exists()]
    seconds = [score.seconds["sampling"] for score in scored if "sampling" in score.seconds]
    sampling = scores.spread(seconds) if seconds else (None, None)
    return {
        "Method": cells[0].label,
        "variant": run.variant,
        "training seconds": wall,
        f"training seconds{STD}": deviation,
        "core seconds": scores.mean_and_deviation([seconds.processor for seconds in trained])[0],
        "seeds": len(cells),
        "training images per second": run.training.images / wall,
        "sampler": cells[0].sampler,
        "sampling seconds": sampling[0],
        f"sampling seconds{STD}": sampling[1],
        "samples": scored[0].samples if seconds else None,
    }
