"""Tables of scores as CSV and Parquet files: their columns, and the types of these."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm.errors import UserError
from cm.report.score_schema import check_metrics
from cm.utils import files, unpacking

if TYPE_CHECKING:
    from pandas import DataFrame, Series

SUFFIXES = (".csv", ".parquet")
LARGEST = 1 << 24  # bytes of a file, and values of a table
OF_MODEL = ("dataset", "method", "variant", "seed", "progress", "ema_decay", "sampler", "nfe")
OF_PROTOCOL = (
    "extractor",
    "resizer",
    "quantization",
    "extractor_precision",
    "reference",
    "statistics",
    "protocol_samples",
    "extractor_sha256",
    "reference_sha256",
    "protocol_digest",
)
OF_CODE = ("version", "commit", "trained_at", "model_sha256", "file")
OF_PUBLICATION = ("table", "group", "note")
BEFORE_METRICS = ("origin", *OF_MODEL, "protocol", "samples")
AFTER_METRICS = (*OF_PROTOCOL, *OF_CODE, *OF_PUBLICATION)
COUNTS = ("seed", "progress", "nfe", "samples", "protocol_samples")
OTHER_NUMBERS = ("ema_decay",)
ENDS = ("low", "high", "at_infinity")  # of the uncertainty of a metric: `fid_low`
_METRIC = re.compile(r"[a-z][a-z0-9_]{0,60}")

Row = dict[str, Any]  # from a column to text, a number, or None


def check_suffix(path: Path) -> None:
    """Raise UserError unless the file is to be CSV or Parquet."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} must end in {' or '.join(SUFFIXES)}")


def make_frame(rows: Sequence[Mapping[str, Any]]) -> DataFrame:
    """Rows as a table: known columns in a fixed order, with those of the metrics that any row has among them.

    Text that a row does not have is empty, a number missing.
    """
    import pandas

    metrics = dict.fromkeys(filter(is_metric, itertools.chain.from_iterable(rows)))
    columns = [*BEFORE_METRICS, *_with_ends(metrics), *AFTER_METRICS]
    return pandas.DataFrame({name: _make_column(name, rows) for name in columns})


def is_metric(name: str) -> bool:
    """Whether a column is that of a metric, or of an end of its uncertainty."""
    return name not in BEFORE_METRICS and name not in AFTER_METRICS


def split_metrics(row: Mapping[str, Any]) -> tuple[Row, dict[str, dict[str, float]]]:
    """The metrics of a row, and from a metric to the ends of its uncertainty that the row has."""
    numbers = {name: value for name, value in row.items() if is_metric(name)}
    metrics = {name: value for name, value in numbers.items() if _metric_of(name, numbers) == name}
    ends: dict[str, dict[str, float]] = {}
    for name, value in numbers.items():
        metric = _metric_of(name, numbers)
        if metric != name and value is not None:
            ends.setdefault(metric, {})[name[len(metric) + 1 :]] = value
    return metrics, ends


def _metric_of(name: str, known: Iterable[str]) -> str:
    """The metric that a column belongs to: `fid` for `fid_low`, and for itself."""
    for end in ENDS:
        metric = name.removesuffix(f"_{end}")
        if metric != name and metric in known:
            return metric
    return name


def _with_ends(metrics: Mapping[str, None]) -> list[str]:
    """The metrics in their order, each before the ends of its uncertainty."""
    order = list(dict.fromkeys(_metric_of(name, metrics) for name in metrics))
    return sorted(metrics, key=lambda name: (order.index(_metric_of(name, metrics)), _metric_of(name, metrics) != name))


def _make_column(name: str, rows: Sequence[Mapping[str, Any]]) -> Series:
    import pandas

    values = [row.get(name) for row in rows]
    if name in COUNTS:
        return pandas.Series(values, dtype="Int64")
    if name in OTHER_NUMBERS or is_metric(name):
        return pandas.Series(values, dtype="float64")
    return pandas.Series(["" if value is None else value for value in values], dtype="string")


def write(frame: DataFrame, path: Path) -> None:
    """Write a table as CSV, with all digits, or as Parquet. Raises UserError for another suffix."""
    check_suffix(path)
    with files.replace_file(path) as temporary:
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)


# ---- reading --------------------------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[Row]:
    """The rows of a table that `write` wrote, or that others wrote with its columns.

    Raises UserError, which names the file, if it is damaged, too large, has no column `origin` or `nfe`, or an unknown
    one without numbers, or if a number is none, or is outside of the range of what it measures.
    """
    check_suffix(path)
    if (size := files.check_regular(path).st_size) > LARGEST:
        raise UserError(f"{path} has {size} bytes, more than the {LARGEST} that are read of a table")
    columns = _read_csv(path) if path.suffix == ".csv" else _read_parquet(path)
    for name in ("origin", "nfe"):
        if name not in columns:
            raise UserError(f"{path} is no table of scores: it has no column '{name}'")
    for name in columns:
        if is_metric(name) and not _METRIC.fullmatch(name):
            raise UserError(f"{path}: '{name}' is no name of a column, which has small letters, digits and _")
    converted = {name: _convert(name, values, path) for name, values in columns.items()}
    rows = [dict(zip(converted, values, strict=True)) for values in zip(*converted.values(), strict=True)]
    for row in rows:
        metrics, _ = split_metrics(row)
        check_metrics(path, metrics, metrics)
    return rows


def _read_csv(path: Path) -> dict[str, list[Any]]:
    import csv

    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.reader(file, strict=True)
            heading, *lines = list(reader) or [[]]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a CSV file: {unpacking.describe(error)}") from None
    if len(set(heading)) < len(heading) or {*map(len, lines)} - {len(heading)}:
        raise UserError(f"{path} is no table of scores: its lines do not have one value for each column")
    columns = zip(*lines, strict=True) if lines else [()] * len(heading)
    return dict(zip(heading, map(list, columns), strict=True))


def _read_parquet(path: Path) -> dict[str, list[Any]]:
    """The columns. Text that repeats is one object in memory, as it may be in the file."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile, read_schema

    try:
        with ParquetFile(path, read_dictionary=read_schema(path).names) as file:
            if file.metadata.num_rows * file.metadata.num_columns > LARGEST:
                raise UserError(f"{path} has more than the {LARGEST} values that are read of a table")
            table = file.read()
        columns = zip(table.column_names, table.columns, strict=True)
        return {name: list(itertools.chain.from_iterable(map(_unpack, column.chunks))) for name, column in columns}
    except (ArrowException, *unpacking.ARCHIVE_ERRORS) as error:
        raise UserError(f"{path} is not a Parquet file: {unpacking.describe(error)}") from None


def _unpack(chunk: Any) -> list[Any]:
    """The values of a part of a column of Arrow."""
    if not hasattr(chunk, "dictionary"):
        values: list[Any] = chunk.to_pylist()
        return values
    known = chunk.dictionary.to_pylist()
    return [None if place is None else known[place] for place in chunk.indices.to_pylist()]


def _convert(name: str, values: Sequence[Any], path: Path) -> list[Any]:
    """The values of a column as text, whole numbers or numbers; None for a number that is missing."""
    if name in COUNTS:
        return [_convert_number(value, int, name, path) for value in values]
    if name in OTHER_NUMBERS or is_metric(name):
        return [_convert_number(value, float, name, path) for value in values]
    return ["" if value is None else str(value) for value in values]


def _convert_number(value: Any, kind: Callable[[Any], Any], name: str, path: Path) -> Any:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    try:
        number = kind(value)
        if 0 <= number <= 10**12 or kind is float:
            return number
    except (ValueError, TypeError, OverflowError):
        pass
    what = "a number" if kind is float else "a whole number that is not negative"
    raise UserError(f"{path}: {name} must be {what}, not {value!r:.60}")
