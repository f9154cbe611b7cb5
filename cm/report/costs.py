"""The table of what every training of a suite cost: images, measured time, FLOPs, and hours of a GPU."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cm import report
from cm.errors import UserError
from cm.report import footnotes
from cm.report.scores import mean_and_deviation
from cm.report.tables import Row
from cm.report.training_seconds import read_seconds
from cm.report.writing import STD, table

if TYPE_CHECKING:
    from pandas import DataFrame

    from cm.config import Artefact, Run, Suite
    from cm.report import FlopCounter

GPU_FLOPS = 1e14  # per second, which `cm describe` assumes too
FLOPS_NOTE = (
    "A multiply-add counts as two FLOPs, a backward pass as two forward passes; only networks are counted, among them "
    "the teacher and the network of the distance."
)
GPU_NOTE = f"GPU hours of one seed assume a GPU that reaches {GPU_FLOPS / 1e12:g} TFLOPS; they are not measured."
SUM_NOTE = "All {count} trainings together took {wall:.3g} hours of wall-clock time and {processor:.3g} core hours."


@report.kind("costs", form="table", needs="trainings", flops=True)
def costs(suite: Suite, artefact: Artefact, root: Path, counter: FlopCounter | None = None) -> DataFrame:
    """A row for each training of the suite, over its seeds; released runs, which are not trained, have none."""
    groups: dict[str, list[Run]] = {}
    for run in suite.all_runs():
        if not run.released:
            groups.setdefault(run.identity.without_seed, []).append(run)
    if not groups:
        raise UserError(f"artefact {artefact.name}: the suite has no trainings, so nothing to draw")
    rows = [{**_measure(name, runs, root), **_count(runs[0], suite, counter)} for name, runs in groups.items()]
    several = any(len(runs) > 1 for runs in groups.values())
    notes = [
        _add_up(list(itertools.chain.from_iterable(groups.values())), root),
        *([FLOPS_NOTE, GPU_NOTE] if counter else []),
        *([footnotes.OVER_SEEDS] if several else []),
        *footnotes.of_origin(artefact),
    ]
    return table(rows, notes)


def _measure(name: str, runs: Sequence[Run], root: Path) -> Row:
    """The images and the measured time of trainings that differ in their seed."""
    seconds = [read_seconds(run.name, root) for run in runs]
    images = runs[0].training.images
    wall, deviation = mean_and_deviation([one.wall for one in seconds])
    return {
        "run": name,
        "seeds": len(runs),
        "images": images,
        "seconds": wall,
        f"seconds{STD}": deviation,
        "core seconds": mean_and_deviation([one.processor for one in seconds])[0],
        "images per second": images / wall,
        "hardware": "; ".join(dict.fromkeys(one.hardware for one in seconds if one.hardware)) or None,
    }


def _count(run: Run, suite: Suite, counter: FlopCounter | None) -> Row:
    """The FLOPs of an evaluation of the network and of the training, and the hours that the training takes a GPU."""
    if counter is None:
        return {}
    per_image = counter.of_training(run, suite.experiments)
    total = per_image * run.training.images
    return {
        "GFLOPs per evaluation": counter.of_evaluation(run) / 1e9,
        "GFLOPs per training image": per_image / 1e9,
        "GFLOPs of the training": total / 1e9,
        "GPU hours": total / GPU_FLOPS / 3600,
    }


def _add_up(runs: Sequence[Run], root: Path) -> str:
    """The sentence with the sums over all trainings."""
    seconds = [read_seconds(run.name, root) for run in runs]
    wall, processor = sum(one.wall for one in seconds), sum(one.processor for one in seconds)
    return SUM_NOTE.format(count=len(runs), wall=wall / 3600, processor=processor / 3600)
