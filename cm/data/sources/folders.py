"""The files in a folder and in its subfolders, each of them once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cm.errors import UserError


def list_files(folder: Path, is_wanted: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """The relative paths of the wanted files at any depth of a folder, and those of the other files, both sorted.

    Links are followed. Raises UserError for a folder or a wanted file that has two paths, because its images would
    count twice or, in a folder that contains itself, without end; for a wanted name that is a pipe, a device or a
    broken link; and OSError for a folder that may not be read.
    """
    walk = _Walk(folder)
    walk.run()
    wanted = sorted(filter(is_wanted, walk.names))
    for name in sorted(filter(is_wanted, walk.special)):
        raise UserError(f"{folder}: {name} is a pipe, a device or a broken link, not a file")
    _check_links(walk, set(wanted))
    return wanted, sorted(name for name in walk.names if not is_wanted(name))


class _Walk:
    """What has been found in a folder: `names` of files, `special` names of what is neither a file nor a folder.

    `links`: the names of files that are links, and the real paths of the files. `folders`: the real path of each
    folder, and its name followed by a slash, or an empty name.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names: list[str] = []
        self.special: list[str] = []
        self.links: dict[str, str] = {}
        self.folders: dict[str, str] = {}
        self._pending = [""]

    def run(self) -> None:
        """Visit all folders."""
        while self._pending:
            self._visit(self._pending.pop())

    def _visit(self, prefix: str) -> None:
        """Add the folder whose name is `prefix`."""
        folder = os.path.join(self.root, prefix)
        real = os.path.realpath(folder)
        if real in self.folders:
            other = self.folders[real].rstrip("/") or "the folder itself"
            raise UserError(f"{self.root}: {prefix.rstrip('/')} and {other} are the same folder: its images count once")
        self.folders[real] = prefix
        with os.scandir(folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_dir():
                    self._pending.append(f"{name}/")
                    continue
                (self.names if entry.is_file() else self.special).append(name)
                if entry.is_symlink():
                    self.links[name] = os.path.realpath(entry.path)


def _check_links(walk: _Walk, wanted: set[str]) -> None:
    """Raise UserError if a wanted file is a link to another wanted file."""
    first: dict[str, str] = {}
    for name, real in sorted(walk.links.items()):
        if name not in wanted:
            continue
        parent, own = os.path.split(real)
        other = first.setdefault(real, name)
        if other == name and parent in walk.folders and walk.folders[parent] + own in wanted:
            other = walk.folders[parent] + own
        if other != name:
            raise UserError(f"{walk.root}: {name} and {other} are the same file: it counts once")
