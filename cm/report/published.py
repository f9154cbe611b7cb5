"""Published numbers, to stand beside measured ones: those of the paper, and of the papers of its successors.

`published.csv` holds them as printed. Its column `table` is the paper's `table1` or `table2`, or `successors`. Beside
the numbers of the authors, `fastgen_fid` has those that NVIDIA's FastGen reports of its own trainings of a method.
"""

from __future__ import annotations

import csv
import functools
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm.errors import UserError, unknown
from cm.report import headings

if TYPE_CHECKING:
    from pandas import DataFrame

    from cm.config import Artefact
    from cm.config.claims import PublishedRow

FILE = Path(__file__).with_name("published.csv")
SUCCESSORS = "successors"  # numbers of later papers

KEYS = ("table", "dataset", "group")  # what selects rows; without `group`, those of all groups
METRICS = ("fid", "inception_score", "precision", "recall")  # columns of published.csv
FASTGEN = "fastgen_fid"  # another one
FASTGEN_ORIGIN = "FastGen (NVIDIA), a training of its own"
FASTGEN_NOTE = "Those by FastGen are of NVIDIA's own trainings of the methods, as its README reports them."

Row = dict[str, str | None]


def published(artefact: Artefact) -> dict[tuple[str, int], Row]:
    """The published rows that an artefact names: from method and NFE to heading to number as printed.

    Empty if it names none. Raises UserError for an unknown table or data set.
    """
    rows = read_rows(artefact)
    titles = (
        {key: title for key, title in _titles(artefact.published).items() if _any_filled(rows, key)} if rows else {}
    )
    return {(row["method"], int(row["nfe"])): _with_titles(row, titles) for row in rows}


def read_rows(artefact: Artefact) -> list[dict[str, str]]:
    """The rows of published.csv that an artefact names; UserError for an unknown table or data set."""
    wanted = artefact.published
    if not wanted:
        return []
    where = f"artefact {artefact.name}, published"
    for key in wanted:
        if key not in KEYS:
            raise unknown("key", key, KEYS, where)
    rows = _select({"table": wanted.get("table"), "dataset": wanted.get("dataset"), **wanted}, where)
    if not rows:
        of = " of ".join(wanted[key] for key in KEYS[:0:-1] if key in wanted)
        raise UserError(f"artefact {artefact.name}: {wanted['table']} has no published numbers of {of}")
    return rows


def collect(table: str | None = None, dataset: str | None = None) -> DataFrame:
    """The published numbers as a table with the columns of `cm.report.results`; `origin` is the table they stand in.

    Numbers that FastGen reports of its own trainings are rows of their own.

    Their protocol is that of their authors, and not known to this suite. Raises UserError for an unknown `table` or
    `dataset`, and for a table without numbers of the data set.
    """
    from cm.report.result_files import make_frame

    wanted = {key: value for key, value in (("table", table), ("dataset", dataset)) if value is not None}
    rows = _select(wanted, "published numbers")
    if not rows:
        raise UserError(f"{table} has no published numbers of {dataset}")
    return make_frame(list(itertools.chain.from_iterable(map(_with_origins, rows))))


def _with_origins(row: dict[str, str]) -> list[dict[str, Any]]:
    """The row of the authors, with the table that it stands in, and that of FastGen's training, if there is one."""
    about: dict[str, Any] = {key: text for key, text in row.items() if key != FASTGEN}
    about |= {"nfe": int(row["nfe"]), "extractor": "inception"}
    numbers = {metric: float(row[metric]) if row[metric] else None for metric in METRICS}
    origin = row["note"] if row["table"] == SUCCESSORS else f"Song et al. 2023, Table {row['table'][-1]}"
    rows = [{**about, **numbers, "origin": origin}]
    if row[FASTGEN]:
        rows.append({**about, **dict.fromkeys(METRICS), "fid": float(row[FASTGEN]), "origin": FASTGEN_ORIGIN})
    return rows


@functools.cache
def _read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of the file; nothing may change them."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def _select(wanted: Mapping[str, str | None], where: str) -> list[dict[str, str]]:
    """The rows with these values; UserError for a value that no row has."""
    every = _read_rows(FILE)
    for key, value in wanted.items():
        _check_known(key, value, every, where)
    return [row for row in every if wanted.items() <= row.items()]


def _check_known(key: str, value: str | None, rows: list[dict[str, str]], where: str) -> None:
    known = {row[key] for row in rows}
    if value not in known:
        raise unknown(key, value, known, where)


def find_number(row: PublishedRow, metric: str, where: str) -> str:
    """A published number as printed; UserError, which names `where`, for a row or number that is not published."""
    wanted = {"table": row.table, "dataset": row.dataset, "method": row.method, "nfe": str(row.nfe)}
    rows = _read_rows(FILE)
    for key, value in wanted.items():
        _check_known(key, value, rows, f"{where}, published")
        rows = [one for one in rows if one[key] == value]
    number = rows[0].get(metric)
    if not number:
        raise UserError(f"{where}: no {metric} is published of {' '.join(wanted.values())}")
    return number


def _any_filled(rows: list[dict[str, str]], key: str) -> bool:
    return any(row.get(key) for row in rows)


def _with_titles(row: dict[str, str], titles: dict[str, str]) -> Row:
    return {title: row[key] or None for key, title in titles.items()}


def _titles(wanted: dict[str, str]) -> dict[str, str]:
    """From a column of published.csv to the heading of the table."""
    where = f"{headings.dataset_title(wanted['dataset'])}, {headings.extractor_title('inception')}"
    titles = {metric: f"published {headings.metric_title(metric)}, {where}" for metric in METRICS}
    if wanted["table"] == SUCCESSORS:
        titles[FASTGEN] = f"{headings.metric_title('fid')} by FastGen, {where}"
        return {**titles, "group": "group", "note": "source of the published numbers"}
    return {**titles, "group": "group in the paper", "note": "note in the paper"}


def describe_origin(artefact: Artefact, dataset: str, extractor: str) -> list[str]:
    """A footnote on whose numbers the published ones are, and how measured ones of `dataset` and `extractor` differ.

    `dataset`: the registered data set.
    """
    if not artefact.published:
        return []
    successors = artefact.published["table"] == SUCCESSORS
    authors = "the successors' papers as listed" if successors else "the paper (Song et al. 2023)"
    differences = [
        *([] if dataset == artefact.published["dataset"] else ["other data"]),
        *([] if extractor == "inception" else ["another extractor"]),
    ]
    others = ["They come from other implementations and other networks than the measured ones."]
    apart = f", for {' and '.join(differences)}" if differences else ""
    return [
        f"Published numbers are those of {authors}{apart}.",
        *([FASTGEN_NOTE] if successors else []),
        *(others if "group" in artefact.published else []),
    ]
