"""The licences of data, pretrained weights and published checkpoints: one table, `licences.csv`.

Model cards, the descriptions of pretrained weights and `docs/licences.md` take them from it. Its columns: `kind`
(`data`, `weights` or `checkpoints`), `name` (of the registered data set or weights), `title`, `licence` as it is
stated, `hub` (the identifier that model hubs use for it), `conditions` that matter for what is made from it, `url` with
which the addresses of its files begin, and `source`, where the licence is stated.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_suffix(".csv")
HEADINGS = ("what", "licence", "conditions", "stated at")


@dataclass(frozen=True)
class Licence:
    """A line of the table; the module explains the fields."""

    kind: str
    name: str
    title: str
    licence: str
    hub: str
    conditions: str
    url: str
    source: str

    def describe(self) -> str:
        """`CC BY-NC-SA 4.0 (non-commercial; ...)`."""
        return f"{self.licence} ({self.conditions})" if self.conditions else self.licence


@functools.cache
def read_licences() -> tuple[Licence, ...]:
    """All lines of the table, in its order."""
    with open(FILE, newline="", encoding="utf-8") as file:
        return tuple(Licence(**row) for row in csv.DictReader(file))


def find_licence(kind: str, name: str) -> Licence | None:
    """The licence of a registered data set (`data`) or of pretrained weights (`weights`), None for an unknown one."""
    return next((line for line in read_licences() if (line.kind, line.name) == (kind, name)), None)


def find_licence_of_url(url: str) -> Licence | None:
    """The licence of the published file at an address, None for an unknown one.

    Of several lines whose `url` the address begins with, that of the longest.
    """
    found = [line for line in read_licences() if line.url and url.startswith(line.url)]
    return max(found, key=lambda line: len(line.url), default=None)


def write_table(kind: str) -> str:
    """The licences of a kind as a table in Markdown."""
    from tabulate import tabulate

    rows = [
        (line.title, line.licence, line.conditions or "none stated", line.source)
        for line in read_licences()
        if line.kind == kind
    ]
    return tabulate(rows, headers=HEADINGS, tablefmt="pipe")
