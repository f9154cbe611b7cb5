"""Figures of scores: the Frechet distance over training, over the sampling steps, and over a varied setting."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm import report
from cm.report import footnotes, forest, scores
from cm.report.plots import Plot, has_intervals, mean_with_bar
from cm.report.scores import Score
from cm.report.writing import format_setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cm.config import Artefact, Suite

Lines = dict[str, dict[float, list[Score]]]  # from a label to the place on the x axis to the scores of all seeds there


@report.kind("curves", form="figure", needs="scores")
def curves(suite: Suite, artefact: Artefact, root: Path) -> Figure:
    """Figure 3 of the paper: the Frechet distance over the percentage of training."""
    found = scores.load(suite, artefact, root)
    plot = Plot(found, "training progress (%)")
    return _draw_lines(plot, found, lambda score: score.progress, artefact)


@report.kind("sampling_steps", form="figure", needs="scores")
def sampling_steps(suite: Suite, artefact: Artefact, root: Path) -> Figure:
    """Figure 4 of the paper: the Frechet distance over the number of evaluations of the network per sample."""
    found = scores.load(suite, artefact, root)
    plot = Plot(found, "network evaluations per sample (NFE)")
    plot.axes.set_xscale("log", base=2)
    return _draw_lines(plot, found, lambda score: score.nfe, artefact)


def ablation(found: Sequence[Score], notes: Sequence[str] = ()) -> Figure:
    """The Frechet distance over the last varied setting, with one line for each combination of the other settings.

    Variants that do not all set the same settings have no common axis: each has a row of its own. `notes`: further
    footnotes.
    """
    settings = _varied_settings(found)
    if any(len(score.varied) < len(settings) for score in found):
        return _draw_variants(found, notes)
    return _draw_over_setting(found, settings, notes)


def is_number(value: Any) -> bool:
    """Whether a setting's value has a place on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def place(score: Score) -> Hashable:
    """What an ablation compares: the varied values and the sampler."""
    return tuple((key, str(value)) for key, value in score.varied.items()), score.sampler


def _varied_settings(found: Iterable[Score]) -> list[str]:
    settings: dict[str, Any] = {}
    for score in found:
        settings |= score.varied
    return list(settings)


def _draw_variants(found: Sequence[Score], notes: Sequence[str]) -> Figure:
    """One row for each variant and sampler."""
    rows = []
    for group in scores.groups(found, place).values():
        words = [format_setting(group[0].varied) or group[0].variant, *_name_sampler(group[0], found)]
        rows.append(forest.Row(", ".join(words), *mean_with_bar(group)))
    own = footnotes.of_figure(found, marks="Bars", intervals=has_intervals(found), baseline=None)
    return forest.draw_distances(rows, found[0].heading("fid"), [*own, *notes])


# ---- lines ----------------------------------------------------------------------------------------------------------


def _draw_over_setting(found: Sequence[Score], settings: Sequence[str], notes: Sequence[str]) -> Figure:
    """One line for each combination of all settings but the last. Points of the default settings have a ring."""
    *others, last = settings
    axis = _Axis([score.varied[last] for score in found])
    plot = Plot(found, axis.label(last))
    lines: Lines = {}
    for group in scores.groups(found, place).values():
        line = lines.setdefault(_name_line(group[0], others, found), {})
        line[axis.position(group[0].varied[last])] = group
    for label, points in lines.items():
        plot.add_error_bars(label, dict(sorted(points.items())), joined=axis.numeric or len(lines) > 1)
    for points in lines.values():
        plot.add_rings({x: group for x, group in points.items() if group[0].variant == "default"})
    axis.scale(plot)
    baseline = plot.add_baseline()
    plot.set_ticks(*axis.ticks())
    own = footnotes.of_figure(found, marks="Bars", intervals=has_intervals(found), baseline=baseline)
    return plot.finish([*own, *notes])


def _draw_lines(plot: Plot, found: Sequence[Score], x: Callable[[Score], float], artefact: Artefact) -> Figure:
    """One line for each label, with the mean over seeds at each `x`."""
    lines: Lines = {}
    for (label, value), group in scores.groups(found, lambda score: (score.label, x(score))).items():
        lines.setdefault(label, {})[value] = group
    for label, points in lines.items():
        plot.add_line(label, dict(sorted(points.items())))
    baseline = plot.add_baseline()
    plot.set_ticks(sorted({x(score) for score in found}))
    notes = footnotes.of_figure(found, marks="Bands", intervals=False, baseline=baseline)
    return plot.finish([*notes, *footnotes.of_origin(artefact)])


def _name_line(score: Score, keys: Sequence[str], found: Sequence[Score]) -> str:
    """The label of the line of a score: its values of `keys`, and the NFE or the sampler if there are several."""
    words = [f"{key} {_format_tick(score.varied[key])}" for key in keys]
    return ", ".join([*words, *_name_sampler(score, found)])


def _name_sampler(score: Score, found: Sequence[Score]) -> list[str]:
    """The NFE of a score, or its sampler where that says more, if there are several samplers."""
    samplers = {other.sampler for other in found}
    if len(samplers) == 1:
        return []
    return [f"NFE {score.nfe}" if len({other.nfe for other in found}) == len(samplers) else score.sampler]


def _format_tick(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else format_setting(value)


class _Axis:
    """The x axis of an ablation: numbers to scale if their ticks do not overlap, all other values side by side."""

    def __init__(self, values: Iterable[Any]) -> None:
        known = list({_format_tick(value): value for value in values}.values())
        self.numeric = all(map(is_number, known))
        self.values = sorted(known) if self.numeric else known
        self.to_scale = self.numeric and _are_apart(self.values)

    def position(self, value: Any) -> float:
        """The place of a value."""
        if self.to_scale:
            return float(value)
        return [_format_tick(known) for known in self.values].index(_format_tick(value))

    def ticks(self) -> tuple[list[float], list[str]]:
        """The places of all values, and what stands there."""
        return [self.position(value) for value in self.values], [_format_tick(value) for value in self.values]

    def label(self, setting: str) -> str:
        """The name of the setting, which says so if its numbers are not to scale."""
        return f"{setting} (not to scale)" if self.numeric and not self.to_scale else setting

    def scale(self, plot: Plot) -> None:
        """Set the limits, or the scale, of the axis of a plot."""
        if not self.to_scale:
            plot.axes.set_xlim(-0.5, len(self.values) - 0.5)
        elif _span_widely(self.values):
            plot.axes.set_xscale("log", base=2)


def _span_widely(values: Sequence[float]) -> bool:
    """Whether rising numbers span so much that their axis should be logarithmic."""
    return values[0] > 0 and values[-1] / values[0] >= 4


def _are_apart(values: Sequence[float]) -> bool:
    """Whether rising numbers are far enough apart on their axis for their ticks not to overlap."""
    places = [math.log(value) for value in values] if _span_widely(values) else values
    return all(b - a > 0.07 * (places[-1] - places[0]) for a, b in itertools.pairwise(places))
