"""Score files where they lie: below a folder of results, in a zip of one, or alone."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from cm.errors import UserError
from cm.report.score_schema import Content, check_content
from cm.utils import files, unpacking

SCORES = "scores"  # the folder of the scores in one of results


def read_scores(path: Path) -> Iterator[tuple[str, Content]]:
    """The name and the content of every score at a path, in the order of the names.

    `path`: a folder, a zip, or a file with the suffix .json. Of a folder that has a folder `scores` in it, and of a zip
    with such a folder, only what is in that folder is read. Names are relative to `path`; that of a file alone is its
    own. Raises UserError for a path without scores, and for a JSON file that is no score.
    """
    if path.is_dir():
        yield from _read_all(path, _list_folder(path), lambda name: files.read_json(path / name))
    elif path.suffix == ".json":
        yield path.name, check_content(files.read_json(path), path)
    else:
        yield from _read_all(path, _list_zip(path), lambda name: _read_member(path, name))


def _read_all(path: Path, names: Sequence[str], read: Callable[[str], object]) -> Iterator[tuple[str, Content]]:
    chosen = _choose_scores(names)
    if not chosen:
        raise UserError(f"no score in {path}: expected .json files that `cm score` or `cm evaluate` wrote")
    for name in chosen:
        yield name, check_content(read(name), path / name)


def _list_folder(path: Path) -> list[str]:
    """The names of the JSON files of a folder, or of its folder `scores` if it has one."""
    root = path / SCORES if (path / SCORES).is_dir() else path
    return [file.relative_to(path).as_posix() for file in root.rglob("*.json")]


def _list_zip(path: Path) -> list[str]:
    """The names of the members of a zip; UserError for a file that is none."""
    files.check_regular(path)
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is neither a folder, a zip, a score (.json) nor a table of scores (.csv, .parquet)")
    return unpacking.open_zip(path).namelist()


def _choose_scores(names: Sequence[str]) -> list[str]:
    """The names of JSON files, only those in a folder `scores` if there is one, and no hidden ones."""
    parts = {name: PurePosixPath(name).parts for name in names if name.endswith(".json")}
    visible = sorted(name for name in parts if "/." not in f"/{name}")
    return [name for name in visible if SCORES in parts[name][:-1]] or visible


def _read_member(path: Path, name: str) -> object:
    """The value of a JSON file in a zip; UserError if it cannot be unpacked or is too large."""
    try:
        data = unpacking.read_member(unpacking.open_zip(path), name, files.LARGEST_JSON)
    except unpacking.ARCHIVE_ERRORS as error:
        raise UserError(f"{path / name} cannot be read: {unpacking.describe(error)}") from None
    return files.parse_json(data, path / name)
