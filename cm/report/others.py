"""Rows of tables that show the results of others: files that `cm results` wrote, here or elsewhere."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm.errors import UserError
from cm.report import result_files
from cm.report.results import describe_difference, make_protocol
from cm.report.score_file import Score

if TYPE_CHECKING:
    from cm.config import Artefact

MARKS = string.ascii_lowercase


@dataclasses.dataclass(frozen=True)
class Others:
    """The scores of one file and origin, in its order, and the letter that marks their rows."""

    mark: str
    origin: str
    path: Path
    scores: Sequence[Score]

    def groups(self) -> list[list[Score]]:
        """The scores of each model and sampler, of all its seeds; UserError for one of the same seed twice."""
        found: dict[tuple[Any, ...], list[Score]] = {}
        for score in self.scores:
            group = found.setdefault((score.label, score.nfe, score.progress), [])
            if score.seed in [other.seed for other in group]:
                raise UserError(f"{self.path} has two scores of {score.label}, seed {score.seed}, NFE {score.nfe}")
            group.append(score)
        return list(found.values())

    def note(self) -> str:
        """The footnote that names the origin."""
        commits = ", ".join(sorted({score.commit for score in self.scores} - {""})) or "not stated"
        source = f"{self.origin}, from {self.path}, commit {commits}"
        return f"({self.mark}) Results of others, not averaged with ours: {source}."


def check_others(artefact: Artefact) -> None:
    """Raise UserError unless the option `others` of an artefact names CSV or Parquet files."""
    for name in artefact.options.get("others", ()):
        try:
            result_files.check_suffix(Path(name))
        except UserError as error:
            raise UserError(f"artefact {artefact.name}, others: {error}") from None


def load_others(artefact: Artefact, own: Score) -> list[Others]:
    """The results of others that an artefact shows, beside its own scores, of which `own` is one.

    Of each file, the rows of the data set and the percentages of training of the artefact. Raises UserError for a file
    that has none, or whose rows are of another protocol or number of samples.
    """
    found: dict[tuple[Path, str], list[Score]] = {}
    for name in artefact.options.get("others", ()):
        for origin, score in _read(Path(name), artefact, own):
            found.setdefault((Path(name), origin), []).append(score)
    if len(found) > len(MARKS):
        raise UserError(f"artefact {artefact.name}, others: {len(found)} origins, more than {len(MARKS)}")
    return [
        Others(mark, origin, path, scores) for mark, ((path, origin), scores) in zip(MARKS, found.items(), strict=False)
    ]


def _read(path: Path, artefact: Artefact, own: Score) -> Iterator[tuple[str, Score]]:
    rows = [row for row in result_files.read_rows(path) if row.get("dataset") == own.dataset and row["nfe"]]
    shown = [row for row in rows if row.get("progress") in (None, *artefact.progress)]
    if not shown:
        raise UserError(f"artefact {artefact.name}: {path} has no scores of {own.dataset} that it could show")
    for row in shown:
        _check_row(row, path, artefact, own)
        yield row["origin"], _make_score(row, path, own)


def _check_row(row: Mapping[str, Any], path: Path, artefact: Artefact, own: Score) -> None:
    """UserError for a row that does not compare with the scores of the artefact."""
    expected = make_protocol(own)
    if row.get("protocol_digest") != expected["protocol_digest"]:
        names = f"protocol {row.get('protocol') or 'none'}, {describe_difference(row, expected)}"
        raise UserError(
            f"artefact {artefact.name}: {path} does not compare with it: its scores are by {names}; "
            f"expected protocol {expected['protocol']}, {describe_difference(expected, row)}"
        )
    if row.get("samples") != own.samples:
        raise UserError(
            f"artefact {artefact.name}: {path} does not compare with it: "
            f"{row.get('samples')} samples, not {own.samples} as in {own.path}"
        )


def _make_score(row: Mapping[str, Any], path: Path, own: Score) -> Score:
    """The score of a row, with the metrics that the artefact shows."""
    metrics, ends = result_files.split_metrics(row)
    shown = {metric: metrics.get(metric) for metric in own.metrics}
    method, variant, sampler = (row.get(name) or "" for name in ("method", "variant", "sampler"))
    words = [method.upper() or "?", *([variant] if variant not in ("", "default") else []), sampler]
    return dataclasses.replace(
        own,
        path=path,
        label=", ".join(filter(None, words)),
        metrics=shown,
        unavailable={metric: f"{path} does not state it" for metric, value in shown.items() if value is None},
        uncertainty={metric: found for metric, found in ends.items() if metric in shown},
        blocks=(),
        nearest={},
        seconds={},
        commit=row.get("commit") or "",
        version=row.get("version") or "",
        method=method,
        variant=variant,
        varied={},
        seed=row.get("seed") or 0,
        progress=row.get("progress") or 100,
        sampler=sampler,
        nfe=row["nfe"],
    )
