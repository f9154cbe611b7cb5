"""Score files, read and checked: the numbers of one artefact are all there, finite, and of one protocol."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame

    from cm.config import Artefact, Cell, Suite

TITLES = {"fid": "FID", "kid": "KID", "inception_score": "IS", "precision": "precision", "recall": "recall"}


@dataclass(frozen=True)
class Score:
    """The score file of a cell. `varied`: setting to value, of the artefact's entry; `version`: of all packages."""

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
    metrics: Mapping[str, float]
    images: int
    extractor: Mapping[str, str]
    reference: Mapping[str, Any]
    seconds: Mapping[str, float]
    commit: str
    version: str

    def __getitem__(self, metric: str) -> float:
        """The value of a metric; UserError if the file has it not."""
        if metric not in self.metrics:
            raise UserError(f"{self.path} has no {metric}, only {', '.join(self.metrics)}")
        return self.metrics[metric]

    def heading(self, metric: str) -> str:
        """`FID, digits, classifier features`: a number from features is nothing without the name of their network."""
        return f"{TITLES.get(metric, metric)}, {self.dataset}, {_short(self.extractor['name'])} features"


def load(suite: Suite, artefact: Artefact, root: Path) -> list[Score]:
    """The score of every cell of an artefact, in its order.

    Raises UserError for a score that is missing, damaged or not finite, and for scores of different protocols
    (extractor, reference or number of images), whose numbers must not stand in one column.
    """
    found = [read(cell, root) for cell in suite.cells(artefact)]
    if not found:
        raise UserError(f"artefact {artefact.name}: no entries, so nothing to draw")
    for part in ("extractor", "reference", "images"):
        _same(found, part, artefact.name)
    return found


def frame(suite: Suite, artefact: Artefact, root: Path) -> DataFrame:
    """`load` as a table, a row per cell: what it is, one column per varied setting and per metric, and its origin."""
    import pandas

    return pandas.DataFrame(columns(load(suite, artefact, root)))


def columns(scores: Sequence[Score]) -> dict[str, list]:
    """Column to values, a value per score. A setting with the name of another column is called `<name> setting`."""
    metrics = _union(score.metrics for score in scores)
    before = ("label", "method", "variant", "seed", "progress", "sampler", "nfe")
    after = ("images", "dataset", "commit", "version")
    table = {name: [getattr(score, name) for score in scores] for name in before}
    for key in _union(score.varied for score in scores):
        title = f"{key} setting" if key in {*before, *metrics, *after, "extractor"} else key
        table[title] = [score.varied.get(key) for score in scores]
    table |= {name: [score.metrics.get(name) for score in scores] for name in metrics}
    table["extractor"] = [score.extractor["name"] for score in scores]
    return table | {name: [getattr(score, name) for score in scores] for name in after}


def notes(frame: DataFrame | Mapping[str, Sequence[str]]) -> list[str]:
    """Footnotes that the scores of a `frame` (or `columns`) call for: mixtures of commits or of package versions."""
    found = []
    for name, text in (("commit", "commits of this code"), ("version", "versions")):
        values = sorted(set(frame[name]))
        if len(values) > 1:
            found.append(f"Scores of different {text} are mixed: {'; '.join(values)}.")
    return found


def floor(suite: Suite, found: Sequence[Score], root: Path) -> Score | None:
    """The score of real test images, None for data without; UserError if its extractor or reference is another one."""
    from cm import config

    dataset = found[0].dataset
    if "test" not in config.splits_of(dataset, suite.experiments):
        return None
    path = Path(root) / "scores" / dataset / "real" / "test.json"
    known = {"dataset": dataset, "label": "real images (test)", "varied": {}}
    known |= dict.fromkeys(("method", "variant", "seed", "progress", "sampler", "nfe"))
    real = _score(path, _content(path), known)
    for part in ("extractor", "reference"):
        _same([*found, real], part, "the floor")
    return real


def read(cell: Cell, root: Path) -> Score:
    """The score of a cell."""
    path = score_path(cell, root)
    content = _content(path)
    known = {"dataset": cell.run.dataset, "label": cell.label, "method": cell.run.method, "variant": cell.run.variant}
    known |= {"varied": dict(cell.varied), "seed": cell.run.seed, "progress": cell.progress, "sampler": cell.sampler}
    return _score(path, content, {**known, "nfe": content.get("nfe")})


def score_path(cell: Cell, root: Path) -> Path:
    """Where the score of a cell is."""
    return Path(root) / "scores" / f"{cell.path}.json"


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


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (n - 1) over seeds; no deviation of one value."""
    import statistics

    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _content(path: Path) -> dict[str, Any]:
    from cm import files

    if not path.exists():
        raise UserError(f"no score {path}: run snakemake '{path}'")
    content = files.read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a score: expected a JSON object")
    return content


def _score(path: Path, content: Mapping[str, Any], known: Mapping[str, Any]) -> Score:
    needed = ("metrics", "images", "extractor", "reference", "versions", "commit")
    for key in needed:
        if key not in content:
            raise UserError(f"{path} is not a score: it has no '{key}'")
    values = {key: content[key] for key in needed if key != "versions"}
    for name, value in content["metrics"].items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{path}: {name} is {value}, not a finite number")
    version = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    return Score(path=path, **values, **known, version=version, seconds=content.get("seconds", {}))


def _same(found: Sequence[Score], part: str, where: str) -> None:
    first = found[0]
    for other in found:
        if getattr(other, part) != getattr(first, part):
            raise UserError(
                f"{where}: scores of different {part} cannot stand in one artefact: "
                f"{_told(getattr(first, part))} in {first.path}, {_told(getattr(other, part))} in {other.path}"
            )


def _told(value: Any) -> str:
    words = value.values() if isinstance(value, Mapping) else [value]
    return " ".join(str(word)[:40] for word in words)


def _short(extractor: str) -> str:
    """`digits/classifier/default/seed0` to `classifier`; a name that is no run stays as it is."""
    parts = extractor.split("/")
    return parts[1] if len(parts) == 4 else extractor


def _union(names: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for some in names for name in some))
