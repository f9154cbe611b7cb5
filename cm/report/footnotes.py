"""Footnotes: what a reader must know to read the numbers above them. Each function returns sentences, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cm.report.scores import Score, split_halves
from cm.report.writing import DAGGER

if TYPE_CHECKING:
    from cm.config import Artefact

OVER_SEEDS = "± is the standard deviation over seeds (with n - 1)."
OVER_BLOCKS = "± is the standard deviation over blocks of samples of one seed (with n - 1)."
OVER_SAMPLES = "[ ] is a 95 % bootstrap interval over the samples of one seed."
OVER_REAL_IMAGES = "[ ] is a 95 % bootstrap interval over the real images."
BIAS = "Chong and Forsyth 2020"
NOT_IN_THE_PAPER = "Not in the paper (Song et al. 2023)."
BITS = {"truncate": "quantized to 8 bits by truncation", "round": "quantized to 8 bits by rounding"}


def of_table(scores: Sequence[Score], baselines: Sequence[Score], *, at_infinity: bool) -> list[str]:
    """The footnotes of a table of scores with rows of real images.

    `at_infinity`: whether the table has a column for infinitely many samples.
    """
    return [
        *_explain_signs(scores, baselines),
        *_explain_dagger(scores[0], at_infinity),
        *_explain_dashes(scores),
        *_explain_blocks(scores[0]),
        *_explain_split_halves(split_halves(scores)),
        *_warn_of_small_baselines(scores[0], baselines),
        *_warn_of_mixtures([*scores, *baselines]),
        _describe_protocol(scores[0]),
    ]


def of_figure(scores: Sequence[Score], *, marks: str, intervals: bool, baseline: Score | None) -> list[str]:
    """The footnotes of a figure of scores.

    `marks`: what shows the uncertainty, `Bars` or `Bands`. `intervals`: whether they are intervals of single seeds, not
    deviations over several. `baseline`: the split halves, if they are drawn as a line.
    """
    several = len({score.seed for score in scores}) > 1
    return [
        *([f"{marks} are 95 % bootstrap intervals over the samples of one seed."] if intervals else []),
        *_warn_of_few_samples(scores[0]),
        *_explain_split_halves(baseline),
        *_warn_of_mixtures(scores),
        _describe_protocol(scores[0]),
        *([f"{marks} are one standard deviation over seeds to either side."] if several else []),
    ]


def of_differences(scores: Sequence[Score]) -> list[str]:
    """The footnotes of differences between scores."""
    return [*_warn_of_few_samples(scores[0]), *_warn_of_mixtures(scores), _describe_protocol(scores[0])]


def of_claims(scores: Sequence[Score]) -> list[str]:
    """The footnotes of claims, whose scores may be of several protocols: each of these once."""
    return [*_warn_of_mixtures(scores), *dict.fromkeys(map(_describe_protocol, scores))]


def of_origin(artefact: Artefact) -> list[str]:
    """A footnote that says that an artefact is not in the paper, if it is not."""
    return [] if artefact.paper else [NOT_IN_THE_PAPER]


# ---- signs ----------------------------------------------------------------------------------------------------------


def _explain_signs(scores: Sequence[Score], baselines: Sequence[Score]) -> list[str]:
    """What ± and [ ] are: models of several seeds have a deviation, those of one seed and real images an interval.

    Models of one seed that are scored in several blocks of samples have a deviation over these.
    """
    if scores[0].blocks and len({score.seed for score in scores}) == 1:
        return [OVER_BLOCKS, *([OVER_REAL_IMAGES] if _have_intervals(baselines) else [])]
    if len({score.seed for score in scores}) > 1:
        return [OVER_SEEDS, *([OVER_REAL_IMAGES] if _have_intervals(baselines) else [])]
    return [OVER_SAMPLES] if _have_intervals([*scores, *baselines]) else []


def _have_intervals(scores: Sequence[Score]) -> bool:
    return any(score.interval("fid") for score in scores)


def _explain_blocks(score: Score) -> list[str]:
    """What the column of the minimum is."""
    if not score.blocks:
        return []
    count = len(score.blocks)
    return [
        f"Each model is scored by {count} blocks of {score.samples} samples from different noise; the column of the "
        f"minimum has the lowest {score.title('fid')} of the {count}, which EDM reports (Karras et al. 2022)."
    ]


def _explain_dagger(score: Score, at_infinity: bool) -> list[str]:
    if not score.has_fewer_samples:
        return []
    column = "; the column at infinity extrapolates to infinitely many" if at_infinity else ""
    return [f"{DAGGER} marks fewer samples than {_describe_bias(score)}{column}."]


def _warn_of_few_samples(score: Score) -> list[str]:
    if not score.has_fewer_samples:
        return []
    return [f"There are {score.samples} samples, fewer than {_describe_bias(score)}."]


def _describe_bias(score: Score) -> str:
    required, title = score.protocol["samples"], score.title("fid")
    return f"the {required} of the protocol, so that {title} is biased upwards ({BIAS})"


def _explain_dashes(scores: Sequence[Score]) -> list[str]:
    """The reasons for which metrics are unavailable, each once with all its metrics."""
    metrics_of: dict[str, list[str]] = {}
    for score in scores:
        for metric, reason in score.unavailable.items():
            titles = metrics_of.setdefault(reason, [])
            if score.title(metric) not in titles:
                titles.append(score.title(metric))
    return [f"Unavailable: {', '.join(titles)} ({reason})." for reason, titles in metrics_of.items()]


# ---- real images ----------------------------------------------------------------------------------------------------


def _explain_split_halves(baseline: Score | None) -> list[str]:
    if baseline is None:
        return []
    return [f"Split halves: one random half of the {baseline.split} split is scored against the other half."]


def _warn_of_small_baselines(score: Score, baselines: Sequence[Score]) -> list[str]:
    smaller = [str(baseline.samples) for baseline in baselines if baseline.samples < score.samples]
    if not smaller:
        return []
    return [
        f"Baselines of fewer real images ({' and '.join(smaller)}) than the samples of a model ({score.samples}) are "
        f"not lower bounds: {score.title('fid')} falls as the number of images grows."
    ]


# ---- provenance -----------------------------------------------------------------------------------------------------


def _warn_of_mixtures(scores: Sequence[Score]) -> list[str]:
    """Warnings of scores that were computed by different commits of this code or with different packages."""
    return [
        *_warn_of_mixture("commits of this code", {score.commit for score in scores}),
        *_warn_of_mixture("package versions", {score.version for score in scores}),
    ]


def _warn_of_mixture(what: str, values: set[str]) -> list[str]:
    return [f"Scores of different {what} are mixed: {'; '.join(sorted(values))}."] if len(values) > 1 else []


def _describe_protocol(score: Score) -> str:
    protocol = score.protocol
    parts = [
        f"{protocol['samples']} samples against the {protocol['reference']} split{_describe_statistics(score)}",
        f"features of {protocol['extractor']}",
        f"resizer {protocol['resizer']}",
        *([BITS[score.quantization]] if score.quantization in BITS else []),
    ]
    return f"Protocol {protocol['name']}: {', '.join(parts)}."


def _describe_statistics(score: Score) -> str:
    """The file with the mean and covariance of the reference features, if they were not computed here."""
    file = score.reference.get("statistics", {}).get("file") or score.protocol.get("statistics")
    return f" ({file})" if file else ""
