"""A table with footnotes, written as CSV in full precision, and as Markdown and LaTeX with rounded numbers.

The columns `X, std` and `X, low`, `X, high` belong to the column `X`. In Markdown and LaTeX they stand behind its
value: `2.93 ± 0.10`, `2.93 [2.90, 2.97]`. Only these two mark the best value and the values with a dagger.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

STD, LOW, HIGH = PARTS = (", std", ", low", ", high")
DASH = "\u2013"
DAGGER = "\u2020"
SMALLEST = 5e-5  # numbers below have an exponent
WORDS = {"None": "none", "True": "yes", "False": "no"}

Place = tuple[int, str]  # row and column
Cells = dict[str, list[str]]  # from a heading to the text of each cell below it


def table(
    rows: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    *,
    best: Place | None = None,
    marked: Sequence[Place] = (),
) -> DataFrame:
    """The rows as a table of Python objects, in which columns that belong to another one follow it.

    Its `attrs` hold the footnotes `notes`, the place of the `best` value, and the places `marked` with a dagger.
    """
    import pandas

    names = _order_columns(rows)
    values = [_in_order(row, names) for row in rows]
    frame = pandas.DataFrame(values, columns=names, dtype=object)
    frame.attrs = {"notes": list(notes), "best": best, "marked": list(marked)}
    return frame


def _order_columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    known: dict[str, None] = {}
    for row in rows:
        known |= dict.fromkeys(row)
    names: list[str] = []
    for name in known:
        if not name.endswith(PARTS):
            names += [name, *(name + part for part in PARTS if name + part in known)]
    return names


def _in_order(row: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    return [row.get(name) for name in names]


def format_setting(value: Any) -> str:
    """A setting in words: `none`, `yes` and `no` for None, True and False; a component with its settings behind it."""
    if isinstance(value, Mapping):
        settings = [f"{key} {format_setting(inner)}" for key, inner in value.items() if key != "name"]
        return ", ".join([str(value["name"]), *settings] if "name" in value else settings)
    return WORDS.get(str(value), str(value))


def save(frame: DataFrame, stem: Path, caption: str) -> None:
    """Write `<stem>.csv`, `.md` and `.tex`, all or none."""
    from cm.utils.files import replace_files

    cells, notes = _format_cells(frame), frame.attrs["notes"]
    texts = {
        "csv": frame.to_csv(index=False),
        "md": markdown(frame, caption),
        "tex": _write_latex(cells, caption, notes, stem.name),
    }
    with replace_files(stem.parent / f"{stem.name}.{suffix}" for suffix in texts) as paths:
        for path, text in zip(paths, texts.values(), strict=True):
            path.write_text(text, encoding="utf-8")


def markdown(frame: DataFrame, caption: str = "") -> str:
    """The table as Markdown, with its caption above and its footnotes below."""
    return _write_markdown(_format_cells(frame), caption, frame.attrs["notes"])


# ---- cells ----------------------------------------------------------------------------------------------------------


def _format_cells(frame: DataFrame) -> Cells:
    """The cells as text, with deviations and intervals behind their values and the best value in asterisks."""
    cells = {name: _format_column(frame, name) for name in frame if not name.endswith(PARTS)}
    for row, name in frame.attrs["marked"]:
        cells[name][row] += DAGGER
    if frame.attrs["best"]:
        row, name = frame.attrs["best"]
        cells[name][row] = f"**{cells[name][row]}**"
    return cells


def _format_column(frame: DataFrame, name: str) -> list[str]:
    parts = [frame.get(name + part, [None] * len(frame)) for part in PARTS]
    return [_format_number(*values) for values in zip(frame[name], *parts, strict=True)]


def _format_number(value: Any, std: float | None = None, low: float | None = None, high: float | None = None) -> str:
    """Three significant digits, as in the paper, and the deviation or the interval to the same decimal place.

    A number is cut off at four decimals; if that leaves none of its digits, and it stands alone, it has an exponent.
    """
    if value is None:
        return DASH
    if not isinstance(value, float):
        return str(value)
    if 0 < abs(value) < SMALLEST and std is None and low is None:
        return f"{value:.2e}"
    decimals = min(max(2 - math.floor(math.log10(abs(value))), 0), 4) if value else 2
    deviation = f" ± {std:.{decimals}f}" if std is not None else ""
    interval = f" [{low:.{decimals}f}, {high:.{decimals}f}]" if low is not None and high is not None else ""
    return f"{value:.{decimals}f}{deviation}{interval}"


def _align(cells: Cells) -> list[str]:
    """Numbers to the right, text to the left."""
    numeric = re.compile(rf"{DASH}|[*-]*\d.*")
    return ["right" if all(map(numeric.fullmatch, column)) else "left" for column in cells.values()]


# ---- Markdown -------------------------------------------------------------------------------------------------------


def _write_markdown(cells: Cells, caption: str, notes: Sequence[str]) -> str:
    from tabulate import tabulate

    escaped = {_escape_markdown(name): list(map(_escape_markdown, column)) for name, column in cells.items()}
    body = tabulate(escaped, headers="keys", tablefmt="pipe", disable_numparse=True, colalign=_align(cells))
    above = [_escape_markdown(caption)] if caption else []
    return "\n\n".join([*above, body, *map(_escape_markdown, notes)]) + "\n"


def _escape_markdown(text: str) -> str:
    """Text in which Markdown sees neither a column, a deletion, a tag of HTML nor a link."""
    return re.sub(r"([|~<]|(?<=\])\()", r"\\\1", text)


# ---- LaTeX ----------------------------------------------------------------------------------------------------------


def _write_latex(cells: Cells, caption: str, notes: Sequence[str], name: str) -> str:
    """A floating table no wider than the text."""
    from tabulate import tabulate

    body = tabulate(cells, headers="keys", tablefmt="latex_booktabs", disable_numparse=True, colalign=_align(cells))
    return "\n".join(
        [
            "% \\usepackage{booktabs, adjustbox}",
            "\\begin{table}",
            f"\\caption{{{_escape_latex(' '.join([caption, *notes]))}}}",
            f"\\label{{tab:{name}}}",
            "\\begin{adjustbox}{max width=\\textwidth, max totalheight=0.85\\textheight, center}",
            _replace_signs(re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", body)),
            "\\end{adjustbox}",
            "\\end{table}",
            "",
        ]
    )


def _escape_latex(text: str) -> str:
    names = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    return _replace_signs("".join(names.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text))


def _replace_signs(text: str) -> str:
    return text.replace("±", "$\\pm$").replace(DASH, "--").replace(DAGGER, "$\\dagger$")
