"""A table as a table: rows with notes, and its CSV in full precision, Markdown and LaTeX rounded.

A column `X, std` belongs to the column `X`, and is printed behind its value there: `2.93 ± 0.10`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

STD = ", std"
DASH = "\u2013"


def table(rows: Sequence[Mapping[str, Any]], notes: list[str], best: tuple[int, str] | None = None) -> DataFrame:
    """The rows as a table of Python objects; `attrs`: its `notes`, and the row and column of its `best` value."""
    import pandas

    names = dict.fromkeys(name for row in rows for name in row)
    made = pandas.DataFrame([[row.get(name) for name in names] for row in rows], columns=list(names), dtype=object)
    made.attrs = {"notes": notes, "best": best}
    return made


def text(value: Any) -> str:
    """A setting as the YAML has it."""
    return {"None": "none", "True": "yes", "False": "no"}.get(str(value), str(value))


def save(table: DataFrame, stem: Path, caption: str) -> None:
    """Write `<stem>.csv`, `.md` and `.tex`."""
    from cm.files import replacing

    cells = _printed(table)
    texts = {
        "csv": table.to_csv(index=False),
        "md": _markdown(cells, caption, table.attrs["notes"]),
        "tex": _latex(cells, caption, table.attrs["notes"], stem.name),
    }
    for suffix, text in texts.items():
        with replacing(stem.parent / f"{stem.name}.{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")


def _printed(table: DataFrame) -> dict[str, list[str]]:
    """Heading to cells as text, deviations behind their means, the best value in asterisks."""
    columns = {name: table[name].tolist() for name in table if not name.endswith(STD)}
    stds = {name: table.get(name + STD, [None] * len(table)) for name in columns}
    cells = {name: [_number(*pair) for pair in zip(columns[name], stds[name], strict=True)] for name in columns}
    if table.attrs["best"]:
        row, name = table.attrs["best"]
        cells[name][row] = f"**{cells[name][row]}**"
    return cells


def _number(value: Any, std: float | None = None) -> str:
    """Three significant digits, as the paper prints, and the deviation to the same decimal."""
    if value is None:
        return DASH
    if not isinstance(value, float):
        return str(value)
    decimals = min(max(2 - math.floor(math.log10(abs(value))), 0), 4) if value else 2
    return f"{value:.{decimals}f}" + (f" ± {std:.{decimals}f}" if std is not None else "")


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
    return text.replace("±", "$\\pm$").replace(DASH, "--")


def _alignment(cells: Mapping[str, list[str]]) -> list[str]:
    numeric = re.compile(rf"{DASH}|[*-]*\d.*")
    return ["right" if all(numeric.fullmatch(cell) for cell in column) else "left" for column in cells.values()]
