"""Score files, read and checked.

The numbers of an artefact are finite or unavailable for a reason, and of one protocol.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm.config.layout import Layout
from cm.errors import UserError

if TYPE_CHECKING:
    from cm.config import Artefact, Cell, Suite

TITLES = {"fid": "FID", "kid": "KID", "inception_score": "IS", "precision": "precision", "recall": "recall"}
NEEDED = ("metrics", "samples", "protocol", "extractor", "reference", "versions", "commit")
OF_PROTOCOL = ("name", "samples", "reference", "extractor", "resizer", "quantization")


@dataclass(frozen=True)
class Score:
    """The score file of a cell. `varied`: setting to value, of the artefact's entry; `version`: of all packages.

    `metrics`: None for an unavailable one, whose reason is in `unavailable`. `uncertainty`: metric to `low`, `high` and
    `at_infinity`, as far as they were computed. `halves`: metrics of one half of the reference against the other.
    """

    path: Path
    dataset: str
    label: str
    method: str | None
    variant: str | None
    varied: Mapping[str, Any]
    seed: int | None
    progress: int | None
    sampler: str | None
    nfe: int | None
    metrics: Mapping[str, float | None]
    unavailable: Mapping[str, str]
    uncertainty: Mapping[str, Mapping[str, float]]
    samples: int
    protocol: Mapping[str, Any]
    extractor: Mapping[str, str]
    reference: Mapping[str, Any]
    halves: Mapping[str, Any] | None
    seconds: Mapping[str, float]
    commit: str
    version: str

    def __getitem__(self, metric: str) -> float:
        """The value of a metric; UserError, with the reason, if the file has it not."""
        if metric not in self.metrics:
            raise UserError(f"{self.path} has no {metric}, only {', '.join(self.metrics)}")
        value = self.metrics[metric]
        if value is None:
            raise UserError(f"{self.path} has no {metric}: {self.unavailable[metric]}")
        return value

    def heading(self, metric: str) -> str:
        """`FID, digits, classifier features`: a number from features is nothing without the name of their network."""
        judge = _short(self.extractor["name"])
        title = "FD" if (metric, judge) == ("fid", "dinov2") else TITLES.get(metric, metric)
        return f"{title}, {self.dataset}, {judge} features"

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Low and high end of the bootstrap interval of a metric, if there is one."""
        ends = self.uncertainty.get(metric, {})
        return (ends["low"], ends["high"]) if {"low", "high"} <= set(ends) else None

    def at_infinity(self, metric: str) -> float | None:
        """The metric of infinitely many images, if it was extrapolated."""
        return self.uncertainty.get(metric, {}).get("at_infinity")

    @property
    def short(self) -> bool:
        """Whether it is of fewer images than the protocol asks for."""
        return self.samples < self.protocol["samples"]

    @property
    def split(self) -> str:
        """The real images that it compares with."""
        return self.reference.get("split", "reference")


def load(suite: Suite, artefact: Artefact, root: Path) -> list[Score]:
    """The score of every cell of an artefact, in its order.

    Raises UserError for a score that is missing, damaged or not finite, and for scores of different protocols,
    extractors, references or numbers of images, whose numbers must not stand in one column.
    """
    found = [read(cell, root) for cell in suite.cells(artefact)]
    if not found:
        raise UserError(f"artefact {artefact.name}: no entries, so nothing to draw")
    for part in ("protocol", "extractor", "reference", "samples"):
        _same(found, part, artefact.name)
    return found


def floors(suite: Suite, found: Sequence[Score], root: Path) -> list[Score]:
    """Scores of real images: of the test split, and of halves of the reference, where the data have them.

    UserError if the score of the test split is of another protocol, extractor or reference.
    """
    return [score for score in (_test_split(suite, found, root), halves(found)) if score]


def halves(found: Sequence[Score]) -> Score | None:
    """The score of one random half of the reference against the other, None without (imported statistics)."""
    for score in found:
        if score.halves:
            metrics = score.halves["metrics"]
            unavailable = {name: "the halves of the reference have none" for name in metrics if metrics[name] is None}
            of = {"metrics": metrics, "unavailable": unavailable, "samples": score.halves["images"], "uncertainty": {}}
            return dataclasses.replace(score, **_no_run(f"{score.split} halves"), **of)
    return None


def read(cell: Cell, root: Path) -> Score:
    """The score of a cell."""
    path = score_path(cell, root)
    content = _content(path)
    known = {"dataset": cell.run.dataset, "label": cell.label, "method": cell.run.method, "variant": cell.run.variant}
    known |= {"varied": dict(cell.varied), "seed": cell.run.seed, "progress": cell.progress, "sampler": cell.sampler}
    return _score(path, content, {**known, "nfe": content.get("nfe")})


def score_path(cell: Cell, root: Path) -> Path:
    """Where the score of a cell is."""
    return Path(Layout(str(root)).score(*cell.samples, cell.protocol.name))


def groups(scores: Iterable[Score], key: Callable[[Score], Hashable]) -> dict[Any, list[Score]]:
    """Scores by `key`, in order; UserError if the scores of a group differ in more than the seed."""
    found: dict[Any, list[Score]] = {}
    for score in scores:
        found.setdefault(key(score), []).append(score)
    for name, group in found.items():
        if len({(s.dataset, s.method, s.variant, s.progress, s.sampler) for s in group}) > 1:
            raise UserError(
                f"'{group[0].label}' stands for {group[0].path} and {group[-1].path}, "
                f"which differ in more than the seed, at one place {name}: give the entries labels of their own"
            )
        if len({score.seed for score in group}) < len(group):
            raise UserError(f"'{group[0].label}': {group[0].path} is asked for twice")
    return found


def spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and standard deviation (n - 1) over seeds; no deviation of one value; neither where a value is missing."""
    import statistics

    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None, None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None


# ---- reading ------------------------------------------------------------------------------------------------------


def _test_split(suite: Suite, found: Sequence[Score], root: Path) -> Score | None:
    dataset = found[0].dataset
    if "test" not in suite.experiments.splits(dataset):
        return None
    path = Path(Layout(str(root)).baseline(dataset, "test", found[0].protocol["name"]))
    real = _score(path, _content(path), {"dataset": dataset, **_no_run("test")})
    for part in ("protocol", "extractor", "reference"):
        _same([*found, real], part, "the floor")
    return real


def _no_run(which: str) -> dict[str, Any]:
    """The fields that say which run a score is of, for real images."""
    none = dict.fromkeys(("method", "variant", "seed", "progress", "sampler", "nfe"))
    return {"label": f"real images ({which})", "varied": {}, **none}


def _content(path: Path) -> dict[str, Any]:
    from cm.utils import files

    if not path.exists():
        raise UserError(f"no score {path}: run snakemake '{path}'")
    content = files.read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a score: expected a JSON object")
    return content


def _score(path: Path, content: Mapping[str, Any], known: Mapping[str, Any]) -> Score:
    _check_keys(path, content, NEEDED, "it")
    _check_keys(path, content["protocol"], OF_PROTOCOL, "its protocol")
    own = {"unavailable": {}, "uncertainty": {}, "seconds": {}, **content}
    reference = dict(content["reference"])
    halved = reference.pop("split_halves", None)
    _check_numbers(path, content["metrics"], own["unavailable"])
    for name, ends in own["uncertainty"].items():
        _check_numbers(path, {f"{key} of {name}": value for key, value in ends.items()})
    if halved:
        _check_numbers(path, halved["metrics"], halved["metrics"])
    version = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    kept = ("metrics", "unavailable", "uncertainty", "samples", "protocol", "extractor", "seconds", "commit")
    values = {key: own[key] for key in kept}
    return Score(path=path, **values, **known, version=version, reference=reference, halves=halved)


def _check_keys(path: Path, content: Mapping[str, Any], needed: Iterable[str], what: str) -> None:
    for key in needed:
        if key not in content:
            raise UserError(f"{path} is not a score: {what} has no '{key}'")


def _check_numbers(path: Path, values: Mapping[str, Any], unavailable: Iterable[str] = ()) -> None:
    for name, value in values.items():
        if value is None and name in unavailable:
            continue
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{path}: {name} is {value}, not a finite number")


def _same(found: Sequence[Score], part: str, where: str) -> None:
    first = getattr(found[0], part)
    for score in found:
        other = getattr(score, part)
        if other != first:
            raise UserError(
                f"{where}: scores of different {part} cannot stand in one artefact: "
                f"{_told(first, other)} in {found[0].path}, {_told(other, first)} in {score.path}"
            )


def _told(value: Any, other: Any) -> str:
    """A value that differs from another one, in words: by its name, or by the entries in which the two differ."""
    if not isinstance(value, Mapping):
        return str(value)
    name = value.get("name")
    differ = [key for key in {**value, **other} if value.get(key) != other.get(key)]
    entries = ", ".join(f"{key} {str(value.get(key))[:40]}" for key in differ)
    if "name" in differ:
        return str(name)
    return f"{name} with {entries}" if name else entries


def _short(extractor: str) -> str:
    """`digits/classifier/default/seed0` to `classifier`; a name that is no run stays as it is."""
    parts = extractor.split("/")
    return parts[1] if len(parts) == 4 else extractor
