"""Numbers and tables as a researcher reads them in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def si(value: float, unit: str = "") -> str:
    """`219.3 GFLOPs`, `56.40 M`: four digits and a prefix; below a thousand, the number."""
    size, prefix = next(((size, prefix) for size, prefix in PREFIXES if value >= size), (1, ""))
    return f"{value / size:{'#' if prefix else ''}.4g} {prefix}{unit}".rstrip()


def scientific(value: float) -> str:
    """`1.23e21`: FLOPs of whole trainings."""
    return f"{value:.2e}".replace("e+", "e") if value else "0"


def hours(seconds: float) -> str:
    """`5,555`, `72.5`, `0.03`, `< 0.01`."""
    value = seconds / 3600
    if value < 0.01:
        return "< 0.01" if value else "0"
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}" if value >= 1 else f"{value:.2f}"


def table(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Rows of cells in columns, the first `left` of these to the left and the others to the right; no cells: a gap."""
    columns = max(map(len, rows))
    widths = [max(len(row[index]) for row in rows if index < len(row)) for index in range(columns)]
    return "\n".join(("  " + "  ".join(_padded(row, widths, left))).rstrip() for row in rows)


def _padded(row: Sequence[str], widths: Sequence[int], left: int) -> list[str]:
    cells = enumerate(zip(row, widths, strict=False))
    return [cell.ljust(width) if index < left else cell.rjust(width) for index, (cell, width) in cells]
