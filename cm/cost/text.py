"""Numbers and tables as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))

Row = tuple[str, ...]  # the cells of a row from the left; no cells make an empty line


def si(value: float, unit: str = "") -> str:
    """`219.3 GFLOPs`, `56.40 M`: four digits and a prefix; below a thousand, the number without a prefix."""
    size, prefix = next(((size, prefix) for size, prefix in PREFIXES if value >= size), (1, ""))
    return f"{value / size:{'#' if prefix else ''}.4g} {prefix}{unit}".rstrip()


def scientific(value: float) -> str:
    """`1.23e21`, for the FLOPs of whole trainings."""
    return f"{value:.2e}".replace("e+", "e") if value else "0"


def hours(seconds: float) -> str:
    """Seconds in hours: `5,555`, `72.5`, `0.03`, `< 0.01`."""
    value = seconds / 3600
    if value < 0.01:
        return "< 0.01" if value else "0"
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}" if value >= 1 else f"{value:.2f}"


def table(rows: Sequence[Row], *, left: int = 1) -> str:
    """Rows in aligned columns, the first `left` of them to the left and the others to the right."""
    widths = [0] * max(map(len, rows))
    for row in rows:
        for index, cell in enumerate(row):
            widths[index] = max(widths[index], len(cell))
    return "\n".join(_align(row, widths, left) for row in rows)


def _align(row: Row, widths: Sequence[int], left: int) -> str:
    cells = [cell.ljust(width) for cell, width in zip(row[:left], widths, strict=False)]
    cells += [cell.rjust(width) for cell, width in zip(row[left:], widths[left:], strict=False)]
    return ("  " + "  ".join(cells)).rstrip()
