"""Figures with one row for each value and its interval: of relative changes, and of distances."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cm.report.plots import COLOURS, add_notes, number_log_axis, prepare_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TICKS = (-1000, -500, -200, -100, -50, -20, -10, 0, 10, 20, 50, 100, 200, 500, 1000)  # per cent
LINEAR = 20  # per cent up to which the axis of changes is linear
WIDTH, PITCH, NARROW_PITCH = 8.4, 0.32, 0.2  # inches of a figure, and of a row: of few rows, and of many
MANY = 30  # rows
LABEL_WIDTH, LINE = 60, 0.14  # characters of a line of a label, and inches of each further line


@dataclasses.dataclass(frozen=True)
class Style:
    """How values of one kind look. `name`: in the legend; without a name there is none."""

    colour: str = COLOURS[0]
    marker: str = "o"
    filled: bool = True
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """A value, with the ends of its interval; they are the value itself where there is no interval."""

    label: str
    value: float
    low: float
    high: float
    style: Style = Style()


def draw_changes(rows: Sequence[Row], x_label: str, notes: Sequence[str]) -> Figure:
    """Changes in per cent, and a vertical line at no change.

    `x_label`: what changes, to which the unit and the scale are added.
    """
    figure, axes = _draw_rows(rows, notes)
    axes.axvline(0, color="#888888", linewidth=1.0, linestyle="--", zorder=1)
    _scale_changes(axes, x_label)
    _add_legend(figure, axes)
    return figure


def draw_distances(rows: Sequence[Row], x_label: str, notes: Sequence[str]) -> Figure:
    """Distances on a logarithmic axis."""
    figure, axes = _draw_rows(rows, notes)
    axes.set_xscale("log")
    axes.set_xlabel(x_label)
    number_log_axis(axes.xaxis)
    return figure


def _draw_rows(rows: Sequence[Row], notes: Sequence[str]) -> tuple[Figure, Axes]:
    """The rows below each other, and the footnotes. Long labels take several lines."""
    from matplotlib.figure import Figure

    labels = [textwrap.fill(row.label, LABEL_WIDTH, break_on_hyphens=False) for row in rows]
    lines = max((label.count("\n") for label in labels), default=0)
    pitch = (PITCH if len(rows) <= MANY else NARROW_PITCH) + LINE * lines
    figure = Figure(figsize=(WIDTH, 2.0 + 0.12 * len(notes) + pitch * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    prepare_axes(axes, "x")
    for place, row in enumerate(rows):
        _draw_row(axes, place, row)
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    add_notes(figure, notes)
    return figure, axes


def _draw_row(axes: Axes, place: int, row: Row) -> None:
    style = row.style
    bars = [[row.value - row.low], [row.high - row.value]] if row.low < row.high else None
    face: dict[str, Any] = {} if style.filled else {"markerfacecolor": "white"}
    axes.errorbar(
        row.value,
        place,
        xerr=bars,
        fmt=style.marker,
        color=style.colour,
        capsize=3,
        markersize=5.5,
        label=style.name or None,
        **face,
    )


def _scale_changes(axes: Axes, x_label: str) -> None:
    """An axis of per cent that is linear around 0 and logarithmic beyond."""
    axes.set_xscale("symlog", linthresh=LINEAR)
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in TICKS if low <= tick <= high])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(f"{x_label} (%), to scale up to {LINEAR} %, logarithmic beyond")


def _add_legend(figure: Figure, axes: Axes) -> None:
    """The kinds of values, each once, above the plot."""
    handles, labels = axes.get_legend_handles_labels()
    kinds = dict(sorted(zip(labels, handles, strict=True), key=lambda kind: kind[0]))
    if kinds:
        figure.legend(kinds.values(), kinds, loc="outside upper right", ncols=len(kinds), frameon=False, fontsize=9)
