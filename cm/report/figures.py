"""Figures: FID over something, a line per label; and pictures of samples. Without pyplot; the same bytes each time."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm import report
from cm.errors import UserError
from cm.report import scores
from cm.report.scores import Score

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cm.config import Artefact, Cell, Suite

# Okabe and Ito's colours, which the colour-blind can tell apart; yellow, the faintest on white, last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", ":", "-.")
DPI = 150
SMALL = 64
WORDS = {1: "one step", 2: "two steps"}

Points = Mapping[Any, Sequence[Score]]


@report.kind("curves", form="figure", needs="scores")
def curves(suite: Suite, artefact: Artefact, root: Path) -> Figure:
    """Figure 3 of the paper: FID over the percentage of training."""
    found = scores.load(suite, artefact, root)
    figure, axes = _axes(found, "training progress (%)")
    for index, (label, points) in enumerate(_lines(found, lambda score: score.progress).items()):
        _line(axes, index, label, points)
    return _finished(figure, axes, found, sorted({score.progress for score in found}))


@report.kind("sampling_steps", form="figure", needs="scores")
def sampling_steps(suite: Suite, artefact: Artefact, root: Path) -> Figure:
    """Figure 4 of the paper: FID over the number of evaluations of the network for a sample."""
    found = scores.load(suite, artefact, root)
    figure, axes = _axes(found, "evaluations of the network per sample (NFE)")
    axes.set_xscale("log", base=2)
    for index, (label, points) in enumerate(_lines(found, lambda score: score.nfe).items()):
        _line(axes, index, label, points)
    return _finished(figure, axes, found, sorted({score.nfe for score in found}))


@report.kind("samples", form="figure", needs="samples", options=("columns",))
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


def ablation(found: Sequence[Score]) -> Figure:
    """FID over the last varied setting, a line per combination of the others; `default` settings are ringed."""
    *others, last = dict.fromkeys(key for score in found for key in score.varied)
    values = list({_tick(value): value for value in (score.varied.get(last) for score in found)}.values())
    numeric = all(map(is_number, values))
    values = sorted(values) if numeric else values
    to_scale = numeric and _apart(values)
    at = {_tick(value): value if to_scale else index for index, value in enumerate(values)}
    figure, axes = _axes(found, f"{last} (not to scale)" if numeric and not to_scale else last)
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
    return _finished(figure, axes, found, list(at.values()), list(at))


def is_number(value: Any) -> bool:
    """Whether a setting's value has a place on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def place(score: Score) -> Hashable:
    """What an ablation compares: the varied values and the sampler."""
    return tuple((key, str(value)) for key, value in score.varied.items()), score.sampler


def save(figure: Figure, stem: Path, caption: str) -> None:
    """Write `<stem>.svg` and `<stem>.png`, without the date and with fixed names inside."""
    import matplotlib

    from cm.files import replacing

    words = {"Title": stem.name, "Description": caption}
    formats = {"svg": {**words, "Date": None}, "png": {**words, "Software": None}}
    for suffix, metadata in formats.items():
        with (
            matplotlib.rc_context({"svg.hashsalt": stem.name}),
            replacing(stem.parent / f"{stem.name}.{suffix}") as temporary,
        ):
            figure.savefig(temporary, format=suffix, dpi=DPI, metadata=metadata)


# ---- lines --------------------------------------------------------------------------------------------------------


def _lines(found: Sequence[Score], x: Callable[[Score], float]) -> dict[str, dict[float, list[Score]]]:
    """Label to x to the scores of all seeds there, by rising x."""
    lines: dict[str, dict[float, list[Score]]] = {}
    for (label, value), group in scores.groups(found, lambda score: (score.label, x(score))).items():
        lines.setdefault(label, {})[value] = group
    return {label: dict(sorted(points.items())) for label, points in lines.items()}


def _axes(found: Sequence[Score], x_label: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e0e0e0", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(x_label)
    axes.set_ylabel(found[0].heading("fid"))
    axes.set_yscale("log")
    return figure, axes


def _style(index: int) -> dict[str, Any]:
    wheel = len(COLOURS)
    style = {"color": COLOURS[index % wheel], "marker": MARKERS[index % wheel], "markersize": 5.5}
    return {**style, "linestyle": DASHES[index // wheel % len(DASHES)], "linewidth": 1.6}


def _fids(points: Points) -> tuple[list[float], list[float]]:
    """Means and deviations (0 for one seed), a value per point."""
    spreads = [scores.spread([score["fid"] for score in group]) for group in points.values()]
    return [mean for mean, _ in spreads], [std or 0.0 for _, std in spreads]


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
    means, stds = _fids(points)
    style["linestyle"] = style["linestyle"] if joined else "none"
    axes.errorbar(list(points), means, yerr=stds if any(stds) else None, capsize=3, label=label or None, **style)


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


def _finished(
    figure: Figure, axes: Axes, found: Sequence[Score], ticks: list[float], labels: list[str] | None = None
) -> Figure:
    """Ticks where there are points, numbers on the axis of FID, a legend beside the plot, and footnotes."""
    axes.set_xticks(ticks, labels or [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    _number_log_axis(axes)
    entries = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda entry: entry[1] == "default")
    if len(entries) == 1:
        axes.legend(*zip(*entries, strict=True), frameon=False, fontsize=9)
    elif entries:
        figure.legend(*zip(*entries, strict=True), loc="outside right upper", frameon=False, fontsize=9)
    notes = [textwrap.fill(note, 120) for note in scores.notes(scores.columns(found))]
    figure.supxlabel("\n".join(notes), fontsize=7, color="#555555")
    return figure


def _number_log_axis(axes: Axes) -> None:
    """Plain numbers on the logarithmic axis, also where it spans less than a decade."""
    from matplotlib import ticker

    low, high = axes.get_ylim()
    steps = (1, 2, 3, 5, 7) if high / low < 30 else (1, 2, 5) if high / low < 300 else (1,)
    axes.yaxis.set_major_locator(ticker.MaxNLocator(6) if high / low < 5 else ticker.LogLocator(subs=steps))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())


# ---- pictures -----------------------------------------------------------------------------------------------------


def _preview(cell: Cell, root: Path) -> np.ndarray:
    """The images kept of a cell, uint8 [n, H, W, C]."""
    from cm import files

    path = Path(root) / "samples" / f"{cell.path}.npy"
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
    from cm.config import sampler

    call = sampler(name)
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
