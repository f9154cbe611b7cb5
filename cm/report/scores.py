"""The scores of an artefact: of its cells and of real images, grouped over seeds.

The numbers of one artefact are finite, or unavailable for a reason that is known, and they are of one protocol.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm.errors import UserError
from cm.report.score_file import Score, read_score

if TYPE_CHECKING:
    from cm.config import Artefact, Cell, Suite
    from cm.config.layout import Layout


def load(suite: Suite, artefact: Artefact, root: Path) -> list[Score]:
    """The score of every cell of an artefact, in its order; none of a search that repeats one with fewer steps.

    Raises UserError for a score that is missing, damaged or not finite, and for scores of different protocols,
    extractors, references or numbers of samples, which must not stand in one column.
    """
    scores = [read(cell, root) for cell in suite.cells(artefact)]
    if not scores:
        raise UserError(f"artefact {artefact.name}: no entries, so nothing to draw")
    check_comparable(scores, artefact.name)
    return _without_repetitions(scores)


def _without_repetitions(scores: Sequence[Score]) -> list[Score]:
    """The scores without those of searches that ended early, where the search with fewer steps has the same points."""
    found: dict[Hashable, Score] = {}
    for score in scores:
        searched = score.sampler.partition(",")[0] == "search"
        place = (score.label, score.dataset, score.method, score.variant, score.seed, score.progress, score.nfe)
        found.setdefault(place if searched else (place, len(found)), score)
    return list(found.values())


def check_comparable(scores: Sequence[Score], where: str) -> None:
    """UserError, which names `where`, for different protocols, extractors, references or numbers of samples."""
    for part in ("protocol", "extractor", "reference", "samples"):
        _check_equal(scores, part, where)


def _check_equal(scores: Sequence[Score], part: str, where: str) -> None:
    first = getattr(scores[0], part)
    for score in scores:
        other = getattr(score, part)
        if other != first:
            raise UserError(
                f"{where}: scores of different {part} cannot stand in one artefact: "
                f"{_describe_difference(first, other)} in {scores[0].path}, "
                f"{_describe_difference(other, first)} in {score.path}"
            )


def _describe_difference(value: Any, other: Any) -> str:
    """A value by its name, or, if the other one has the same name, with the entries in which the two differ."""
    if not isinstance(value, Mapping):
        return str(value)
    name = value.get("name")
    different = [key for key in {**value, **other} if value.get(key) != other.get(key)]
    if "name" in different:
        return str(name)
    entries = ", ".join(f"{key} {str(value.get(key))[:40]}" for key in different)
    return f"{name} with {entries}" if name else entries


def read(cell: Cell, root: Path) -> Score:
    """The score of a cell; UserError if it is missing or damaged."""
    run = cell.run
    score = read_score(score_path(cell, root), run.dataset, cell.label)
    if not score.nfe:
        raise UserError(f"{score.path} is not a score of samples: it has no 'nfe'")
    return dataclasses.replace(
        score,
        method=run.method,
        variant=run.variant,
        varied=dict(cell.varied),
        seed=run.seed,
        progress=cell.progress,
        sampler=cell.sampler,
    )


def layout_of(root: Path) -> Layout:
    """The paths below a `results` folder. (Importing cm.config reads YAML, so it waits until a path is needed.)"""
    from cm.config.layout import Layout

    return Layout(str(root))


def score_path(cell: Cell, root: Path) -> Path:
    """Where the score of a cell is."""
    return Path(layout_of(root).score(*cell.samples, cell.protocol.name))


# ---- baselines ------------------------------------------------------------------------------------------------------


def baselines(suite: Suite, scores: Sequence[Score], root: Path) -> list[Score]:
    """The scores of real images, which no model is expected to beat: of the test split, and of split halves.

    Those that the data set does not have are left out. Raises UserError if the score of the test split is of another
    protocol, extractor or reference than `scores`.
    """
    return [baseline for baseline in (_test_split(suite, scores, root), split_halves(scores)) if baseline]


def split_halves(scores: Sequence[Score]) -> Score | None:
    """The score of one random half of the reference against the other; None where only its statistics are known."""
    score = next((score for score in scores if score.split_halves), None)
    if score is None or score.split_halves is None:
        return None
    metrics = score.split_halves["metrics"]
    reasons = {name: "it is not computed between split halves" for name, value in metrics.items() if value is None}
    half = {"metrics": metrics, "unavailable": reasons, "uncertainty": {}, "samples": score.split_halves["images"]}
    return _without_run(dataclasses.replace(score, label="real images (split halves)", **half))


def _test_split(suite: Suite, scores: Sequence[Score], root: Path) -> Score | None:
    dataset, protocol = scores[0].dataset, scores[0].protocol["name"]
    if "test" not in suite.experiments.splits(dataset):
        return None
    path = Path(layout_of(root).baseline(dataset, "test", protocol))
    baseline = read_score(path, dataset, "real images (test split)")
    for part in ("protocol", "extractor", "reference"):
        _check_equal([*scores, baseline], part, "the real-data baseline")
    return baseline


def _without_run(score: Score) -> Score:
    return dataclasses.replace(score, method="", variant="", varied={}, seed=0, progress=0, sampler="", nfe=0)


# ---- several seeds --------------------------------------------------------------------------------------------------


def groups(scores: Iterable[Score], key: Callable[[Score], Hashable]) -> dict[Any, list[Score]]:
    """Scores by `key`, in order; UserError if the scores of a group differ in more than the seed."""
    found: dict[Any, list[Score]] = {}
    for score in scores:
        found.setdefault(key(score), []).append(score)
    for name, group in found.items():
        if len(set(map(_all_but_seed, group))) > 1:
            raise UserError(
                f"'{group[0].label}' stands for {group[0].path} and {group[-1].path}, "
                f"which differ in more than the seed, at one place {name}: give the entries labels of their own"
            )
        if len({score.seed for score in group}) < len(group):
            raise UserError(f"'{group[0].label}': {group[0].path} is asked for twice")
    return found


def _all_but_seed(score: Score) -> Hashable:
    return score.dataset, score.method, score.variant, score.progress, score.sampler


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (n - 1) over seeds; None in place of the deviation of a single value."""
    import statistics

    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """`mean_and_deviation`, or None for both where a value is unavailable."""
    known = [value for value in values if value is not None]
    return mean_and_deviation(known) if len(known) == len(values) else (None, None)
