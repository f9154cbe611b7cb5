"""What the log of a command says of how the command ended."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

TAIL = 1 << 16  # bytes that are read of a log
ERROR = re.compile(r"cm(?: [a-z]+)?: error: (.*)")
RAISED = re.compile(r"(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt|Exit)\b.*")  # the last line of a traceback
INTERRUPTED = re.compile(r"cm(?: [a-z]+)?: ((?:SIG[A-Z0-9]+|ended by|interrupted).*)")


def find_error(path: Path) -> str | None:
    """The last error in a log, None if there is none, or if a signal ended the command, which is no error."""
    for line in reversed(_tail(path)):
        if INTERRUPTED.fullmatch(line):
            return None
        if match := ERROR.fullmatch(line):
            return match[1]
        if RAISED.fullmatch(line):
            return line
    return None


def _tail(path: Path) -> list[str]:
    """The last lines of a file, without control characters; none of a file that cannot be read."""
    text = b""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
        text = file.read(TAIL)
    return [_clean(line) for line in text.decode(errors="replace").splitlines()]


def _clean(line: str) -> str:
    return "".join(letter for letter in line if letter.isprintable()).strip()
