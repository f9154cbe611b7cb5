"""Verdicts on claims: `holds`, `fails` or `undecided`, each from a difference with its interval over seeds.

The test of a claim has two one-sided p-values by Student's t: of the data, if the claim is not true (`support`), and if
its opposite is not true (`contradict`). With d the mean gain of the runs over the reference over n seeds, in the
direction in which the metric is better, and e its standard error:

    relation  support                                        contradict
    better    P(T >= d / e)                                  P(T >= -d / e)
    similar   max P(T >= (margin +- d) / e)                  P(T >= (|d| - margin) / e)
    equal     none                                           P(T >= (|d| - rounding) / e)

`similar` is the test of equivalence of Schuirmann (1987). The p-value of a claim is twice the smaller of the two, at
most 1. Holm's method adjusts the p-values of all claims that are tested together. If the adjusted p-value is at most
0.05, the claim holds or fails; `better` and `similar` are undecided otherwise.

No test can show that a number equals a published one. `equal` holds if the published number lies in the interval that
is expected to hold the score of one further training, and if that interval is narrow enough to tell: its half-width is
at most `RESOLUTION` of the published number. `rounding` is half a unit of the last printed digit.

A claim is undecided, without a test, with scores of one seed, since the samples of one training say nothing about
another training, and with scores of fewer samples than the protocol asks for.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Hashable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from cm.report import scores
from cm.report.inference import LEVEL, adjust_by_holm, mean_interval, standard_error, upper_tail
from cm.report.published import find_number
from cm.report.scores import Score

if TYPE_CHECKING:
    from cm.config import Cell
    from cm.config.claims import Claim, Comparison

HOLDS, FAILS, UNDECIDED = VERDICTS = ("holds", "fails", "undecided")
RESOLUTION = 0.1  # of a published number: the widest half-interval with which a measured one may be called equal to it
ALPHA = 1 - LEVEL

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One metric of a claim. `runs`, `reference`: scores of the same seeds. `published`: as printed, or None."""

    comparison: Comparison
    metric: str
    runs: Sequence[Score]
    reference: Sequence[Score]
    published: str | None

    @property
    def name(self) -> str:
        """The name of the claim."""
        return self.comparison.name

    @property
    def claim(self) -> Claim:
        """The claim."""
        return self.comparison.claim

    @property
    def hypothesis(self) -> Hashable:
        """What is tested: equal for claims that differ in their words only."""
        runs, reference = (tuple(map(attrgetter("path"), side)) for side in (self.runs, self.reference))
        return self.metric, self.claim.relation, self.claim.margin, self.published, runs, reference

    @property
    def lower_is_better(self) -> bool:
        """Whether a lower value of the metric is better."""
        from cm.evaluation.metrics import lower_is_better

        return lower_is_better(self.metric)

    @property
    def baseline(self) -> float:
        """The mean of the reference, or the published number."""
        return float(self.published) if self.published else mean_of(self.reference, self.metric)

    @property
    def differences(self) -> list[float]:
        """The metric of the runs less that of the reference, for each seed."""
        if self.published:
            return [score[self.metric] - float(self.published) for score in self.runs]
        return [new[self.metric] - old[self.metric] for new, old in zip(self.runs, self.reference, strict=True)]

    @property
    def interval(self) -> Interval | None:
        """The interval of the mean difference; of a published number, that of one further training."""
        return mean_interval(self.differences, further=self.published is not None)

    @property
    def obstacle(self) -> str | None:
        """Why the claim cannot be tested, None if it can."""
        if not self.runs:
            return "no scores of both sides yet"
        for score in (*self.runs, *self.reference):
            if self.metric in score.unavailable:
                return f"the metric is unavailable: {score.unavailable[self.metric]}"
            if score.has_fewer_samples:
                return f"{score.samples} samples are fewer than the {score.protocol['samples']} of the protocol"
        return "one seed says nothing about other trainings" if len(self.runs) == 1 else None

    @property
    def has_values(self) -> bool:
        """Whether there are scores, with the metric."""
        every = (*self.runs, *self.reference)
        return bool(every) and not any(self.metric in score.unavailable for score in every)


@dataclasses.dataclass(frozen=True)
class Test:
    """The two one-sided p-values of a claim, see above."""

    support: float
    contradict: float

    @property
    def p_value(self) -> float:
        """The two-sided p-value."""
        return min(1.0, 2 * min(self.support, self.contradict))


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A verdict, its reason in words, and the test behind it with its adjusted p-value, if there was one."""

    measurement: Measurement
    word: str
    reason: str
    p_value: float | None = None
    adjusted: float | None = None


def mean_of(found: Sequence[Score], metric: str) -> float:
    """The mean of a metric over seeds."""
    return statistics.fmean(score[metric] for score in found)


def interval_of(found: Sequence[Score], metric: str) -> Interval | None:
    """The interval of the mean over seeds; of a single seed, the bootstrap interval over its samples, if it has one."""
    return mean_interval([score[metric] for score in found]) or found[0].interval(metric)


# ---- measuring ------------------------------------------------------------------------------------------------------


def measure(comparison: Comparison, root: Path, *, existing_only: bool = False) -> list[Measurement]:
    """The measurement of each metric of a claim, from the scores below `root`.

    `existing_only`: with those seeds of which both scores exist. Raises UserError for scores that are missing
    otherwise, that are damaged, and that do not compare.
    """
    claim, sides = comparison.claim, [side for side in (comparison.runs, comparison.reference) if side]
    pairs = list(zip(*sides, strict=True))
    if existing_only:
        pairs = [pair for pair in pairs if _exist(pair, root)]
    runs = [scores.read(pair[0], root) for pair in pairs]
    reference = [scores.read(pair[1], root) for pair in pairs if comparison.reference]
    if runs:
        scores.check_comparable([*runs, *reference], f"claim {comparison.name}")
    return [
        Measurement(comparison, metric, runs, reference, published_number(comparison.name, claim, metric))
        for metric in claim.metrics
    ]


def _exist(cells: Sequence[Cell], root: Path) -> bool:
    return all(scores.score_path(cell, root).exists() for cell in cells)


def published_number(name: str, claim: Claim, metric: str) -> str | None:
    """The published number that a claim compares with, as printed; None without one."""
    return find_number(claim.published, metric, f"claim {name}") if claim.published else None


# ---- judging --------------------------------------------------------------------------------------------------------


def judge(measurements: Sequence[Measurement]) -> list[Verdict]:
    """The verdict on each claim, with p-values adjusted over all that can be tested.

    Claims of the same hypothesis, which different parts of the paper state, share one test.
    """
    tests = {one.hypothesis: _test(one) for one in measurements if one.obstacle is None}
    adjusted = dict(zip(tests, adjust_by_holm([test.p_value for test in tests.values()]), strict=True))
    found = []
    for one in measurements:
        if one.obstacle is None:
            found.append(_decide(one, tests[one.hypothesis], adjusted[one.hypothesis]))
        else:
            found.append(Verdict(one, UNDECIDED, one.obstacle))
    return found


def _test(one: Measurement) -> Test:
    differences = one.differences
    error = standard_error(differences, further=one.published is not None) or 0.0
    mean = statistics.fmean(differences)
    gain = -mean if one.lower_is_better else mean
    tail = functools.partial(upper_tail, error=error, degrees=len(differences) - 1)
    if one.claim.relation == "better":
        return Test(tail(gain), tail(-gain))
    if one.claim.margin is not None:
        margin = one.claim.margin * abs(one.baseline)
        return Test(max(tail(margin - gain), tail(margin + gain)), tail(abs(gain) - margin))
    return Test(1.0, tail(max(0.0, abs(gain) - _rounding(one.published or ""))))


def _rounding(printed: str) -> float:
    """Half a unit of the last digit of a printed number."""
    return 0.5 * 10.0 ** -len(printed.partition(".")[2])


def _decide(one: Measurement, test: Test, adjusted: float) -> Verdict:
    if adjusted <= ALPHA:
        word = HOLDS if test.support < test.contradict else FAILS
        return Verdict(one, word, _explain_decision(one, word), test.p_value, adjusted)
    if one.claim.relation == "equal" and test.p_value > ALPHA and _half_width(one) <= RESOLUTION:
        return Verdict(one, HOLDS, "the interval holds the published number", test.p_value, adjusted)
    return Verdict(one, UNDECIDED, _explain_doubt(one, test.p_value), test.p_value, adjusted)


def _explain_decision(one: Measurement, word: str) -> str:
    if one.claim.relation == "similar":
        return "the difference is within the margin" if word == HOLDS else "the difference is beyond the margin"
    if one.claim.relation == "better":
        return "the interval excludes 0" if word == HOLDS else "the interval excludes 0, in the other direction"
    lower = statistics.fmean(one.differences) < 0
    return f"{'better' if lower == one.lower_is_better else 'worse'} than published"


def _explain_doubt(one: Measurement, p_value: float) -> str:
    if p_value <= ALPHA:
        return "significant alone, but not among all claims (Holm)"
    if one.claim.relation == "better":
        return "the interval contains 0"
    if one.claim.relation == "similar":
        return "the interval reaches beyond the margin"
    return f"the interval is wider than {RESOLUTION:.0%} of the published number to either side"


def _half_width(one: Measurement) -> float:
    """The half-width of the interval, as a fraction of the published number."""
    low, high = one.interval or (0.0, 0.0)
    return (high - low) / 2 / abs(one.baseline)
