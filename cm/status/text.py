"""The states of runs as text for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cm.cost.text import table
from cm.status.runs import STATES, RunStatus
from cm.utils.progress_bar import format_duration

HEADINGS = ("run", "state", "progress", "step", "loss", "images/s", "left")


def describe(suite: str, found: Sequence[RunStatus], height: int | None = None) -> str:
    """One line that counts the runs, and a table with a row for each of them, of at most `height` lines in all."""
    counts = Counter(status.state for status in found)
    parts = [f"{counts[state]} {state}" for state in STATES if counts[state]]
    title = f"suite {suite}, {len(found)} runs: {', '.join(parts)}"
    shown = len(found) if height is None else max(0, min(len(found), height - 4))
    rows = [HEADINGS, *map(_row, found[:shown])]
    lines = table(rows, left=2).splitlines()
    notes = ["", *(status.note for status in found[:shown])]
    body = [f"{line}   {note}".rstrip() for line, note in zip(_pad(lines), notes, strict=True)]
    rest = [f"  and {len(found) - shown} more"] if shown < len(found) else []
    return "\n".join([title, *body, *rest])


def _pad(lines: Sequence[str]) -> list[str]:
    """The lines, all as long as the longest."""
    width = max(map(len, lines))
    return [line.ljust(width) for line in lines]


def _row(status: RunStatus) -> tuple[str, ...]:
    progress = f"{100 * status.step // status.total_steps} %" if status.step else ""
    return (
        status.run,
        status.state,
        progress,
        f"{status.step}/{status.total_steps}" if status.step else "",
        "" if status.loss is None else f"{status.loss:.4g}",
        "" if status.images_per_second is None else f"{status.images_per_second:,.0f}",
        "" if status.seconds_left is None else format_duration(status.seconds_left),
    )
