"""Pictures of samples, in which every pixel of a sample is a whole number of the figure's pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cm import report
from cm.config.layout import PREVIEW_COUNT
from cm.config.settings import at_least, at_most
from cm.errors import UserError
from cm.report import footnotes
from cm.report.plots import DPI, GREY
from cm.report.scores import layout_of

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from cm.config import Artefact, Cell, Suite

SMALL = 64  # pixels to which smaller samples are enlarged
LARGE = 128  # pixels at which larger samples are shown
GAP = 4  # pixels between samples
MARGIN = 0.1  # inches around the rows
LETTER = 0.085  # inches of a letter of a row's name
NOTE_HEIGHT = 0.14  # inches of a footnote
Columns = Annotated[int, at_least(1), at_most(PREVIEW_COUNT)]
WORDS = {1: "one step", 2: "two steps"}
SAME_NOISE = "The samples of a column start from the same noise."


@report.kind("samples", form="figure", needs="previews", options={"columns": Columns})
def samples(suite: Suite, artefact: Artefact, root: Path) -> Figure:
    """Figure 5 of the paper: a row of samples for each model and sampler; a column starts from the same noise."""
    cells = [cell for cell in suite.cells(artefact) if cell.run.seed == artefact.seeds[0]]
    if not cells:
        raise UserError(f"artefact {artefact.name}: no entries, so nothing to draw")
    columns = artefact.options.get("columns", 12)
    rows = [read_preview(Path(layout_of(root).preview(*cell.samples)))[:columns] for cell in cells]
    shapes = {row.shape[1:3] for row in rows}
    if len(shapes) > 1:
        raise UserError(f"artefact {artefact.name}: images of {sorted(shapes)} in one figure")
    several = len({cell.progress for cell in cells}) > 1
    names = [name_samples(cell, with_progress=several) for cell in cells]
    return draw_rows(rows, names, [SAME_NOISE, *footnotes.of_origin(artefact)])


def read_preview(path: Path) -> np.ndarray:
    """The pictures of a preview, uint8 [n, H, W, C]; UserError for a file that is missing or holds none."""
    from cm.utils import npy

    if not path.exists():
        raise UserError(f"no preview {path}: run snakemake '{path}'")
    images = npy.read_images(path)
    if images.shape[3] not in (1, 3):
        raise UserError(f"{path}: expected images of 1 or 3 channels, not {images.shape[3]}")
    return images


def name_samples(cell: Cell, *, with_progress: bool = False) -> str:
    """`CT, one step`, and the percentage of training where that differs between rows."""
    progress = [f"{cell.progress} % of training"] if with_progress else []
    return ", ".join([cell.label, _count_steps(cell.sampler), *progress])


def _count_steps(sampler: str) -> str:
    from cm.config import parse_sampler

    parsed = parse_sampler(sampler)
    count = getattr(parsed, "steps", parsed.evaluations)
    return WORDS.get(count, f"{count} steps")


def draw_rows(rows: Sequence[np.ndarray], names: Sequence[str], notes: Sequence[str]) -> Figure:
    """Rows of images [n, H, W, C], each with its name to the left, and footnotes below them."""
    from matplotlib.figure import Figure

    zoom, shown, gap = measure(rows[0].shape[1])
    pitch = (shown + GAP) / DPI
    left, below = MARGIN + LETTER * max(map(len, names)), MARGIN + NOTE_HEIGHT * len(notes)
    width, height = left + max(map(len, rows)) * pitch + MARGIN, below + len(rows) * pitch + MARGIN
    figure = Figure(figsize=(width, height))
    for index, (row, name) in enumerate(zip(rows, names, strict=True)):
        bottom = below + (len(rows) - 1 - index) * pitch
        figure.text((left - MARGIN) / width, (bottom + pitch / 2) / height, name, ha="right", va="center")
        axes = figure.add_axes((left / width, bottom / height, len(row) * pitch / width, pitch / height))
        axes.imshow(join(row, zoom, gap), interpolation="none" if zoom > 1 else "auto")
        axes.set_axis_off()
    figure.text(left / width, MARGIN / 2 / height, "\n".join(notes), fontsize=7, color=GREY, va="bottom")
    return figure


def measure(size: int) -> tuple[int, int, int]:
    """For images of `size` pixels: how often a pixel is repeated, the pixels that an image takes, and the gap."""
    zoom = max(1, SMALL // size)
    shown = size * zoom if size <= LARGE else LARGE
    return zoom, shown, GAP * size * zoom // shown


def join(images: np.ndarray, zoom: int, gap: int) -> np.ndarray:
    """Images [n, H, W, C] side by side, enlarged and framed in white: [H zoom + gap, n (W zoom + gap), 3]."""
    import numpy as np

    frame = (gap // 2, gap - gap // 2)
    colour = np.broadcast_to(images, (*images.shape[:3], 3)) if images.shape[3] == 1 else images[..., :3]
    large = colour.repeat(zoom, axis=1).repeat(zoom, axis=2)
    framed = np.pad(large, ((0, 0), frame, frame, (0, 0)), constant_values=255)
    return np.concatenate(list(framed), axis=1)
