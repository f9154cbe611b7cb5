"""Score files, read and checked.

The numbers of one artefact are finite, or unavailable for a reason that is known, and they are of one protocol.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm.errors import UserError
from cm.report import headings

if TYPE_CHECKING:
    from cm.config import Artefact, Cell, Suite
    from cm.config.layout import Layout

REQUIRED = ("metrics", "samples", "protocol", "extractor", "reference", "versions", "commit")
REQUIRED_OF_PROTOCOL = ("name", "samples", "reference", "extractor", "resizer", "quantization")
COPIED = ("metrics", "samples", "protocol", "extractor", "commit")


@dataclass(frozen=True)
class Score:
    """A score file, and the run and sampler that it is of.

    `metrics`: None for an unavailable one, whose reason is in `unavailable`. `uncertainty`: from a metric to `low`,
    `high` and `at_infinity`, as far as they were computed. `split_halves`: the metrics of one random half of the
    reference against the other. `version`: of this package and of those that it uses. `varied`: from setting to value,
    as the artefact's entry varies them. In a baseline, a score of real images, the fields from `method` on are empty.
    """

    path: Path
    dataset: str
    label: str
    metrics: Mapping[str, float | None]
    unavailable: Mapping[str, str]
    uncertainty: Mapping[str, Mapping[str, float]]
    samples: int
    protocol: Mapping[str, Any]
    quantization: str | None
    extractor: Mapping[str, str]
    reference: Mapping[str, Any]
    split_halves: Mapping[str, Any] | None
    seconds: Mapping[str, float]
    commit: str
    version: str
    method: str = ""
    variant: str = ""
    varied: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0
    progress: int = 0
    sampler: str = ""
    nfe: int = 0

    def __getitem__(self, metric: str) -> float:
        """The value of a metric; UserError, with the reason, if the file does not have it."""
        if metric not in self.metrics:
            raise UserError(f"{self.path} has no {metric}, only {', '.join(self.metrics)}")
        value = self.metrics[metric]
        if value is None:
            raise UserError(f"{self.path} has no {metric}: {self.unavailable[metric]}")
        return value

    def title(self, metric: str) -> str:
        """`FD`, or `FID` for Inception's features."""
        return headings.metric_title(metric, self.extractor["name"])

    def heading(self, metric: str) -> str:
        """`FD, digits, classifier features`."""
        return headings.heading(metric, self.dataset, self.extractor["name"])

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Low and high end of the bootstrap interval of a metric, None if there is no interval."""
        ends = self.uncertainty.get(metric, {})
        return (ends["low"], ends["high"]) if {"low", "high"} <= set(ends) else None

    def at_infinity(self, metric: str) -> float | None:
        """The metric extrapolated to infinitely many samples, None if it was not extrapolated."""
        return self.uncertainty.get(metric, {}).get("at_infinity")

    @property
    def has_fewer_samples(self) -> bool:
        """Whether it is of fewer samples than the protocol asks for."""
        return self.samples < self.protocol["samples"]

    @property
    def split(self) -> str:
        """The real images that the samples are compared with."""
        return self.reference.get("split", "reference")


def load(suite: Suite, artefact: Artefact, root: Path) -> list[Score]:
    """The score of every cell of an artefact, in its order.

    Raises UserError for a score that is missing, damaged or not finite, and for scores of different protocols,
    extractors, references or numbers of samples, which must not stand in one column.
    """
    scores = [read(cell, root) for cell in suite.cells(artefact)]
    if not scores:
        raise UserError(f"artefact {artefact.name}: no entries, so nothing to draw")
    for part in ("protocol", "extractor", "reference", "samples"):
        _check_equal(scores, part, artefact.name)
    return scores


def read(cell: Cell, root: Path) -> Score:
    """The score of a cell; UserError if it is missing or damaged."""
    path = score_path(cell, root)
    content, run = _read_content(path), cell.run
    score = _parse(path, content, run.dataset, cell.label)
    _check_keys(path, content, ["nfe"], "it")
    return dataclasses.replace(
        score,
        method=run.method,
        variant=run.variant,
        varied=dict(cell.varied),
        seed=run.seed,
        progress=cell.progress,
        sampler=cell.sampler,
        nfe=content["nfe"],
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
    baseline = _parse(path, _read_content(path), dataset, "real images (test split)")
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


# ---- reading --------------------------------------------------------------------------------------------------------


def _read_content(path: Path) -> dict[str, Any]:
    from cm.utils import files

    if not path.exists():
        raise UserError(f"no score {path}: run snakemake '{path}'")
    content = files.read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a score: expected a JSON object")
    return content


def _parse(path: Path, content: Mapping[str, Any], dataset: str, label: str) -> Score:
    """The score in a file, without the fields that say which run it is of."""
    _check_keys(path, content, REQUIRED, "it")
    _check_keys(path, content["protocol"], REQUIRED_OF_PROTOCOL, "its protocol")
    unavailable, uncertainty = content.get("unavailable", {}), content.get("uncertainty", {})
    reference = dict(content["reference"])
    halves = reference.pop("split_halves", None)
    _check_numbers(path, content["metrics"], unavailable)
    for metric, ends in uncertainty.items():
        _check_numbers(path, {f"{end} of {metric}": value for end, value in ends.items()})
    if halves:
        _check_numbers(path, halves["metrics"], halves["metrics"])
    return Score(
        path=path,
        dataset=dataset,
        label=label,
        unavailable=unavailable,
        uncertainty=uncertainty,
        quantization=content.get("quantization") or content["protocol"]["quantization"],
        reference=reference,
        split_halves=halves,
        seconds=content.get("seconds", {}),
        version=", ".join(f"{name} {number}" for name, number in content["versions"].items()),
        **{key: content[key] for key in COPIED},
    )


def _check_keys(path: Path, content: Mapping[str, Any], required: Iterable[str], what: str) -> None:
    for key in required:
        if key not in content:
            raise UserError(f"{path} is not a score: {what} has no '{key}'")


def _check_numbers(path: Path, values: Mapping[str, Any], unavailable: Iterable[str] = ()) -> None:
    for name, value in values.items():
        if value is None and name in unavailable:
            continue
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{path}: {name} is {value}, not a finite number")


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
