"""The files in a folder and in its subfolders, each of them once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cm.errors import UserError

Identity = tuple[int, int]  # of a folder: its device and its number there


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

    `links`: the names of files that are links, and where the files are. `folders`: the identity of each folder, and its
    name followed by a slash, or an empty name.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names: list[str] = []
        self.special: list[str] = []
        self.links: dict[str, tuple[Identity, str]] = {}
        self.folders: dict[Identity, str] = {}
        self._pending = [""]

    def run(self) -> None:
        """Visit all folders."""
        while self._pending:
            self._visit(self._pending.pop())

    def _visit(self, prefix: str) -> None:
        """Add the folder whose name is `prefix`."""
        folder = os.path.join(self.root, prefix)
        identity = _identify(folder)
        if identity in self.folders:
            names = f"{prefix.rstrip('/')} and {self.folders[identity].rstrip('/') or 'the folder itself'}"
            raise UserError(f"{self.root}: {names} are the same folder, whose images would count twice")
        self.folders[identity] = prefix
        with os.scandir(folder) as entries:
            for entry in entries:
                self._add(entry, prefix + entry.name)

    def _add(self, entry: os.DirEntry[str], name: str) -> None:
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself
            is_folder = is_file = False
        if is_folder:
            self._pending.append(f"{name}/")
            return
        (self.names if is_file else self.special).append(name)
        if is_file and entry.is_symlink():
            parent, own = os.path.split(os.path.realpath(entry.path))
            self.links[name] = _identify(parent), own


def _identify(folder: str) -> Identity:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _check_links(walk: _Walk, wanted: set[str]) -> None:
    """Raise UserError if a wanted file is a link to another wanted file, or to the same file as another link."""
    first: dict[tuple[Identity, str], str] = {}
    for name, (parent, own) in sorted(walk.links.items()):
        if name not in wanted:
            continue
        other = first.setdefault((parent, own), name)
        if other == name and walk.folders.get(parent, "/") + own in wanted:
            other = walk.folders[parent] + own
        if other != name:
            raise UserError(f"{walk.root}: {name} and {other} are the same file, which would count twice")
