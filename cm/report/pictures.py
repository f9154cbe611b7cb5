"""Pictures of samples, every pixel of theirs a whole number of the figure's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cm import report
from cm.config.layout import Layout
from cm.errors import UserError
from cm.report.figures import DPI

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from cm.config import Artefact, Cell, Suite

SMALL = 64
WORDS = {1: "one step", 2: "two steps"}


@report.kind("samples", form="figure", needs="previews", options=("columns",))
def samples(suite: Suite, artefact: Artefact, root: Path) -> Figure:
    """Figure 5 of the paper: a row of images per model and sampler; those of a column start from the same noise."""
    cells = [cell for cell in suite.cells(artefact) if cell.run.seed == artefact.seeds[0]]
    if not cells:
        raise UserError(f"artefact {artefact.name}: no entries, so nothing to draw")
    columns = artefact.options.get("columns", 12)
    rows = [_preview(cell, root)[:columns] for cell in cells]
    if len({row.shape[1:3] for row in rows}) > 1:
        raise UserError(f"artefact {artefact.name}: images of {sorted({row.shape[1:3] for row in rows})} in one figure")
    return _sheet(rows, _captions(cells))


def _preview(cell: Cell, root: Path) -> np.ndarray:
    """The images kept of a cell, uint8 [n, H, W, C]."""
    from cm.utils import files

    path = Path(Layout(str(root)).preview(*cell.samples))
    if not path.exists():
        raise UserError(f"no samples {path}: run snakemake '{path}'")
    return files.read_images(path)


def _captions(cells: Sequence[Cell]) -> list[str]:
    """`CT, one step`; with the percentage of training where there are several."""
    several = len({cell.progress for cell in cells}) > 1
    return [
        ", ".join([cell.label, _steps(cell.sampler), *([f"{cell.progress}% of training"] if several else [])])
        for cell in cells
    ]


def _steps(name: str) -> str:
    from cm.config import parse_sampler

    call = parse_sampler(name)
    count = getattr(call, "steps", call.evaluations)
    return WORDS.get(count, f"{count} steps")


def _sheet(rows: Sequence[np.ndarray], names: Sequence[str], gap: int = 4, margin: float = 0.1) -> Figure:
    """Rows of images [n, H, W, C], each with its name to the left, every pixel a whole number of the PNG's pixels."""
    from matplotlib.figure import Figure

    size = rows[0].shape[1]
    zoom = max(1, SMALL // size)
    shown = size * zoom if size <= 2 * SMALL else 2 * SMALL
    height, width = (shown + gap) / DPI, max(map(len, rows)) * (shown + gap) / DPI
    left = margin + 0.085 * max(map(len, names))
    whole = (left + width + margin, len(rows) * height + 2 * margin)
    figure = Figure(figsize=whole)
    for index, (row, name) in enumerate(zip(rows, names, strict=True)):
        bottom = margin + (len(rows) - 1 - index) * height
        figure.text((left - margin) / whole[0], (bottom + height / 2) / whole[1], name, ha="right", va="center")
        axes = figure.add_axes((left / whole[0], bottom / whole[1], len(row) * height / whole[0], height / whole[1]))
        axes.imshow(_strip(row, zoom, gap * size * zoom // shown), interpolation="none" if zoom > 1 else "auto")
        axes.set_axis_off()
    return figure


def _strip(images: np.ndarray, zoom: int, gap: int) -> np.ndarray:
    """Images [n, H, W, C] side by side, enlarged and framed in white: [H zoom + gap, n (W zoom + gap), 3]."""
    half = (gap // 2, gap - gap // 2)
    import numpy as np

    colour = np.broadcast_to(images, (*images.shape[:3], 3)) if images.shape[3] == 1 else images[..., :3]
    large = colour.repeat(zoom, axis=1).repeat(zoom, axis=2)
    framed = np.pad(large, ((0, 0), half, half, (0, 0)), constant_values=255)
    return np.concatenate(list(framed), axis=1)
