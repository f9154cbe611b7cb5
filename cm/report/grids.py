"""Figures 14 to 21 of the paper: uncurated samples of several models from the same noise, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cm import report
from cm.config.layout import PREVIEW_COUNT
from cm.config.settings import at_least, at_most
from cm.errors import UserError
from cm.report import footnotes, panels, pictures
from cm.report.scores import layout_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cm.config import Artefact, Cell, Suite

Side = Annotated[int, at_least(1), at_most(PREVIEW_COUNT)]
SAME_NOISE = "Samples at the same place start from the same noise. They are the first ones, not a selection."


@report.kind("grids", form="figure", needs="previews", options={"columns": Side, "rows": Side})
def grids(suite: Suite, artefact: Artefact, root: Path) -> Figure:
    """A grid of samples for each model and sampler; those of a class-conditional model with their class below them."""
    cells = [cell for cell in suite.cells(artefact) if cell.run.seed == artefact.seeds[0]]
    if not cells:
        raise UserError(f"artefact {artefact.name}: no entries, so nothing to draw")
    several = len({cell.progress for cell in cells}) > 1
    found = [_read_grid(cell, artefact, root, with_progress=several) for cell in cells]
    return panels.draw(found, [SAME_NOISE, *footnotes.of_origin(artefact)])


def _read_grid(cell: Cell, artefact: Artefact, root: Path, *, with_progress: bool) -> panels.Panel:
    columns, rows = artefact.options.get("columns", 6), artefact.options.get("rows", 8)
    path = Path(layout_of(root).preview(*cell.samples))
    images = pictures.read_preview(path)
    if len(images) < columns * rows:
        raise UserError(f"{path} has {len(images)} samples, fewer than {rows} rows of {columns}")
    starts = range(0, columns * rows, columns)
    labels = _read_labels(path, len(images)) if cell.run.classes else []
    return panels.Panel(
        pictures.name_samples(cell, with_progress=with_progress),
        [],
        [images[start : start + columns] for start in starts],
        [labels[start : start + columns] for start in starts] if labels else (),
    )


def _read_labels(preview: Path, count: int) -> list[str]:
    """The classes of the samples of a preview, which `cm sample` writes beside it."""
    from cm.utils import files

    path = preview.with_suffix(".json")
    if not path.exists():
        raise UserError(f"no file {path} with the classes of the samples: remove {preview} to have it made again")
    found = files.read_json(path)
    labels = found.get("labels") if isinstance(found, dict) else None
    if not isinstance(labels, list) or len(labels) != count or any(type(label) is not int for label in labels):
        raise UserError(f"{path} must have 'labels', a whole number for each of the {count} samples")
    return [f"class {label}" for label in labels]
