"""Figures of several panels of pictures side by side, each with a title above it and a title above each column."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cm.errors import UserError
from cm.report.pictures import GAP, MARGIN, NOTE_HEIGHT, join, measure
from cm.report.plots import DPI, GREY

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

WIDEST = 12  # pictures side by side, unless a single panel has more
HEADER = 0.15  # inches of a line of a title
SPACE = 0.15  # inches between panels
LETTER = 0.062  # inches of a letter of a title
TITLE_SIZE, COLUMN_SIZE, LABEL_SIZE = 7, 6, 6


@dataclasses.dataclass(frozen=True)
class Panel:
    """Rows of pictures, uint8 [k, H, W, C] each.

    `columns`: a title for each of the k columns, or none. `labels`: a text below each picture of each row, or none.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[np.ndarray]
    labels: Sequence[Sequence[str]] = ()


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """Inches of a picture with its gap, and of the lines above a panel and below a row."""

    pitch: float
    lines: int
    header: float
    footer: float

    def width(self, panel: Panel) -> float:
        return len(panel.rows[0]) * self.pitch

    def height(self, panel: Panel) -> float:
        return self.header + len(panel.rows) * (self.pitch + self.footer)


def draw(panels: Sequence[Panel], notes: Sequence[str]) -> Figure:
    """The panels side by side, as many as there is room for, and footnotes below them.

    Raises UserError for a panel without pictures, and for pictures of several sizes.
    """
    from matplotlib.figure import Figure

    _check(panels)
    lines = _group(panels)
    sizes = _measure(panels)
    below = MARGIN + NOTE_HEIGHT * len(notes)
    width = max(sum(map(sizes.width, line)) + SPACE * (len(line) - 1) for line in lines)
    height = sum(max(map(sizes.height, line)) + SPACE for line in lines)
    figure = Figure(figsize=(width + 2 * MARGIN, height + below + MARGIN))
    top = height + below
    for line in lines:
        left = MARGIN
        for panel in line:
            _draw_panel(figure, panel, sizes, left, top)
            left += sizes.width(panel) + SPACE
        top -= max(map(sizes.height, line)) + SPACE
    position = MARGIN / figure.get_figwidth(), MARGIN / 2 / figure.get_figheight()
    figure.text(*position, "\n".join(notes), fontsize=TITLE_SIZE, color=GREY, va="bottom")
    return figure


def _check(panels: Sequence[Panel]) -> None:
    if not all(panel.rows for panel in panels):
        raise UserError("there are no pictures to draw")
    shapes = set()
    for panel in panels:
        shapes |= {row.shape[1:] for row in panel.rows}
    if len(shapes) > 1:
        raise UserError(f"images of {sorted(shapes)} in one figure")


def _group(panels: Sequence[Panel]) -> list[list[Panel]]:
    """The panels in lines of at most `WIDEST` pictures, each of at least one panel."""
    lines: list[list[Panel]] = [[]]
    for panel in panels:
        used = sum(len(other.rows[0]) for other in lines[-1])
        if lines[-1] and used + len(panel.rows[0]) > WIDEST:
            lines.append([])
        lines[-1].append(panel)
    return lines


def _measure(panels: Sequence[Panel]) -> _Sizes:
    _, shown, _ = measure(panels[0].rows[0].shape[1])
    pitch = (shown + GAP) / DPI
    titles = max(len(_wrap(panel.title, len(panel.rows[0]) * pitch)) for panel in panels)
    columns = 1 if any(panel.columns for panel in panels) else 0
    footer = HEADER if any(panel.labels for panel in panels) else 0.0
    return _Sizes(pitch, titles, HEADER * (titles + columns), footer)


def _wrap(title: str, width: float) -> list[str]:
    """The lines of a title that is no wider than `width` inches."""
    return textwrap.wrap(title, max(8, int(width / LETTER)))


def _draw_panel(figure: Figure, panel: Panel, sizes: _Sizes, left: float, top: float) -> None:
    """Draw a panel whose upper left corner is at `left` and `top`, in inches."""
    width, height = figure.get_figwidth(), figure.get_figheight()
    title = "\n".join(_wrap(panel.title, sizes.width(panel)))
    figure.text(left / width, top / height, title, fontsize=TITLE_SIZE, ha="left", va="top")
    first = top - sizes.header
    for index, name in enumerate(panel.columns):
        x = left + (index + 0.5) * sizes.pitch
        figure.text(x / width, (first + 0.02) / height, name, fontsize=COLUMN_SIZE, ha="center", va="bottom")
    zoom, _, gap = measure(panel.rows[0].shape[1])
    for number, row in enumerate(panel.rows):
        bottom = first - (number + 1) * sizes.pitch - number * sizes.footer
        place = left / width, bottom / height, sizes.width(panel) / width, sizes.pitch / height
        axes = figure.add_axes(place)
        axes.imshow(join(row, zoom, gap), interpolation="none" if zoom > 1 else "auto")
        axes.set_axis_off()
        for index, text in enumerate(panel.labels[number] if panel.labels else ()):
            x = left + (index + 0.5) * sizes.pitch
            figure.text(x / width, bottom / height, text, fontsize=LABEL_SIZE, ha="center", va="top")
