"""The claims of the paper that a suite can decide: measured values, differences with their intervals, and verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm import report
from cm.errors import UserError
from cm.report import footnotes, forest, headings, verdicts
from cm.report.inference import LEVEL
from cm.report.plots import COLOURS, GREY
from cm.report.verdicts import FAILS, HOLDS, UNDECIDED, Measurement, Verdict
from cm.report.writing import HIGH, LOW, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from cm.config import Artefact, Cell, Suite
    from cm.report.scores import Score

STYLES = {
    HOLDS: forest.Style(COLOURS[2], "o", True, HOLDS),
    FAILS: forest.Style(COLOURS[1], "X", True, FAILS),
    UNDECIDED: forest.Style(GREY, "o", False, UNDECIDED),
}
SUMMARY = ("claim", "verdict", "metric", "measured", "reference value", "difference", "seeds", "adjusted p", "reason")
OTHER_DATA = (
    "The paper makes its claims for other data and trainings: verdicts of suite {} are about the data in the table."
)
MEASURED = (
    "[ ] of a measured value is the 95 % interval of its mean over seeds (Student's t); of a single seed, the 95 % "
    "bootstrap interval over its samples."
)
DIFFERENCE = (
    "[ ] of a difference, runs less reference, is the 95 % interval of the mean difference between runs of the same "
    "seed (Student's t); of a difference from a published number, the interval for one further training."
)
EQUAL = (
    "A measured value equals a published one if that lies in the interval, which must not be wider than {:.0%} of it "
    "to either side."
)
SIMILAR = "Runs are similar if their difference is within the margin that the claim states (two one-sided tests)."
HOLM = (
    "A claim holds or fails if its two-sided p-value, adjusted by Holm's method over the {} tests of this table, is at "
    "most {:.2g}; a value that equals a published one holds without being significant. All others are undecided."
)


def check(artefact: Artefact) -> None:
    """UserError for entries, which claims have in a file of their own, and for numbers that are not published."""
    if artefact.entries or artefact.published:
        raise UserError(f"artefact {artefact.name}: claims take no entries and no published numbers from the suite")
    for name, claim in artefact.claims.items():
        for metric in claim.metrics:
            verdicts.published_number(name, claim, metric)


@report.kind("claims", form="both", needs="claims", check=check)
def claims(suite: Suite, artefact: Artefact, root: Path) -> tuple[DataFrame, Figure]:
    """A row for each claim and metric with its verdict; and a figure of the differences."""
    found = judge(suite, artefact, root)
    if not found:
        raise UserError(f"artefact {artefact.name}: suite {suite.name} has the runs of none of the claims")
    return tabulate(suite, found), _draw(suite, found)


def judge(suite: Suite, artefact: Artefact, root: Path, *, existing_only: bool = False) -> list[Verdict]:
    """The verdicts on the claims of an artefact, in their order; arguments and errors as of `verdicts.measure`."""
    measurements: list[Measurement] = []
    for comparison in suite.comparisons(artefact):
        measurements += verdicts.measure(comparison, root, existing_only=existing_only)
    return verdicts.judge(measurements)


# ---- the table ------------------------------------------------------------------------------------------------------


def tabulate(suite: Suite, found: Sequence[Verdict]) -> DataFrame:
    """The verdicts as a table with footnotes."""
    return table([{"suite": suite.name, **_row(verdict)} for verdict in found], explain(suite, found))


def summarize(found: Sequence[Verdict], notes: Sequence[str] = ()) -> DataFrame:
    """The verdicts as a table with fewer columns, without statements and runs."""
    rows = []
    for verdict in found:
        rows.append({key: value for key, value in _row(verdict).items() if key.startswith(SUMMARY)})
    return table(rows, notes)


def _row(verdict: Verdict) -> dict[str, Any]:
    one = verdict.measurement
    first = one.comparison.runs[0]
    extractor = first.protocol.extractor
    return {
        "claim": one.name,
        "statement": one.claim.statement,
        "source": one.claim.source,
        "verdict": verdict.word,
        "data": headings.dataset_title(first.run.dataset),
        "metric": f"{headings.metric_title(one.metric, extractor)}, {headings.extractor_title(extractor)} features",
        "runs": describe(first),
        **_measure("measured", one, one.runs),
        **_measure_reference(one),
        **_subtract(one),
        "seeds": len(one.runs),
        "samples": one.runs[0].samples if one.runs else None,
        "p": verdict.p_value,
        "adjusted p": verdict.adjusted,
        "reason": verdict.reason,
    }


def describe(cell: Cell) -> str:
    """`CD distance~l2, onestep`, and the percentage of training if it is not the end."""
    progress = "" if cell.progress == 100 else f", {cell.progress} % of training"
    return f"{cell.run.method.upper()} {cell.run.variant}, {cell.sampler}{progress}"


def _measure(column: str, one: Measurement, found: Sequence[Score]) -> dict[str, Any]:
    """The mean of the metric over seeds, with its interval."""
    if not one.has_values:
        return {column: None}
    return {column: verdicts.mean_of(found, one.metric), **_ends(column, verdicts.interval_of(found, one.metric))}


def _measure_reference(one: Measurement) -> dict[str, Any]:
    """What the runs are compared with, and its metric."""
    if one.published:
        return {"reference": f"published {one.published}", "reference value": float(one.published)}
    return {"reference": describe(one.comparison.reference[0]), **_measure("reference value", one, one.reference)}


def _subtract(one: Measurement) -> dict[str, Any]:
    """The mean difference, with its interval."""
    if not one.has_values:
        return {"difference": None}
    return {"difference": statistics.fmean(one.differences), **_ends("difference", one.interval)}


def _ends(column: str, interval: tuple[float, float] | None) -> dict[str, float]:
    return {column + LOW: interval[0], column + HIGH: interval[1]} if interval else {}


def explain(suite: Suite, found: Sequence[Verdict]) -> list[str]:
    """What verdicts, intervals and p-values are, and what the scores are of."""
    tests = len({verdict.measurement.hypothesis for verdict in found if verdict.p_value is not None})
    relations = {verdict.measurement.claim.relation for verdict in found}
    used: list[Score] = []
    for verdict in found:
        used += [*verdict.measurement.runs, *verdict.measurement.reference]
    return [
        HOLM.format(tests, 1 - LEVEL),
        MEASURED,
        DIFFERENCE,
        *([EQUAL.format(verdicts.RESOLUTION)] if "equal" in relations else []),
        *([SIMILAR] if "similar" in relations else []),
        *([] if "equal" in relations else [OTHER_DATA.format(suite.name)]),
        *footnotes.of_claims(used),
    ]


# ---- the figure -----------------------------------------------------------------------------------------------------


def _draw(suite: Suite, found: Sequence[Verdict]) -> Figure:
    """The differences in per cent of the reference, with their intervals, to the right where the runs are better."""
    changes = [_change(verdict) for verdict in found if verdict.measurement.has_values]
    notes = [
        f"Suite {suite.name}. To the right, the runs that a claim is about are better than its reference. Bars are the "
        "intervals of the table; without a bar there is one seed.",
        *explain(suite, found)[:1],
    ]
    return forest.draw_changes(changes, "gain over the reference", notes)


def _change(verdict: Verdict) -> forest.Row:
    one = verdict.measurement
    percent = (-100 if one.lower_is_better else 100) / abs(one.baseline or 1.0)
    mean = statistics.fmean(one.differences)
    low, high = sorted(percent * end for end in one.interval or (mean, mean))
    label = one.name if one.claim.metrics == ("fid",) else f"{one.name}, {headings.metric_title(one.metric)}"
    return forest.Row(label, percent * mean, low, high, STYLES[verdict.word])
