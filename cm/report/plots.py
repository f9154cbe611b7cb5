"""The look of the figures of scores: one axis of Frechet distances, lines, a legend and footnotes.

Without pyplot, which keeps state; a figure that is drawn twice is the same to the byte.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cm.report import scores
from cm.report.scores import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# The colours of Okabe and Ito, which colour-blind readers can distinguish; yellow, the faintest on white, comes last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", ":", "-.")
GREY = "#555555"
DPI = 150
DEFAULT, CHOSEN, SPLIT_HALVES = "default", "chosen", "split halves"  # labels that come last in a legend
FAR_BELOW = 5  # a baseline that many times below the lowest point would squeeze the other lines
NOTE_WIDTH = 120  # characters of a line of footnotes
LEGEND_WIDTH = 32  # characters of a line of a legend

Points = Mapping[Any, Sequence[Score]]  # from a place on the x axis to the scores of all seeds there


class Plot:
    """A figure of Frechet distances, with one line for each label."""

    def __init__(self, found: Sequence[Score], x_label: str) -> None:
        from matplotlib.figure import Figure

        self.scores = found
        self.figure: Figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        self.axes: Axes = self.figure.add_subplot()
        prepare_axes(self.axes)
        self.axes.set_axisbelow(True)
        self.axes.set_xlabel(x_label)
        self.axes.set_ylabel(found[0].heading("fid"))
        self.axes.set_yscale("log")
        self._lines = 0

    def add_line(self, label: str, points: Points) -> None:
        """Means joined by a line, in a band of one standard deviation to either side if there are several seeds."""
        style, x = self.next_style(), list(points)
        means, deviations = _means(points), _deviations(points)
        self.axes.plot(x, means, label=label, **style)
        if any(deviations):
            low = [mean - deviation for mean, deviation in zip(means, deviations, strict=True)]
            high = [mean + deviation for mean, deviation in zip(means, deviations, strict=True)]
            self.axes.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)

    def add_error_bars(
        self, label: str, points: Points, *, joined: bool, style: Mapping[str, Any] | None = None
    ) -> None:
        """Means with bars: one standard deviation over seeds, or the interval of a single seed.

        `style`: the look of the line, by default the next one.
        """
        look, x = dict(style or self.next_style()), list(points)
        below, above = zip(*map(_bar, points.values()), strict=True)
        bars = (below, above) if any([*below, *above]) else None
        look["linestyle"] = look["linestyle"] if joined else "none"
        self.axes.errorbar(x, _means(points), yerr=bars, capsize=3, label=label or None, **look)

    def add_rings(self, points: Points, name: str = DEFAULT) -> None:
        """A ring around each of these points, which the legend calls `name`."""
        style: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": GREY, "markersize": 13}
        if points:
            label = None if name in self.axes.get_legend_handles_labels()[1] else name
            self.axes.plot(list(points), _means(points), marker="o", linestyle="none", label=label, **style)

    def add_published(self, label: str, points: Mapping[float, float]) -> None:
        """Published numbers, from x to y: hollow marks that no line joins."""
        style = self.next_style()
        hollow = {"markerfacecolor": "white", "markeredgecolor": style["color"], "linestyle": "none"}
        self.axes.plot(list(points), list(points.values()), label=label, **{**style, **hollow})

    def add_scaled_axis(self, label: str, factor: float) -> None:
        """A second x axis above the plot, whose numbers are those of the first times `factor`, at the same ticks."""
        from matplotlib import ticker

        def multiply(x: Any) -> Any:
            return x * factor

        def divide(x: Any) -> Any:
            return x / factor

        axis = self.axes.secondary_xaxis("top", functions=(multiply, divide))
        axis.set_xlabel(label)
        axis.xaxis.set_major_locator(ticker.FixedLocator([tick * factor for tick in self.axes.get_xticks()]))
        axis.xaxis.set_minor_locator(ticker.NullLocator())
        axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{float(f'{value:.2g}'):g}"))
        axis.tick_params(labelsize=8)

    def add_baseline(self) -> Score | None:
        """A line at the distance between split halves of the reference; none if it would squeeze the other lines."""
        baseline = scores.split_halves(self.scores)
        distance = baseline.metrics.get("fid") if baseline else None
        if distance is None or distance < min(score["fid"] for score in self.scores) / FAR_BELOW:
            return None
        self.axes.axhline(distance, color="#888888", linewidth=1.0, linestyle="--", label=SPLIT_HALVES, zorder=1)
        return baseline

    def set_ticks(self, ticks: Sequence[float], labels: Sequence[str] | None = None) -> None:
        """Ticks of the x axis where there are points; plain numbers on the y axis."""
        self.axes.set_xticks(ticks, labels or [f"{tick:g}" for tick in ticks])
        self.axes.set_xticks([], minor=True)
        self.number_axis()

    def number_axis(self) -> None:
        """Plain numbers on the y axis."""
        number_log_axis(self.axes.yaxis)

    def finish(self, notes: Sequence[str]) -> Figure:
        """The figure, with its legend and footnotes."""
        self._add_legend()
        add_notes(self.figure, notes)
        return self.figure

    def next_style(self) -> dict[str, Any]:
        """The colour, the marker and the dashes of the next line."""
        index, wheel = self._lines, len(COLOURS)
        self._lines += 1
        style: dict[str, Any] = {"color": COLOURS[index % wheel], "marker": MARKERS[index % wheel], "markersize": 5.5}
        return {**style, "linestyle": DASHES[index // wheel % len(DASHES)], "linewidth": 1.6}

    def _add_legend(self) -> None:
        """Beside the plot, where it hides nothing."""
        entries = list(zip(*self.axes.get_legend_handles_labels(), strict=True))
        entries.sort(key=lambda entry: entry[1] in (DEFAULT, CHOSEN, SPLIT_HALVES))
        if entries:
            handles, labels = zip(*entries, strict=True)
            wrapped = [textwrap.fill(label, LEGEND_WIDTH, break_on_hyphens=False) for label in labels]
            self.figure.legend(handles, wrapped, loc="outside right upper", frameon=False, fontsize=9)


def has_intervals(found: Sequence[Score]) -> bool:
    """Whether error bars are the intervals of a single seed."""
    return len({score.seed for score in found}) == 1 and any(score.interval("fid") for score in found)


def save(figure: Figure, stem: Path, caption: str) -> None:
    """Write `<stem>.svg` and `<stem>.png`, both or none, without the date and with fixed names inside."""
    import matplotlib

    from cm.utils.files import replace_files

    words = {"Title": stem.name, "Description": caption}
    formats: dict[str, dict[str, Any]] = {"svg": {**words, "Date": None}, "png": {**words, "Software": None}}
    with (
        matplotlib.rc_context({"svg.hashsalt": stem.name}),
        replace_files(stem.parent / f"{stem.name}.{suffix}" for suffix in formats) as paths,
    ):
        for path, (suffix, metadata) in zip(paths, formats.items(), strict=True):
            figure.savefig(path, format=suffix, dpi=DPI, metadata=metadata)


# ---- parts of every figure ------------------------------------------------------------------------------------------


def prepare_axes(axes: Axes, grid: Literal["both", "x"] = "both") -> None:
    """The frame and the `grid` lines of a plot."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#e0e0e0", linewidth=0.6)


def add_notes(figure: Figure, notes: Sequence[str]) -> None:
    """The footnotes, each on lines of its own."""
    lines = [textwrap.fill(note, NOTE_WIDTH) for note in notes]
    figure.supxlabel("\n".join(lines), fontsize=7, color=GREY)


# ---- numbers --------------------------------------------------------------------------------------------------------


def _values(group: Sequence[Score]) -> list[float]:
    return [score["fid"] for score in group]


def _mean(group: Sequence[Score]) -> float:
    return scores.mean_and_deviation(_values(group))[0]


def _means(points: Points) -> list[float]:
    return [_mean(group) for group in points.values()]


def _deviations(points: Points) -> list[float]:
    """Standard deviations over seeds, 0 for a single seed."""
    return [scores.mean_and_deviation(_values(group))[1] or 0.0 for group in points.values()]


def _bar(group: Sequence[Score]) -> tuple[float, float]:
    """Lengths of an error bar below and above the mean."""
    value, low, high = mean_with_bar(group)
    return value - low, high - value


def mean_with_bar(group: Sequence[Score]) -> tuple[float, float, float]:
    """The mean and the ends of its error bar: one deviation over seeds, or the interval of one seed.

    The bar has no length on a side where the value lies outside the interval.
    """
    value, deviation = scores.mean_and_deviation(_values(group))
    if deviation is not None:
        return value, value - deviation, value + deviation
    low, high = group[0].interval("fid") or (value, value)
    return value, min(low, value), max(high, value)


def number_log_axis(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis, also where it spans less than a decade."""
    from matplotlib import ticker

    low, high = axis.get_view_interval()
    steps = (1, 2, 3, 5, 7) if high / low < 30 else (1, 2, 5) if high / low < 300 else (1,)
    axis.set_major_locator(ticker.MaxNLocator(6) if high / low < 5 else ticker.LogLocator(subs=steps))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(ticker.NullLocator())
