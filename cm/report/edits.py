"""Edits of images: pictures as Figures 6 and 8 to 13 of the paper arrange them, and a table of scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cm import report
from cm.config.layout import EDIT_PREVIEW_COUNT
from cm.config.settings import at_least, at_most
from cm.errors import UserError
from cm.report import footnotes, headings, panels, pictures, scores
from cm.report.edit_score_file import EditScore, read_edit_score
from cm.report.writing import HIGH, LOW, STD, table

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from cm.config import Artefact, Cell, Suite

Row = dict[str, Any]
MODEL = "model"  # the name of the results of the model in a score file
Count = Annotated[int, at_least(1), at_most(EDIT_PREVIEW_COUNT)]
KNOWN = "known, RMS error"
EXPLANATION = (
    f"{KNOWN}: of the known pixels, grey values or block means, in levels of 0 to 255, after quantization to 8 bits; "
    "strokes and noisy images prescribe none."
)
SIMILARITY = "PSNR in dB, SSIM (torchmetrics) and {distance} are means over images, each against its original."


@report.kind("edits", form="figure", needs="edit previews", options={"images": Count})
def edits(suite: Suite, artefact: Artefact, root: Path) -> Figure:
    """Figures 6 and 8 to 13 of the paper: what was given, the results and the originals, a panel for each edit."""
    cells = _cells(suite, artefact)
    count = artefact.options.get("images", 6)
    found = [_read_panel(cell, root, count) for cell in cells]
    if len(cells) > 1 and all(cell.edit.partition(",")[0] == "denoising" for cell in cells):
        found = [_join_levels(cells, found)]
    return panels.draw(found, footnotes.of_origin(artefact))


@report.kind("editing", form="table", needs="edit scores")
def editing(suite: Suite, artefact: Artefact, root: Path) -> DataFrame:
    """The scores of each edit: of the models, and of simple methods without one."""
    groups: dict[tuple[str, str], list[EditScore]] = {}
    for cell in suite.cells(artefact):
        path = Path(scores.layout_of(root).edit_score(*cell.edited))
        groups.setdefault((cell.label, cell.edit), []).append(read_edit_score(path))
    if not groups:
        raise UserError(f"artefact {artefact.name}: no entries, so nothing to draw")
    rows = []
    for edit in dict.fromkeys(edit for _, edit in groups):
        same = {label: group for (label, other), group in groups.items() if other == edit}
        rows += [{"edit": edit, "method": label, **_measure(group, MODEL)} for label, group in same.items()]
        first = next(iter(same.values()))
        rows += [{"edit": edit, "method": name, **_measure(first, name)} for name in first[0].methods if name != MODEL]
    return table(rows, _notes(suite, artefact, list(groups.values())))


# ---- pictures -------------------------------------------------------------------------------------------------------


def _cells(suite: Suite, artefact: Artefact) -> list[Cell]:
    cells = [cell for cell in suite.cells(artefact) if cell.run.seed == artefact.seeds[0]]
    if not cells:
        raise UserError(f"artefact {artefact.name}: no entries, so nothing to draw")
    return cells


def _read_panel(cell: Cell, root: Path, count: int) -> panels.Panel:
    """The panel of an edit: a row for each image, and the titles of its columns."""
    from cm.config import parse_edit

    found = pictures.read_preview(Path(scores.layout_of(root).edit_preview(*cell.edited)))
    parsed = parse_edit(cell.edit)
    titles = _column_titles(parsed)
    if len(found) % len(titles):
        raise UserError(f"the preview of {cell.edit} of {cell.run.name} does not have rows of {len(titles)} pictures")
    rows = found.reshape(-1, len(titles), *found.shape[1:])[:count]
    shown = len(titles) - 1 if getattr(parsed, "results", 1) > 1 else len(titles)  # Figure 13 has no originals
    return panels.Panel(f"{cell.label}: {cell.edit.replace(',', ', ')}", titles[:shown], list(rows[:, :shown]))


def _join_levels(cells: Sequence[Cell], found: Sequence[panels.Panel]) -> panels.Panel:
    """Figure 12: the originals to the left, and two rows for each: with noise of rising levels, and denoised."""
    import numpy as np

    from cm.config import parse_edit

    rows: list[np.ndarray] = []
    for same in zip(*(panel.rows for panel in found), strict=True):
        original = same[0][-1]
        rows.append(np.stack([original, *(row[0] for row in same)]))
        rows.append(np.stack([np.full_like(original, 255), *(row[1] for row in same)]))
    levels = [f"{parse_edit(cell.edit).sigma:g}" for cell in cells]
    title = f"{cells[0].label}: images with noise of these sigmas, and denoised images below them"
    return panels.Panel(title, ["original", *levels], rows)


def _column_titles(parsed: Any) -> list[str]:
    """The titles of the pictures in a row of a preview."""
    if not hasattr(parsed, "shown"):
        return [f"{index / (parsed.points - 1):.2g}" for index in range(parsed.points)]
    given, edited = parsed.shown
    return [given, edited, *[""] * (parsed.results - 1), "original"]


# ---- scores ---------------------------------------------------------------------------------------------------------


def _measure(group: Sequence[EditScore], method: str) -> Row:
    """The numbers of one method: mean and deviation over seeds, or values of a single seed with the interval of FID."""
    row: Row = {}
    for name, heading in _headings(group[0]).items():
        mean, deviation = scores.spread([score.methods[method][name] for score in group])
        row |= {heading: mean, heading + STD: deviation}
    interval = group[0].interval(method) if len(group) == 1 else None
    heading = _headings(group[0])["fid"]
    row |= {heading + LOW: interval[0], heading + HIGH: interval[1]} if interval else {}
    return {**row, "NFE": group[0].nfe if method == MODEL else None, "images": group[0].images}


def _headings(score: EditScore) -> dict[str, str]:
    """From each number of a method to the heading of its column."""
    return {
        "psnr": "PSNR",
        "ssim": "SSIM",
        "lpips": _distance_title(score),
        "fid": headings.heading("fid", score.dataset, score.extractor),
        "known": KNOWN,
    }


def _distance_title(score: EditScore) -> str:
    if score.perceptual is None or not score.perceptual.startswith("lpips"):
        return "perceptual distance"
    return "LPIPS"


def _notes(suite: Suite, artefact: Artefact, groups: Sequence[Sequence[EditScore]]) -> list[str]:
    first = groups[0][0]
    distance = f"{_distance_title(first)} ({first.perceptual})"
    trained_on = {f"{cell.run.dataset}/train" for cell in suite.cells(artefact)}
    held_out = ", which are not held out" if first.source in trained_on else ""
    several = any(len(group) > 1 for group in groups)
    return [
        *([footnotes.OVER_SEEDS] if several else [footnotes.OVER_SAMPLES]),
        SIMILARITY.format(distance=distance),
        f"{headings.metric_title('fid', first.extractor)} compares the edited images with the reference of protocol "
        f"{first.protocol}, features of {first.extractor}.",
        EXPLANATION,
        f"The images are the first {first.images} of {first.source}{held_out}.",
        *footnotes.of_origin(artefact),
    ]
