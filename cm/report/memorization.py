"""Samples beside the training images that are nearest to them: whether a model repeats what it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cm import report
from cm.config.layout import PREVIEW_COUNT
from cm.config.settings import at_least, at_most
from cm.errors import UserError
from cm.report import footnotes, pictures, scores

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from cm.config import Artefact, Cell, Suite
    from cm.report.scores import Score

Columns = Annotated[int, at_least(1), at_most(PREVIEW_COUNT)]
NOTES = (
    "Below each sample is the training image that is nearest to it in the space of features.",
    "Of the first {} samples those come first that are most like copies: whose distance to that image is",
    "the smallest part (the numbers) of its own distance to the nearest other training image.",
    "Where that part is below 1, a sample is taken for a copy (Alaa et al. 2022).",
)


@report.kind("memorization", form="figure", needs="nearest", options={"columns": Columns})
def memorization(suite: Suite, artefact: Artefact, root: Path) -> Figure:
    """Two rows for each model and sampler: the samples that are most like copies, and their nearest training images."""
    found = scores.load(suite, artefact, root)
    cells = [cell for cell in suite.cells(artefact) if cell.run.seed == artefact.seeds[0]]
    columns, rows, names = artefact.options.get("columns", 12), [], []
    for cell in cells:
        score = next(one for one in found if one.path == scores.score_path(cell, root))
        chosen = _choose(score, columns)
        rows += [
            pictures.read_preview(Path(scores.layout_of(root).preview(*cell.samples)))[chosen],
            _read_nearest(cell, score, root, chosen),
        ]
        names += [pictures.name_samples(cell), f"nearest, {_describe_parts(score, chosen)}"]
    notes = [note.format(len(found[0].nearest["places"])) for note in NOTES]
    return pictures.draw_rows(rows, names, [*notes, *footnotes.of_origin(artefact)])


def _choose(score: Score, columns: int) -> np.ndarray:
    """The places of the samples that are most like copies, those first; UserError for a score that does not say."""
    import numpy as np

    if not score.nearest:
        raise UserError(
            f"{score.path} has no nearest images: score it by a protocol with the metric authenticity, against images"
        )
    return np.argsort(_parts(score), kind="stable")[:columns]


def _parts(score: Score) -> np.ndarray:
    """The distance of each sample to its nearest image, as a part of the distance of that to its own neighbour."""
    import numpy as np

    spacings = np.array(score.nearest["spacings"], float)
    return np.array(score.nearest["distances"], float) / np.maximum(spacings, np.finfo(float).tiny)


def _describe_parts(score: Score, chosen: np.ndarray) -> str:
    """`0.61 to 0.93`."""
    parts = _parts(score)[chosen]
    return f"{parts[0]:.2f} to {parts[-1]:.2f}"


def _read_nearest(cell: Cell, score: Score, root: Path, chosen: np.ndarray) -> np.ndarray:
    """The training images nearest to the chosen samples, uint8 [n, H, W, C]."""
    import numpy as np

    from cm.utils import npy

    path = Path(scores.layout_of(root).images(cell.run.dataset, cell.protocol.reference))
    if not path.exists():
        raise UserError(f"no images {path}: run snakemake '{path}'")
    images = npy.read_images(path)
    places: Sequence[int] = [score.nearest["places"][index] for index in chosen]
    if max(places) >= len(images):
        raise UserError(f"{path} has {len(images)} images, but {score.path} names the place {max(places)}")
    return np.array(images[places])
