"""Tables of scores and times: a row of numbers per thing compared, beside the paper's where it has them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm import report
from cm.config.layout import Layout
from cm.errors import UserError, unknown
from cm.report import figures, footnotes, scores
from cm.report.scores import Score
from cm.report.writing import HIGH, LOW, STD, table, text

if TYPE_CHECKING:
    from pandas import DataFrame

    from cm.config import Artefact, Cell, Suite

DATASETS = {
    "cifar10": "CIFAR-10",
    "imagenet64": "ImageNet 64",
    "lsun_bedroom": "LSUN Bedroom 256",
    "lsun_cat": "LSUN Cat 256",
}


@report.kind("comparison", form="table", needs="scores", baseline=True, check=lambda artefact: published(artefact))
def comparison(suite: Suite, artefact: Artefact, root: Path) -> DataFrame:
    """Tables 1 and 2 of the paper: a row per label and NFE, measured beside published; then the paper's other rows."""
    found = scores.load(suite, artefact, root)
    floors, limits = scores.floors(suite, found, root), _extrapolated(found)
    paper = published(artefact)
    rows = [{"Method": real.label, "NFE": None, **_measured([real], limits), "seeds": None} for real in floors]
    for (label, nfe), group in scores.groups(found, lambda score: (score.label, score.nfe)).items():
        rows.append({"Method": label, "NFE": nfe, **_measured(group, limits), **paper.pop((label, nfe), {})})
    best = _best(rows, found[0].heading("fid"), range(len(floors), len(rows)))
    rows += [{"Method": method, "NFE": nfe, **row} for (method, nfe), row in paper.items()]
    notes = [*footnotes.of_table(found, floors, limits=limits), *_paper_notes(suite, artefact, found)]
    return table(rows, notes, best=best, marked=_marked(rows, found))


@report.kind("ablation", form="both", needs="scores", baseline=True)
def ablation(suite: Suite, artefact: Artefact, root: Path) -> tuple[DataFrame, Any]:
    """A row per combination of the varied settings, then real images; and FID over the last, a line for each other."""
    found = scores.load(suite, artefact, root)
    if not any(score.varied for score in found):
        raise UserError(f"artefact {artefact.name}: an ablation needs 'vary:' or 'variants:' in its entries")
    floors, limits = scores.floors(suite, found, root), _extrapolated(found)
    rows = []
    for group in scores.groups(found, figures.place).values():
        first = group[0]
        rows.append({**_texts(first.varied), "variant": first.variant, "NFE": first.nfe, **_measured(group, limits)})
    best = _best(rows, found[0].heading("fid"), range(len(rows)))
    rows += [{"variant": real.label, **_measured([real], limits), "seeds": None} for real in floors]
    notes = footnotes.of_table(found, floors, limits=limits)
    return table(rows, notes, best=best, marked=_marked(rows, found)), figures.ablation(found)


@report.kind("timings", form="table", needs="benchmarks")
def timings(suite: Suite, artefact: Artefact, root: Path) -> DataFrame:
    """Seconds of training, from Snakemake's benchmarks, and of sampling, from the scores that are there."""
    groups: dict[tuple, list[Cell]] = {}
    for cell in suite.cells(artefact):
        groups.setdefault((cell.label, cell.run.variant, cell.sampler, cell.progress), []).append(cell)
    notes = ["Training is the wall-clock time of its job, with start and kept models; of a resumed one, the last part."]
    notes += [footnotes.SPREAD] if len(artefact.seeds) > 1 else []
    return table([_timing(cells, root) for cells in groups.values()], notes)


def published(artefact: Artefact) -> dict[tuple[str, int], dict[str, str]]:
    """Rows of the paper's table that the artefact names, (method, NFE) to heading to number as printed; or nothing."""
    wanted = artefact.published
    if not wanted:
        return {}
    with open(Path(__file__).with_name("published.csv"), newline="") as file:
        every = list(csv.DictReader(file))
    for key in ("table", "dataset"):
        if wanted.get(key) not in {row[key] for row in every}:
            raise unknown(key, wanted.get(key), {row[key] for row in every}, f"artefact {artefact.name}, published")
    rows = [row for row in every if all(row[key] == wanted[key] for key in ("table", "dataset"))]
    if not rows:
        raise UserError(f"artefact {artefact.name}: the paper's {wanted['table']} has no {wanted['dataset']}")
    titles = _paper_titles(wanted["dataset"])
    used = [key for key in titles if any(row.get(key) for row in rows)]
    return {(row["method"], int(row["nfe"])): {titles[key]: row[key] or None for key in used} for row in rows}


# ---- rows ---------------------------------------------------------------------------------------------------------

LIMIT = " at infinity"


def _measured(group: Sequence[Score], limits: bool) -> dict[str, Any]:
    """Each metric of the scores of one model: mean and deviation over seeds, or the value and interval of one.

    `limits`: with a column for the FIDs of infinitely many images.
    """
    row: dict[str, Any] = {}
    for metric in group[0].metrics:
        heading = group[0].heading(metric)
        values = [None if metric in score.unavailable else score[metric] for score in group]
        row |= _spread(heading, values)
        interval = group[0].interval(metric) if len(group) == 1 else None
        row |= {heading + LOW: interval[0], heading + HIGH: interval[1]} if interval else {}
        if limits and metric == "fid":
            row |= _spread(heading + LIMIT, [score.at_infinity(metric) for score in group])
    return {**row, "seeds": len(group), "samples": group[0].samples}


def _extrapolated(found: Sequence[Score]) -> bool:
    """Whether there are fewer images than the protocol asks for, and FIDs of infinitely many beside theirs."""
    return found[0].short and any(score.at_infinity("fid") is not None for score in found)


def _spread(heading: str, values: Sequence[float | None]) -> dict[str, float | None]:
    return dict(zip((heading, heading + STD), scores.spread(values), strict=True))


def _best(rows: Sequence[Mapping[str, Any]], heading: str, which: Sequence[int]) -> tuple[int, str] | None:
    """Row and column of the lowest value in rows `which`, if there is anything to compare."""
    if len(which) < 2 or any(rows[index].get(heading) is None for index in which):
        return None
    return min(which, key=lambda index: rows[index][heading]), heading


def _marked(rows: Sequence[Mapping[str, Any]], found: Sequence[Score]) -> list[tuple[int, str]]:
    """Places of numbers of images, if the models have fewer than the protocol asks for."""
    asked = found[0].protocol["samples"] if found[0].short else 0
    return [(index, "samples") for index, row in enumerate(rows) if row.get("samples", asked) < asked]


def _paper_titles(dataset: str) -> dict[str, str]:
    """Column of published.csv to heading."""
    where = f"{DATASETS.get(dataset, dataset)}, Inception"
    measures = {key: f"published {title}, {where}" for key, title in scores.TITLES.items()}
    return {**measures, "group": "group in the paper", "note": "note in the paper"}


def _paper_notes(suite: Suite, artefact: Artefact, found: Sequence[Score]) -> list[str]:
    if not artefact.published:
        return []
    data = suite.experiments.data(found[0].dataset).name
    other = [] if data == artefact.published["dataset"] else ["other data"]
    other += [] if found[0].extractor["name"] == "inception" else ["another extractor"]
    apart = f", of {' and '.join(other)}" if other else ""
    return [f"Published numbers are the paper's (Song et al. 2023){apart}."]


def _texts(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value if figures.is_number(value) else text(value) for key, value in values.items()}


def _timing(cells: Sequence[Cell], root: Path) -> dict[str, Any]:
    run = cells[0].run
    mean, std = scores.spread([_benchmark(cell, root) for cell in cells])
    seen = run.settings["total_steps"] * run.settings["batch"]
    sampled = [scores.read(cell, root) for cell in cells if scores.score_path(cell, root).exists()]
    seconds = [score.seconds["sampling"] for score in sampled if "sampling" in score.seconds]
    sampling = scores.spread(seconds) if seconds else (None, None)
    return {
        "Method": cells[0].label,
        "variant": run.variant,
        **{"training seconds": mean, f"training seconds{STD}": std},
        "seeds": len(cells),
        "training images per second": seen / mean,
        "sampler": cells[0].sampler,
        **{"sampling seconds": sampling[0], f"sampling seconds{STD}": sampling[1]},
        "sampled images": sampled[0].samples if seconds else None,
    }


def _benchmark(cell: Cell, root: Path) -> float:
    """Mean seconds of the training in Snakemake's benchmark file."""
    path = Path(Layout(str(root)).benchmark("train", cell.run.name))
    if not path.exists():
        raise UserError(f"no benchmark {path}: snakemake writes it when it trains {cell.run.name}")
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    try:
        return scores.spread([float(row["s"]) for row in rows])[0]
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is not a benchmark: expected seconds in a column 's'") from None
