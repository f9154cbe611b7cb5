"""Figures of relative changes: one line for each change, with its interval, and a vertical line at no change."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cm.report.plots import COLOURS, add_notes, prepare_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TICKS = (-1000, -500, -200, -100, -50, -20, -10, 0, 10, 20, 50, 100, 200, 500, 1000)  # per cent
LINEAR = 20  # per cent up to which the axis of changes is linear
WIDTH, PITCH, NARROW_PITCH = 8.4, 0.32, 0.2  # inches of a figure, and of a line: of few lines, and of many
MANY = 30  # lines


@dataclasses.dataclass(frozen=True)
class Style:
    """How changes of one kind look. `name`: in the legend; without a name there is none."""

    colour: str = COLOURS[0]
    marker: str = "o"
    filled: bool = True
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Change:
    """A change in per cent, with the ends of its interval; they are the change itself where there is no interval."""

    label: str
    percent: float
    low: float
    high: float
    style: Style = Style()


def draw(changes: Sequence[Change], x_label: str, notes: Sequence[str]) -> Figure:
    """The changes below each other. `x_label`: what changes, to which the unit and the scale are added."""
    from matplotlib.figure import Figure

    pitch = PITCH if len(changes) <= MANY else NARROW_PITCH
    figure = Figure(figsize=(WIDTH, 2.0 + 0.12 * len(notes) + pitch * len(changes)), layout="constrained")
    axes = figure.add_subplot()
    prepare_axes(axes, "x")
    axes.axvline(0, color="#888888", linewidth=1.0, linestyle="--", zorder=1)
    for place, change in enumerate(changes):
        _draw_change(axes, place, change)
    axes.set_yticks(range(len(changes)), [change.label for change in changes], fontsize=8)
    axes.set_ylim(len(changes) - 0.5, -0.5)
    _scale(axes, x_label)
    _add_legend(figure, axes)
    add_notes(figure, notes)
    return figure


def _draw_change(axes: Axes, place: int, change: Change) -> None:
    style = change.style
    bars = [[change.percent - change.low], [change.high - change.percent]]
    face: dict[str, Any] = {} if style.filled else {"markerfacecolor": "white"}
    axes.errorbar(
        change.percent,
        place,
        xerr=bars,
        fmt=style.marker,
        color=style.colour,
        capsize=3,
        markersize=5.5,
        label=style.name or None,
        **face,
    )


def _scale(axes: Axes, x_label: str) -> None:
    """An axis of per cent that is linear around 0 and logarithmic beyond."""
    axes.set_xscale("symlog", linthresh=LINEAR)
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in TICKS if low <= tick <= high])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(f"{x_label} (%), to scale up to {LINEAR} %, logarithmic beyond")


def _add_legend(figure: Figure, axes: Axes) -> None:
    """The kinds of changes, each once, above the plot."""
    handles, labels = axes.get_legend_handles_labels()
    kinds = dict(sorted(zip(labels, handles, strict=True), key=lambda kind: kind[0]))
    if kinds:
        figure.legend(kinds.values(), kinds, loc="outside upper right", ncols=len(kinds), frameon=False, fontsize=9)
