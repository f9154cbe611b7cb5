"""Checks of what a command is to write, before it works: that it can be written, and that no input would be lost."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from cm.errors import UserError

LONGEST = 3968  # bytes of a path: those that Linux permits, less the name of a temporary folder


@dataclass(frozen=True)
class Input:
    """A file or folder that a command reads. `reads`: whether a file in such a folder, relative to it, is read."""

    path: Path
    reads: Callable[[Path], bool] = lambda path: True


def check_file(path: Path) -> None:
    """Raises UserError unless a file could be written at `path`; what is there already must be a file.

    The folders above it need not exist. Nothing is written.
    """
    status = _check_place(path)
    if status is None:
        return
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path} is a folder, not a file to write")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is not a regular file: it would be replaced")


def check_folder(path: Path) -> None:
    """Raises UserError unless files could be written in a folder `path`, which need not exist. Nothing is written."""
    status = _check_place(path)
    if status is not None and not stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path} is a file, not a folder to write")
    if status is not None:
        _check_writable(path, path)


def check_new(path: Path) -> None:
    """Raises UserError if there is something at `path`, which may be a file or a folder."""
    if os.path.lexists(path):
        raise UserError(f"{path} exists already")


def check_distinct(outputs: Iterable[Path], inputs: Iterable[Input]) -> None:
    """Raises UserError if a file to write is an input, or one of the files of an input, or another file to write."""
    inputs, written = list(inputs), set[Path]()
    for output in outputs:
        place = _resolve(output)
        if any(_is_input(place, given) for given in inputs):
            raise UserError(f"{output} is an input of this command and would be overwritten: write another file")
        if place in written:
            raise UserError(f"{output} would be written twice: give different files")
        written.add(place)


def _is_input(place: Path, given: Input) -> bool:
    """Whether the file at `place` is an input, or is there and lies in a folder whose files are."""
    read = _resolve(given.path)
    return place == read or (read in place.parents and place.is_file() and given.reads(place.relative_to(read)))


def _resolve(path: Path) -> Path:
    """The path without links; where it leads into a circle of links, or is too long, the path itself."""
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError):
        return path


def _check_place(path: Path) -> os.stat_result | None:
    """The status of what is at `path`, None if nothing is; UserError if nothing can be written there."""
    above = [path.absolute(), *path.absolute().parents]
    try:
        found = next(part for part in above if os.path.lexists(part) or part == part.parent)
        status = found.stat() if found.exists() else None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from None
    if found == above[0]:
        _check_writable(found.parent, path)
        return status
    if status is None or not stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path} cannot be written: {found} is not a folder")
    _check_names(path, above[: above.index(found)], found)
    _check_writable(found, path)
    return None


def _check_names(path: Path, parts: Iterable[Path], folder: Path) -> None:
    """UserError if the path, or one of its parts that are to be created in `folder`, is too long for a file system."""
    longest = os.pathconf(folder, "PC_NAME_MAX")
    if len(os.fsencode(path.absolute())) > LONGEST or any(len(os.fsencode(part.name)) > longest for part in parts):
        raise UserError(f"{path} cannot be written: its name is too long")


def _check_writable(folder: Path, path: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        reason = "is on a read-only file system" if read_only else "is not writable"
        raise UserError(f"{path} cannot be written: {folder} {reason}")
