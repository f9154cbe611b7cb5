"""A table as a table: rows with notes, and its CSV in full precision, Markdown and LaTeX rounded.

Columns `X, std` and `X, low`, `X, high` belong to the column `X`, and are printed behind its value there:
`2.93 ± 0.10`, `2.93 [2.90, 2.97]`. Values are marked in print only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

STD, LOW, HIGH = PARTS = (", std", ", low", ", high")
DASH = "\u2013"
DAGGER = "\u2020"

Place = tuple[int, str]


def table(
    rows: Sequence[Mapping[str, Any]], notes: list[str], *, best: Place | None = None, marked: Sequence[Place] = ()
) -> DataFrame:
    """The rows as a table of Python objects, columns that belong to one behind it.

    `attrs`: its `notes`, and row and column of its `best` value and of those `marked` with a dagger.
    """
    import pandas

    known = dict.fromkeys(name for row in rows for name in row)
    names = [name + part for name in known if not name.endswith(PARTS) for part in ("", *PARTS) if name + part in known]
    made = pandas.DataFrame([[row.get(name) for name in names] for row in rows], columns=names, dtype=object)
    made.attrs = {"notes": notes, "best": best, "marked": list(marked)}
    return made


def text(value: Any) -> str:
    """A setting as the YAML has it."""
    return {"None": "none", "True": "yes", "False": "no"}.get(str(value), str(value))


def save(table: DataFrame, stem: Path, caption: str) -> None:
    """Write `<stem>.csv`, `.md` and `.tex`."""
    from cm.utils.files import replace_file

    cells = _printed(table)
    texts = {
        "csv": table.to_csv(index=False),
        "md": _markdown(cells, caption, table.attrs["notes"]),
        "tex": _latex(cells, caption, table.attrs["notes"], stem.name),
    }
    for suffix, text in texts.items():
        with replace_file(stem.parent / f"{stem.name}.{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")


def _printed(table: DataFrame) -> dict[str, list[str]]:
    """Heading to cells as text, deviations and intervals behind their values, the best value in asterisks."""
    cells = {name: _column(table, name) for name in table if not name.endswith(PARTS)}
    for row, name in table.attrs["marked"]:
        cells[name][row] += DAGGER
    if table.attrs["best"]:
        row, name = table.attrs["best"]
        cells[name][row] = f"**{cells[name][row]}**"
    return cells


def _column(table: DataFrame, name: str) -> list[str]:
    parts = [table.get(name + part, [None] * len(table)) for part in PARTS]
    return [_number(*values) for values in zip(table[name], *parts, strict=True)]


def _number(value: Any, std: float | None = None, low: float | None = None, high: float | None = None) -> str:
    """Three significant digits, as the paper prints, and the deviation or the interval to the same decimal."""
    if value is None:
        return DASH
    if not isinstance(value, float):
        return str(value)
    decimals = min(max(2 - math.floor(math.log10(abs(value))), 0), 4) if value else 2
    deviation = f" ± {std:.{decimals}f}" if std is not None else ""
    interval = f" [{low:.{decimals}f}, {high:.{decimals}f}]" if low is not None and high is not None else ""
    return f"{value:.{decimals}f}{deviation}{interval}"


def _markdown(cells: Mapping[str, list[str]], caption: str, notes: Sequence[str]) -> str:
    from tabulate import tabulate

    safe = {_plain(name): [_plain(cell) for cell in column] for name, column in cells.items()}
    text = tabulate(safe, headers="keys", tablefmt="pipe", disable_numparse=True, colalign=_alignment(cells))
    return "\n\n".join([caption, text, *notes]) + "\n"


def _plain(text: str) -> str:
    """Text in which Markdown sees no column and nothing struck out."""
    return re.sub(r"([|~])", r"\\\1", text)


def _latex(cells: Mapping[str, list[str]], caption: str, notes: Sequence[str], name: str) -> str:
    """A floating table no wider than the text."""
    from tabulate import tabulate

    body = tabulate(cells, headers="keys", tablefmt="latex_booktabs", disable_numparse=True, colalign=_alignment(cells))
    return "\n".join(
        [
            "% \\usepackage{booktabs, adjustbox}",
            "\\begin{table}",
            f"\\caption{{{_escaped(' '.join([caption, *notes]))}}}",
            f"\\label{{tab:{name}}}",
            "\\begin{adjustbox}{max width=\\textwidth, max totalheight=0.85\\textheight, center}",
            _tex_signs(re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", body)),
            "\\end{adjustbox}",
            "\\end{table}",
            "",
        ]
    )


def _escaped(text: str) -> str:
    signs = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    return _tex_signs("".join(signs.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text))


def _tex_signs(text: str) -> str:
    return text.replace("±", "$\\pm$").replace(DASH, "--").replace(DAGGER, "$\\dagger$")


def _alignment(cells: Mapping[str, list[str]]) -> list[str]:
    numeric = re.compile(rf"{DASH}|[*-]*\d.*")
    return ["right" if all(numeric.fullmatch(cell) for cell in column) else "left" for column in cells.values()]
