"""Footnotes: what must stand below numbers for them to be read right. Each function gives lines, or none."""

from __future__ import annotations

from collections.abc import Sequence

from cm.report import scores
from cm.report.scores import Score
from cm.report.writing import DAGGER

SPREAD = "± is the standard deviation over seeds (n - 1)."
ROUNDED = {"truncate": "truncated", "round": "rounded"}


def of_table(found: Sequence[Score], floors: Sequence[Score], *, limits: bool) -> list[str]:
    """Below a table of scores, with rows of real images. `limits`: it has FIDs of infinitely many images."""
    line = "; the column at infinity extrapolates to infinitely many" if limits else ""
    return [
        *_signs(found, floors),
        *_fewer(found, DAGGER, line),
        *_unavailable(found),
        *_halved(scores.halves(found)),
        *_no_bound(found, floors),
        *_origin([*found, *floors]),
    ]


def of_figure(found: Sequence[Score], *, bars: bool, halves: Score | None) -> list[str]:
    """Below a figure of scores. `bars`: it has intervals of single seeds. `halves`: the score drawn as a line."""
    return [
        *(["Bars are 95 % bootstrap intervals over the images of one seed."] if bars else []),
        *_fewer(found, f"{found[0].samples} images,", ""),
        *_halved(halves),
        *_origin(found),
    ]


def _signs(found: Sequence[Score], floors: Sequence[Score]) -> list[str]:
    several = len({score.seed for score in found}) > 1
    single = floors if several else [*found, *floors]
    interval = "[ ] is a 95 % bootstrap interval over the images of one seed."
    of_real = "[ ] is a 95 % bootstrap interval over the real images."
    bracketed = [of_real if several else interval] if any(score.interval("fid") for score in single) else []
    return [*([SPREAD] if several else []), *bracketed]


def _fewer(found: Sequence[Score], which: str, line: str) -> list[str]:
    if not found[0].short:
        return []
    asked = found[0].protocol["samples"]
    return [f"{which} fewer than the {asked} of the protocol: FID is biased upwards{line} (Chong and Forsyth 2020)."]


def _unavailable(found: Sequence[Score]) -> list[str]:
    """Reasons, each once with all the metrics that are not to be had for it."""
    reasons: dict[str, dict[str, None]] = {}
    for score in found:
        for metric, reason in score.unavailable.items():
            reasons.setdefault(reason, {})[scores.TITLES.get(metric, metric)] = None
    return [f"No {', '.join(titles)}: {reason}." for reason, titles in reasons.items()]


def _halved(halves: Score | None) -> list[str]:
    if halves is None:
        return []
    return [f"The {halves.split} halves are random halves of the {halves.split} split, one against the other."]


def _no_bound(found: Sequence[Score], floors: Sequence[Score]) -> list[str]:
    fewer = [str(real.samples) for real in floors if real.samples < found[0].samples]
    if not fewer:
        return []
    return [
        f"Rows of fewer real images ({' and '.join(fewer)}) than models have ({found[0].samples}) are no lower bounds: "
        "FID falls with the number of images."
    ]


def _origin(found: Sequence[Score]) -> list[str]:
    """Mixtures of commits or of package versions, and the protocol."""
    notes = []
    for text, part in (("commits of this code", "commit"), ("versions", "version")):
        values = sorted({getattr(score, part) for score in found})
        if len(values) > 1:
            notes.append(f"Scores of different {text} are mixed: {'; '.join(values)}.")
    return [*notes, _protocol(found[0])]


def _protocol(score: Score) -> str:
    of = score.protocol
    statistics = f" ({of['statistics']})" if of.get("statistics") else ""
    return (
        f"Protocol {of['name']}: {of['samples']} samples against the {of['reference']} split{statistics}, features of "
        f"{of['extractor']}, resizer {of['resizer']}, {ROUNDED.get(of['quantization'], of['quantization'])} to 8 bits."
    )
