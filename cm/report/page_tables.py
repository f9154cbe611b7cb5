"""Tables as the page shows them: read back from the Markdown that `cm.report.writing` wrote, rounded and with notes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cm.errors import UserError

BEST = re.compile(r"\*\*(.+)\*\*")
PUBLISHED = "published "  # how the headings of published numbers begin


@dataclass(frozen=True)
class Column:
    """A column by its heading. `numeric`: whether its cells are aligned to the right."""

    heading: str
    numeric: bool

    @property
    def published(self) -> bool:
        """Whether it holds published numbers, not measured ones."""
        return self.heading.startswith(PUBLISHED)

    @property
    def metric(self) -> str:
        """The metric of a heading such as `published FID, CIFAR-10, Inception`; the Frechet distance is always `FD`."""
        name = self.heading.removeprefix(PUBLISHED).partition(",")[0]
        return {"FID": "FD"}.get(name, name)


@dataclass(frozen=True)
class Cell:
    """The text of a cell, and whether it is the best value of its table."""

    text: str
    best: bool


@dataclass(frozen=True)
class Table:
    """A table: its columns, the cells of each row, and the footnotes."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str]


def read_table(path: Path) -> Table:
    """The table in a Markdown file of `cm draw`. Raises UserError for a file that holds none."""
    lines = _read_lines(path)
    places = [index for index, line in enumerate(lines) if line.startswith("|")]
    rows = [_split(lines[index]) for index in places]
    if len(rows) < 2 or len({len(row) for row in rows}) > 1:
        raise UserError(f"{path} is not a table: expected Markdown as `cm draw` writes it")
    headings, rules, *cells = rows
    columns = [Column(_unescape(heading), rule.endswith(":")) for heading, rule in zip(headings, rules, strict=True)]
    order = _pair_columns(columns)
    return Table(
        [columns[place] for place in order],
        [_read_cells(row, order) for row in cells],
        [_unescape(line) for line in lines[places[-1] + 1 :] if line],
    )


def _pair_columns(columns: Sequence[Column]) -> list[int]:
    """The places of the columns in an order in which each published number follows the measured one of its metric."""
    order = [place for place, column in enumerate(columns) if not column.published]
    for place, column in enumerate(columns):
        if column.published:
            pairs = [after for after, at in enumerate(order, 1) if columns[at].metric == column.metric]
            order.insert(pairs[0] if pairs else len(order), place)
    return order


def _read_lines(path: Path) -> list[str]:
    """The lines of a text; UserError if it is not UTF-8."""
    from cm.utils import files

    files.check_regular(path)
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8") from None


def _split(line: str) -> list[str]:
    """The cells of a line of Markdown. A bar within a cell stands behind a backslash."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _read_cells(row: Sequence[str], order: Sequence[int]) -> list[Cell]:
    return [_read_cell(row[place]) for place in order]


def _read_cell(text: str) -> Cell:
    best = BEST.fullmatch(text)
    return Cell(_unescape(best[1] if best else text), best is not None)


def _unescape(text: str) -> str:
    """The inverse of the escapes in `cm.report.writing`."""
    return re.sub(r"\\([|~<])|(?<=\])\\(\()", lambda found: found[1] or found[2], text)
