"""Figures: FID over something, a line per label; and pictures of samples. Without pyplot; the same bytes each time."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm import report
from cm.report import footnotes, scores
from cm.report.scores import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cm.config import Artefact, Suite

# Okabe and Ito's colours, which the colour-blind can tell apart; yellow, the faintest on white, last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", ":", "-.")
DPI = 150
FAR = 5  # a floor that many times below the lowest point would squeeze the rest

Points = Mapping[Any, Sequence[Score]]


@report.kind("curves", form="figure", needs="scores")
def curves(suite: Suite, artefact: Artefact, root: Path) -> Figure:
    """Figure 3 of the paper: FID over the percentage of training."""
    found = scores.load(suite, artefact, root)
    axes = _axes(found, "training progress (%)")
    for index, (label, points) in enumerate(_lines(found, lambda score: score.progress).items()):
        _line(axes, index, label, points)
    return _finished(axes, found, sorted({score.progress for score in found}))


@report.kind("sampling_steps", form="figure", needs="scores")
def sampling_steps(suite: Suite, artefact: Artefact, root: Path) -> Figure:
    """Figure 4 of the paper: FID over the number of evaluations of the network for a sample."""
    found = scores.load(suite, artefact, root)
    axes = _axes(found, "evaluations of the network per sample (NFE)")
    axes.set_xscale("log", base=2)
    for index, (label, points) in enumerate(_lines(found, lambda score: score.nfe).items()):
        _line(axes, index, label, points)
    return _finished(axes, found, sorted({score.nfe for score in found}))


def ablation(found: Sequence[Score]) -> Figure:
    """FID over the last varied setting, a line per combination of the others; `default` settings are ringed."""
    *others, last = dict.fromkeys(key for score in found for key in score.varied)
    values = list({_tick(value): value for value in (score.varied.get(last) for score in found)}.values())
    numeric = all(map(is_number, values))
    values = sorted(values) if numeric else values
    to_scale = numeric and _apart(values)
    at = {_tick(value): value if to_scale else index for index, value in enumerate(values)}
    axes = _axes(found, f"{last} (not to scale)" if numeric and not to_scale else last)
    lines: dict[str, dict[float, list[Score]]] = {}
    for group in scores.groups(found, place).values():
        lines.setdefault(_series(group[0], others, found), {})[at[_tick(group[0].varied.get(last))]] = group
    for index, (label, points) in enumerate(lines.items()):
        _error_bars(axes, index, label, points, joined=numeric or len(lines) > 1)
    _ring_default(axes, lines)
    if not to_scale:
        axes.set_xlim(-0.5, len(values) - 0.5)
    elif _wide(values):
        axes.set_xscale("log", base=2)
    return _finished(axes, found, list(at.values()), list(at), bars=_has_intervals(found))


def is_number(value: Any) -> bool:
    """Whether a setting's value has a place on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def place(score: Score) -> Hashable:
    """What an ablation compares: the varied values and the sampler."""
    return tuple((key, str(value)) for key, value in score.varied.items()), score.sampler


def save(figure: Figure, stem: Path, caption: str) -> None:
    """Write `<stem>.svg` and `<stem>.png`, without the date and with fixed names inside."""
    import matplotlib

    from cm.utils.files import replace_file

    words = {"Title": stem.name, "Description": caption}
    formats = {"svg": {**words, "Date": None}, "png": {**words, "Software": None}}
    for suffix, metadata in formats.items():
        with (
            matplotlib.rc_context({"svg.hashsalt": stem.name}),
            replace_file(stem.parent / f"{stem.name}.{suffix}") as temporary,
        ):
            figure.savefig(temporary, format=suffix, dpi=DPI, metadata=metadata)


# ---- lines --------------------------------------------------------------------------------------------------------


def _lines(found: Sequence[Score], x: Callable[[Score], float]) -> dict[str, dict[float, list[Score]]]:
    """Label to x to the scores of all seeds there, by rising x."""
    lines: dict[str, dict[float, list[Score]]] = {}
    for (label, value), group in scores.groups(found, lambda score: (score.label, x(score))).items():
        lines.setdefault(label, {})[value] = group
    return {label: dict(sorted(points.items())) for label, points in lines.items()}


def _axes(found: Sequence[Score], x_label: str) -> Axes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e0e0e0", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(x_label)
    axes.set_ylabel(found[0].heading("fid"))
    axes.set_yscale("log")
    return axes


def _style(index: int) -> dict[str, Any]:
    wheel = len(COLOURS)
    style = {"color": COLOURS[index % wheel], "marker": MARKERS[index % wheel], "markersize": 5.5}
    return {**style, "linestyle": DASHES[index // wheel % len(DASHES)], "linewidth": 1.6}


def _fids(points: Points) -> tuple[list[float], list[float]]:
    """Means and deviations (0 for one seed), a value per point."""
    spreads = [scores.spread([score["fid"] for score in group]) for group in points.values()]
    return [mean for mean, _ in spreads], [std or 0.0 for _, std in spreads]


def _reach(group: Sequence[Score]) -> tuple[float, float]:
    """How far a bar goes below and above: one deviation over seeds, or to the ends of the interval of one seed."""
    value, std = scores.spread([score["fid"] for score in group])
    low, high = group[0].interval("fid") or (value, value)
    return (std, std) if std is not None else (max(value - low, 0.0), max(high - value, 0.0))


def _has_intervals(found: Sequence[Score]) -> bool:
    """Whether bars are intervals of single seeds."""
    return len({score.seed for score in found}) == 1 and any(score.interval("fid") for score in found)


def _line(axes: Axes, index: int, label: str, points: Points) -> None:
    """Means joined by a line, with a band of one standard deviation to both sides if there are seeds enough."""
    style, (means, stds) = _style(index), _fids(points)
    axes.plot(list(points), means, label=label, **style)
    if any(stds):
        low = [mean - std for mean, std in zip(means, stds, strict=True)]
        high = [mean + std for mean, std in zip(means, stds, strict=True)]
        axes.fill_between(list(points), low, high, color=style["color"], alpha=0.18, linewidth=0)


def _error_bars(axes: Axes, index: int, label: str, points: Points, joined: bool) -> None:
    style, points = _style(index), dict(sorted(points.items()))
    means, _ = _fids(points)
    below, above = zip(*map(_reach, points.values()), strict=True)
    bars = (below, above) if any([*below, *above]) else None
    style["linestyle"] = style["linestyle"] if joined else "none"
    axes.errorbar(list(points), means, yerr=bars, capsize=3, label=label or None, **style)


def _ring_default(axes: Axes, lines: Mapping[str, Points]) -> None:
    default = [(x, group) for points in lines.values() for x, group in points.items() if group[0].variant == "default"]
    if default:
        means, _ = _fids(dict(enumerate(group for _, group in default)))
        style = {"markerfacecolor": "none", "markeredgecolor": "#555555", "markersize": 13, "linestyle": "none"}
        axes.plot([x for x, _ in default], means, marker="o", label="default", **style)


def _wide(values: Sequence[float]) -> bool:
    """Whether rising numbers span so much that their axis is logarithmic."""
    return values[0] > 0 and values[-1] / values[0] >= 4


def _apart(values: Sequence[float]) -> bool:
    """Whether rising numbers are far enough apart on their axis for the ticks to be told."""
    places = [math.log(value) for value in values] if _wide(values) else values
    return all(b - a > 0.07 * (places[-1] - places[0]) for a, b in itertools.pairwise(places))


def _series(score: Score, keys: Sequence[str], found: Sequence[Score]) -> str:
    """The name of the line a score is on: its values of `keys`, and the NFE if there are several samplers."""
    words = [f"{key} {_tick(score.varied[key])}" for key in keys if key in score.varied]
    samplers = len({other.sampler for other in found}) > 1
    return ", ".join([*words, *([f"NFE {score.nfe}"] if samplers else [])])


def _tick(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _floor(axes: Axes, found: Sequence[Score]) -> Score | None:
    """A line at the FID of one half of the reference against the other, unless it would squeeze the axis."""
    halves = scores.halves(found)
    fid = halves.metrics.get("fid") if halves else None
    if fid is None or fid < min(score["fid"] for score in found) / FAR:
        return None
    axes.axhline(fid, color="#888888", linewidth=1.0, linestyle="--", label=f"{halves.split} halves", zorder=1)
    return halves


def _finished(
    axes: Axes, found: Sequence[Score], ticks: list[float], labels: list[str] | None = None, *, bars: bool = False
) -> Figure:
    """The floor, ticks where there are points, numbers on the axis of FID, a legend beside the plot, and footnotes."""
    halves = _floor(axes, found)
    axes.set_xticks(ticks, labels or [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    _number_log_axis(axes)
    _legend(axes, last=["default", f"{found[0].split} halves"])
    notes = [textwrap.fill(note, 120) for note in footnotes.of_figure(found, bars=bars, halves=halves)]
    axes.figure.supxlabel("\n".join(notes), fontsize=7, color="#555555")
    return axes.figure


def _legend(axes: Axes, last: Sequence[str]) -> None:
    """In the plot for one entry, else beside it. `last`: labels that come after the others."""
    entries = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda entry: entry[1] in last)
    if len(entries) == 1:
        axes.legend(*zip(*entries, strict=True), frameon=False, fontsize=9)
    elif entries:
        axes.figure.legend(*zip(*entries, strict=True), loc="outside right upper", frameon=False, fontsize=9)


def _number_log_axis(axes: Axes) -> None:
    """Plain numbers on the logarithmic axis, also where it spans less than a decade."""
    from matplotlib import ticker

    low, high = axes.get_ylim()
    steps = (1, 2, 3, 5, 7) if high / low < 30 else (1, 2, 5) if high / low < 300 else (1,)
    axes.yaxis.set_major_locator(ticker.MaxNLocator(6) if high / low < 5 else ticker.LogLocator(subs=steps))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
