"""What a page says about how its numbers were made: suite, data, protocols, versions, commits, seeds and hardware.

Everything is read from the files of the runs and scores that exist, so that it describes what was run, not what was
meant to be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cm import registry
from cm.report import scores
from cm.report.headings import dataset_title, metric_title
from cm.report.scores import Score, layout_of
from cm.report.training_seconds import TrainingSeconds, read_seconds

if TYPE_CHECKING:
    from cm.config import Cell, Run, Suite

NEED_SCORES = ("scores", "nearest", "seconds", "claims")  # what kinds of artefact need that read scores
UNKNOWN = "not known: nothing has been scored yet"
UNRECORDED = "not recorded"


@dataclass(frozen=True)
class Fact:
    """A line of the summary: its title, and its values, each a line of text."""

    title: str
    values: Sequence[str]


def summarize(suite: Suite, path: Path, root: Path) -> list[Fact]:
    """The facts about a suite, read from the file `path`, and its results below `root`.

    Raises UserError for a score, a manifest or a file of seconds that is damaged.
    """
    cells = _scored_cells(suite, root)
    found = [scores.read(cell, root) for place, cell in cells.items() if place.exists()]
    trained = [run for run in suite.all_runs() if not run.released]
    seconds = [read_seconds(run.name, root) for run in trained if Path(layout_of(root).seconds(run.name)).exists()]
    progress = [
        f"{len(seconds)} of {len(trained)} trainings, {len(found)} of {len(cells)} sets of samples scored",
        f"Seeds: {', '.join(map(str, sorted({run.seed for run in trained}))) or 'none'}",
    ]
    return [
        Fact("Suite", [f"{suite.name} ({path})", *progress]),
        Fact("Data", [_describe_data(suite, dataset, root) for dataset in _datasets(suite, trained)]),
        Fact("Protocol", _distinct(map(_describe_protocol, found)) or [UNKNOWN]),
        Fact("Extractor", _distinct(map(_describe_extractor, found)) or [UNKNOWN]),
        Fact("Versions", _distinct(score.version for score in found) or [UNKNOWN]),
        Fact("Commit", _list_commits(found) or [UNKNOWN]),
        Fact("Hardware", _list_hardware(found, seconds) or [UNKNOWN]),
        Fact("Time", _add_up_times(found, seconds)),
    ]


def _scored_cells(suite: Suite, root: Path) -> dict[Path, Cell]:
    """The cells whose scores the artefacts read, by the file of the score."""
    cells: dict[Path, Cell] = {}
    for artefact in suite.all_artefacts.values():
        if registry.get("artefact", artefact.kind).needs in NEED_SCORES:
            cells |= {scores.score_path(cell, root): cell for cell in suite.cells(artefact)}
    return cells


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _datasets(suite: Suite, runs: Iterable[Run]) -> list[str]:
    return _distinct([*(run.dataset for run in runs), *(cell.run.dataset for cell in suite.all_cells())])


def _describe_data(suite: Suite, dataset: str, root: Path) -> str:
    """`digits: 8 x 8 pixels, train 899 images, test 898 images`, as its manifest says."""
    from cm.utils import files

    data = suite.experiments.data(dataset)
    name = dataset if data.name == dataset else f"{dataset} ({dataset_title(data.name)})"
    path = Path(layout_of(root).manifest(dataset))
    if not path.exists():
        return f"{dataset_title(name)}: not prepared here"
    manifest = files.read_json(path)
    manifest = manifest if isinstance(manifest, dict) else {}
    size, splits = manifest.get("resolution", "unknown"), manifest.get("splits")
    counts = [f"{split} {_count_images(about)}" for split, about in splits.items()] if isinstance(splits, dict) else []
    return f"{dataset_title(name)}: {', '.join([f'{size} x {size} pixels', *counts])}"


def _count_images(about: object) -> str:
    count = about.get("images") if isinstance(about, dict) else None
    return f"{count:,} images" if isinstance(count, int) else "unknown"


def _describe_protocol(score: Score) -> str:
    """The protocol of a score, and the samples and real images that it compared."""
    protocol, reference = score.protocol, score.reference
    images = f"{reference['images']:,} {score.split} images" if reference.get("images") else f"{score.split} images"
    metrics = ", ".join(metric_title(name, score.extractor["name"]) for name in score.metrics)
    return (
        f"{protocol['name']}: {metrics} of {score.samples:,} samples against {images}, "
        f"resizer {protocol['resizer']}, quantization {score.quantization}"
    )


def _describe_extractor(score: Score) -> str:
    digest, precision = score.extractor.get("sha256"), score.extractor.get("precision")
    parts = [str(score.extractor["name"]), f"sha256 {str(digest)[:12]}" if digest else "", str(precision or "")]
    return ", ".join(filter(None, parts))


def _list_commits(found: Sequence[Score]) -> list[str]:
    """The commits that trained and that scored, with the number of scores of each."""
    scored, trained = _count(score.commit for score in found), _count(score.trained_at for score in found)
    return [*(f"scored at {text}" for text in scored), *(f"trained at {text}" for text in trained)]


def _list_hardware(found: Sequence[Score], seconds: Sequence[TrainingSeconds]) -> list[str]:
    trained, scored = _count(one.hardware for one in seconds), _count(score.hardware for score in found)
    return [*(f"trainings: {text}" for text in trained), *(f"scores: {text}" for text in scored)]


def _count(values: Iterable[str]) -> list[str]:
    """Each value, with how often it occurs if there are several; an empty one was not recorded."""
    counts = Counter(value or UNRECORDED for value in values)
    return [f"{value} ({count:,})" if len(counts) > 1 else value for value, count in counts.items()]


def _add_up_times(found: Sequence[Score], seconds: Sequence[TrainingSeconds]) -> list[str]:
    wall, processor = sum(one.wall for one in seconds), sum(one.processor for one in seconds)
    sampling = sum(score.seconds.get("sampling", 0.0) for score in found)
    scoring = sum(score.seconds.get("scoring", 0.0) for score in found)
    return [
        f"Trainings: {hours(wall)} of wall-clock time, {hours(processor)} of core time",
        f"Sampling: {hours(sampling)}; features and metrics: {hours(scoring)}",
    ]


def hours(seconds: float) -> str:
    """`12 s`, `3 min 20 s`, `5 h 03 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02} min"
