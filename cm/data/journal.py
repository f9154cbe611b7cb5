"""Which chunks of a file are done: a text file that only grows, so that a kill at any moment leaves it usable."""

from __future__ import annotations

import os
from pathlib import Path


class Journal:
    """Numbers under a `header` that says what they are about; under another header nothing is done."""

    def __init__(self, path: Path, header: str) -> None:
        self.path, self._header = path, header
        self.done = self._read()

    def start_over(self) -> None:
        """Nothing is done."""
        self.done = set()
        self._write(self._header)

    def add(self, number: int) -> None:
        """This one is done, and is so after a crash of the machine too."""
        self.done.add(number)
        self._write(str(number), "a")

    def _read(self) -> set[int]:
        """A last line without its end was cut off by a kill: it does not count, and is cut off here."""
        text = self.path.read_text() if self.path.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()
        if not lines or lines[0] != self._header:
            return set()
        os.truncate(self.path, sum(len(line.encode()) + 1 for line in lines))
        return {int(line) for line in lines[1:]}

    def _write(self, line: str, mode: str = "w") -> None:
        with open(self.path, mode) as file:
            file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())
