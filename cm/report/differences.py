"""The effect of single changes: each line compares a setting with the reference of that line, seed by seed."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm import report
from cm.errors import UserError
from cm.report import footnotes, forest, scores
from cm.report.inference import mean_interval
from cm.report.scores import Score
from cm.report.writing import HIGH, LOW, STD, format_setting, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from cm.config import Artefact, Suite

OF_PAIRS = (
    "{} 95 % interval of the mean difference between runs of the same seed (Student's t, {} seeds); one that "
    "holds 0 is compatible with no effect."
)
FIRST = "The first setting of a line is its reference; all other settings of the line are the same in both."


@dataclass(frozen=True)
class Difference:
    """A change of settings: the scores of the reference and of the changed runs, in the order of the same seeds."""

    label: str
    reference: Sequence[Score]
    changed: Sequence[Score]

    @property
    def values(self) -> list[float]:
        """The difference of the Frechet distances, changed less reference, of each seed."""
        return [new["fid"] - old["fid"] for old, new in zip(self.reference, self.changed, strict=True)]

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean difference by Student's t; None for a single seed."""
        return mean_interval(self.values)

    @property
    def words(self) -> tuple[str, str]:
        """The settings that differ, of the reference and of the changed runs."""
        return _describe(self.reference[0]), _describe(self.changed[0])


def check_entries(artefact: Artefact) -> None:
    """UserError for two entries without labels of their own, which distinguish the lines."""
    labels = [entry.label for entry in artefact.entries]
    if None in labels or len(set(labels)) < len(labels):
        raise UserError(f"artefact {artefact.name}: each entry needs a label of its own, the name of its difference")


@report.kind("differences", form="both", needs="scores", check=check_entries)
def differences(suite: Suite, artefact: Artefact, root: Path) -> tuple[DataFrame, Figure]:
    """A row for each change: the distance before and after it, and the difference with its interval over paired seeds.

    The first combination of settings of an entry is the reference of the others of that entry.
    """
    found = scores.load(suite, artefact, root)
    pairs = _pair(found, artefact)
    of_all = footnotes.of_differences(found)
    drawn = _draw(pairs, [FIRST, *_explain_interval(pairs, "Bars are the"), *of_all, *footnotes.of_origin(artefact)])
    return table([_row(pair) for pair in pairs], [FIRST, *_explain_interval(pairs, "[ ] is the"), *of_all]), drawn


def _pair(found: Sequence[Score], artefact: Artefact) -> list[Difference]:
    lines: dict[str, list[list[Score]]] = {}
    for (label, _), group in scores.groups(found, lambda score: (score.label, _identify(score))).items():
        lines.setdefault(label, []).append(group)
    pairs = []
    for label, (reference, *changed) in lines.items():
        if not changed:
            raise UserError(f"artefact {artefact.name}: '{label}' has one setting, so nothing to compare it with")
        pairs += [Difference(label, reference, group) for group in changed]
    return pairs


def _identify(score: Score) -> Hashable:
    return score.method, score.variant, score.sampler


def _row(pair: Difference) -> dict[str, Any]:
    heading = pair.reference[0].heading("fid")
    difference, interval = scores.mean_and_deviation(pair.values)[0], pair.interval
    before, after = _distances(pair.reference), _distances(pair.changed)
    row: dict[str, Any] = {"difference": pair.label}
    for name, words, values in zip(("reference", "changed"), pair.words, (before, after), strict=True):
        mean, deviation = scores.mean_and_deviation(values)
        row |= {name: words, f"{heading}, {name}": mean, f"{heading}, {name}{STD}": deviation}
    row["change"] = difference
    if interval:
        row |= {f"change{LOW}": interval[0], f"change{HIGH}": interval[1]}
    return {**row, "change (%)": 100 * difference / scores.mean_and_deviation(before)[0], "seeds": len(before)}


def _distances(group: Sequence[Score]) -> list[float]:
    return [score["fid"] for score in group]


def _describe(score: Score) -> str:
    return format_setting(score.varied) or score.sampler


def _explain_interval(pairs: Sequence[Difference], marks: str) -> list[str]:
    """What the interval is, which all lines have or none. `marks`: `Bars are the`, or the sign of a table."""
    count = len(pairs[0].reference)
    return [OF_PAIRS.format(marks, count)] if count > 1 else []


def _draw(pairs: Sequence[Difference], notes: Sequence[str]) -> Figure:
    """The relative change of each line with its interval, and a line at no change."""
    changes = []
    for pair in pairs:
        percent = 100 / scores.mean_and_deviation(_distances(pair.reference))[0]
        change, _ = scores.mean_and_deviation(pair.values)
        low, high = pair.interval or (change, change)
        label = f"{pair.label}: {pair.words[1]}"
        changes.append(forest.Row(label, percent * change, percent * low, percent * high))
    return forest.draw_changes(changes, f"change of {pairs[0].reference[0].title('fid')}", notes)
