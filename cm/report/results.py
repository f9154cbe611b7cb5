"""Scores as one table of data: a row for each score, which says all that it depends on.

    origin dataset method variant seed progress sampler nfe protocol extractor samples fid fid_low fid_high kid ...

Two scores of one data set compare if their `protocol_digest` is the same, a digest of the protocol, the extractor with
its weights, and the reference images. Tables are CSV or Parquet files, and are read again without a loss.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm.config.layout import Layout
from cm.config.runs import RunName
from cm.errors import UserError, unknown
from cm.report import result_files
from cm.report.score_file import Score
from cm.report.score_schema import Content
from cm.report.score_sources import SCORES, read_scores
from cm.utils import files

if TYPE_CHECKING:
    from pandas import DataFrame

REAL = "real images"  # the method of a score of real images
DIGITS = 16  # of digests


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row, and the path of its score or the place in a table, which errors name."""

    path: str
    row: result_files.Row


def collect(
    paths: Iterable[str | Path], *, protocol: str | None = None, mixed: bool = False, origin: str | None = None
) -> DataFrame:
    """The scores at some paths as one table, in the order of the paths.

    `paths`: folders of results, zips of such folders, score files, and tables that `write` wrote. `protocol`: the
    name of the protocol whose scores are taken, by default of all. `mixed`: whether several protocols, and several
    numbers of samples, may stand in one table for one data set. `origin`: what the column `origin` says of score
    files, by default their path as it is given; rows of tables keep theirs.

    Raises UserError for a file that is no score, a score that is given twice, and for scores that do not compare:
    always for protocols of one name that differ, and without `mixed` for different protocols and numbers of samples.
    """
    entries = _read_all(paths, origin)
    _check_distinct(entries)
    if protocol is not None:
        entries = _choose_protocol(entries, protocol)
    _check_names(entries)
    if not mixed:
        _check_one_value(entries, "protocol", "protocols")
        # Real images are as many as there are.
        _check_one_value([entry for entry in entries if entry.row.get("nfe")], "samples", "numbers of samples")
    return result_files.make_frame([entry.row for entry in entries])


def read_rows(paths: Iterable[str | Path]) -> list[result_files.Row]:
    """The rows of the scores at some paths, with all columns, whether they compare or not; raises as `collect` does."""
    columns = dict.fromkeys((*result_files.BEFORE_METRICS, *result_files.AFTER_METRICS), "")
    return [{**columns, **entry.row} for entry in _read_all(paths, None)]


def _read_all(paths: Iterable[str | Path], origin: str | None) -> list[Entry]:
    return list(itertools.chain.from_iterable(_read(Path(path), origin) for path in paths))


def _read(path: Path, origin: str | None) -> Iterator[Entry]:
    if path.suffix in result_files.SUFFIXES:
        for place, row in enumerate(result_files.read_rows(path)):
            yield Entry(f"row {place + 1} of {path}", row)
        return
    for name, content in read_scores(path):
        yield Entry(str(path / name), _make_row(content, origin or str(path), name, path / name))


def _make_row(content: Content, origin: str, name: str, path: Path) -> result_files.Row:
    ends: dict[str, float] = {}
    for metric, found in content.uncertainty.items():
        ends |= {f"{metric}_{end}": value for end, value in found.items()}
    return {
        "origin": origin,
        **_describe_model(content, path),
        "nfe": content.nfe,
        **make_protocol(content),
        "samples": content.samples,
        **content.metrics,
        **ends,
        "version": ", ".join(f"{package} {number}" for package, number in content.versions.items()),
        "commit": content.commit,
        "trained_at": content.trained_at,
        "model_sha256": content.model_sha256,
        "file": name,
    }


def _describe_model(content: Content, path: Path) -> result_files.Row:
    """The run and sampler of samples; data set and split of real images; nothing of other images."""
    if content.run is None:
        tail = path.as_posix().rpartition(f"/{SCORES}/")[2]
        real = Layout().parse_baseline(f"{Layout().results}/{SCORES}/{tail}")
        return {"dataset": real["dataset"], "method": REAL, "variant": real["split"]} if real else {}
    run = RunName.parse(content.run)
    return {
        **dataclasses.asdict(run),
        "progress": content.progress,
        "ema_decay": content.ema_decay,
        "sampler": content.sampler,
    }


def make_protocol(score: Content | Score) -> result_files.Row:
    """The columns that say how images were scored."""
    protocol, extractor, reference = score.protocol, score.extractor, dict(score.reference)
    reference.pop("split_halves", None)
    text = json.dumps([protocol, extractor, reference], sort_keys=True)
    return {
        "protocol": protocol["name"],
        "extractor": extractor["name"],
        "resizer": protocol["resizer"],
        "quantization": score.quantization or protocol["quantization"],
        "extractor_precision": protocol.get("precision"),
        "reference": protocol["reference"],
        "statistics": protocol.get("statistics"),
        "protocol_samples": protocol["samples"],
        "extractor_sha256": str(extractor.get("sha256", ""))[:DIGITS],
        "reference_sha256": str(reference.get("sha256", ""))[:DIGITS],
        "protocol_digest": files.sha256(text.encode())[:DIGITS],
    }


# ---- what compares --------------------------------------------------------------------------------------------------


def _check_distinct(entries: Sequence[Entry]) -> None:
    seen: dict[str, Entry] = {}
    for entry in entries:
        key = json.dumps([entry.row.get("origin"), entry.row.get("file")])
        if key in seen:
            raise UserError(f"{entry.path} is given twice: it is also {seen[key].path}")
        seen[key] = entry


def _choose_protocol(entries: Sequence[Entry], protocol: str) -> list[Entry]:
    chosen = [entry for entry in entries if entry.row.get("protocol") == protocol]
    if not chosen:
        raise unknown("protocol", protocol, {entry.row.get("protocol") or "none" for entry in entries})
    return chosen


def _check_names(entries: Sequence[Entry]) -> None:
    """UserError for protocols of one name and data set that differ."""
    first: dict[tuple[Any, Any], Entry] = {}
    for entry in entries:
        row = entry.row
        other = first.setdefault((row.get("dataset"), row.get("protocol")), entry)
        if row.get("protocol_digest") != other.row.get("protocol_digest"):
            raise UserError(
                f"scores by different protocols of the name '{row.get('protocol')}' cannot stand in one table: "
                f"{describe_difference(other.row, row)} in {other.path}, "
                f"{describe_difference(row, other.row)} in {entry.path}"
            )


def describe_difference(row: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """In what the protocol of a row differs from that of another one, as the first has it."""
    columns = [name for name in result_files.OF_PROTOCOL if (row.get(name) or "") != (other.get(name) or "")]
    plain = [name for name in columns if name != "protocol_digest"] or columns
    return ", ".join(f"{name} {row.get(name) or 'none'}" for name in plain)


def _check_one_value(entries: Sequence[Entry], column: str, what: str) -> None:
    """UserError for entries of one data set with different values of a column."""
    by_dataset: dict[str, list[Entry]] = {}
    for entry in entries:
        by_dataset.setdefault(entry.row.get("dataset") or "", []).append(entry)
    for group in by_dataset.values():
        first = _first_of_each(group, column)
        if len(first) > 1:
            found = ", ".join(f"{value or 'none'} in {path}" for value, path in sorted(first.items()))
            raise UserError(
                f"scores by several {what} do not compare: {found}; choose one (--protocol), or take all (--mixed)"
            )


def _first_of_each(entries: Sequence[Entry], column: str) -> dict[Any, str]:
    """From each value of a column to the path of the first entry that has it."""
    first: dict[Any, str] = {}
    for entry in entries:
        first.setdefault(entry.row.get(column) or "", entry.path)
    return first
