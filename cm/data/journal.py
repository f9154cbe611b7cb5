"""A record of which chunks of a file are finished: a text file that only grows, so that it survives a kill."""

from __future__ import annotations

import os
import re
from pathlib import Path

NUMBER = re.compile("[0-9]{1,18}")


class Journal:
    """The numbers of the finished chunks, `done`, in a text file below a line that says what they describe.

    `header`: that line; numbers below another header do not count.
    """

    def __init__(self, path: Path, header: str) -> None:
        self.path, self._header = path, header
        self.done = self._read()

    def start_over(self) -> None:
        """Forget all numbers."""
        self.done = set()
        self._write(self._header)

    def add(self, number: int) -> None:
        """Record a number; when this returns, the record survives even a crash of the machine."""
        self.done.add(number)
        self._write(str(number), "a")

    def _read(self) -> set[int]:
        """Read the numbers. A last line without a line end was interrupted by a kill: it is removed and ignored."""
        text = self.path.read_text(errors="replace") if self.path.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()
        if not lines or lines[0] != self._header:
            return set()
        os.truncate(self.path, sum(len(line.encode()) + 1 for line in lines))
        return {int(line) for line in lines[1:]} if all(map(NUMBER.fullmatch, lines[1:])) else set()

    def _write(self, line: str, mode: str = "w") -> None:
        with open(self.path, mode) as file:
            file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())
