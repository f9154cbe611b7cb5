"""The figure of the trainings themselves: loss and norm of the gradient over the training steps.

It reads `metrics.jsonl` of each run. A training that is a stage of a chain, as in progressive distillation, follows its
teacher of the same method on one axis.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cm import report
from cm.errors import UserError
from cm.report import footnotes, scores
from cm.report.plots import COLOURS, GREY, add_notes, number_log_axis, prepare_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cm.config import Artefact, Run, Suite
    from cm.config.measurements import Measurement

POINTS = 100  # of a line, each the mean over the measurements of a part of its steps
ROW_HEIGHT = 1.5  # inches
PANELS: dict[str, Callable[[Measurement], float | None]] = {
    "loss": lambda measurement: measurement.loss,
    "gradient norm": lambda measurement: measurement.gradient_norm,
}


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training of a chain. `start`: the steps of the trainings before it."""

    run: Run
    start: int
    measured: Sequence[Measurement]


@report.kind("losses", form="figure", needs="models")
def losses(suite: Suite, artefact: Artefact, root: Path) -> Figure:
    """A row for each label, with the loss on the left and the norm of the gradient on the right, a line for each seed.

    A run that left no measurements is named in a footnote.
    """
    rows: dict[str, dict[str, list[Stage]]] = {}
    for cell in suite.cells(artefact):
        rows.setdefault(cell.label, {})[cell.run.name] = _read_chain(suite, cell.run, root)
    if not rows:
        raise UserError(f"artefact {artefact.name}: no entries, so nothing to draw")
    chains = list(itertools.chain.from_iterable(row.values() for row in rows.values()))
    return _draw(rows, [*_describe(chains), *footnotes.of_origin(artefact)])


def _read_chain(suite: Suite, run: Run, root: Path) -> list[Stage]:
    """The stages that end with a run, the first one first: each is the teacher of the next, of the same method."""
    from cm.config.measurements import read_measurements

    chain = [run]
    while (teacher := suite.experiments.teacher(chain[0])) is not None and teacher.method == run.method:
        chain.insert(0, teacher)
    stages: list[Stage] = []
    start = 0
    for one in chain:
        path = Path(scores.layout_of(root).metrics(one.name))
        stages.append(Stage(one, start, read_measurements(path) if path.exists() else []))
        start += one.training.total_steps
    return stages


def _draw(rows: dict[str, dict[str, list[Stage]]], notes: Sequence[str]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, ROW_HEIGHT * len(rows) + 0.6), layout="constrained")
    grid = figure.subplots(len(rows), len(PANELS), squeeze=False)
    for axes, (label, chains) in zip(grid, rows.items(), strict=True):
        for panel, (title, value) in zip(axes, PANELS.items(), strict=True):
            _draw_panel(panel, list(chains.values()), value)
            panel.set_ylabel(title, fontsize=8)
        axes[0].set_title(label, fontsize=9, loc="left")
    for panel in grid[-1]:
        panel.set_xlabel("training step", fontsize=8)
    add_notes(figure, notes)
    return figure


def _draw_panel(axes: Axes, chains: Sequence[Sequence[Stage]], value: Callable[[Measurement], float | None]) -> None:
    """One line for each chain, with a dotted line where a stage begins; a logarithmic axis for positive numbers."""
    prepare_axes(axes)
    axes.tick_params(labelsize=7)
    lowest: list[float] = []
    for number, chain in enumerate(chains):
        for stage in chain:
            x, y = _average(stage, value, max(1, POINTS // len(chain)))
            axes.plot(x, y, linewidth=1.0, color=COLOURS[number % len(COLOURS)])
            lowest += y
            if stage.start:
                axes.axvline(stage.start, color=GREY, linewidth=0.6, linestyle=":")
    if not lowest:
        axes.text(0.5, 0.5, "no measurements", transform=axes.transAxes, ha="center", fontsize=8, color=GREY)
        axes.set(xticks=[], yticks=[])
    elif min(lowest) > 0:
        axes.set_yscale("log")
        number_log_axis(axes.yaxis)


def _average(stage: Stage, value: Callable[[Measurement], float | None], count: int) -> tuple[list[float], list[float]]:
    """Steps and values of the at most `count` points of a stage: means over the measurements of equal parts of it."""
    parts: dict[int, list[tuple[int, float]]] = {}
    for measurement in stage.measured:
        if (found := value(measurement)) is not None:
            part = count * (measurement.step - 1) // stage.run.training.total_steps
            parts.setdefault(part, []).append((stage.start + measurement.step, found))
    points = [tuple(map(statistics.fmean, zip(*part, strict=True))) for part in parts.values()]
    return [x for x, _ in points], [y for _, y in points]


def _describe(chains: Sequence[Sequence[Stage]]) -> list[str]:
    """What the lines are, and the runs that are not there."""
    stages = list(itertools.chain.from_iterable(chains))
    missing = sorted({stage.run.name for stage in stages if not stage.measured})
    several, chained = len({stage.run.seed for stage in stages}) > 1, any(stage.start for stage in stages)
    return [
        f"Each line has up to {POINTS} points, which are means over equal parts of its steps.",
        "Losses of different methods are different quantities.",
        *(["One line for each seed."] if several else []),
        *(["Dotted lines: the next stage of a chain begins."] if chained else []),
        *([f"No metrics.jsonl, so not shown: {', '.join(missing)}."] if missing else []),
    ]
