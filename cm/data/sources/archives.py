"""A few files of a folder, of a tar (compressed or not) or of a zip, found by their names and read into memory."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from cm.data.sources.stores import open_zip
from cm.errors import UserError
from cm.utils import files

DEPTHS = ("", "*/", "*/*/")


def read_files(path: Path, names: Collection[str]) -> dict[str, bytes]:
    """Read those of the files `names` that exist: at any depth of an archive, at most two folders deep in a folder.

    Returns their contents by name. Raises UserError for an archive that is damaged or of another format.
    """
    if path.is_dir():
        return _read_folder(path, names)
    try:
        return _read_zip(path, names) if zipfile.is_zipfile(path) else _read_tar(path, names)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise UserError(f"{path} is truncated, or neither a tar nor a zip archive: {reason}") from None


def checksum(path: Path, contents: Mapping[str, bytes]) -> tuple[str, str]:
    """The sha256 of an archive or, for a folder, of the files that were read; and what it is the sha256 of, in words.

    `contents`: what `read_files` returned.
    """
    if path.is_file():
        return files.sha256_of(path), "the file"
    lines = "".join(f"{files.sha256(contents[name])}  {name}\n" for name in sorted(contents))
    return files.sha256(lines.encode()), "the lines that sha256sum prints for the files, sorted by name"


def _read_folder(folder: Path, names: Collection[str]) -> dict[str, bytes]:
    paths = {name: _find_file(folder, name) for name in names}
    return {name: path.read_bytes() for name, path in paths.items() if path}


def _find_file(folder: Path, name: str) -> Path | None:
    """The file of that name that is the least deep in the folder, the first one in sorted order."""
    for depth in DEPTHS:
        for path in sorted(folder.glob(depth + name)):
            return path
    return None


def _read_zip(path: Path, names: Collection[str]) -> dict[str, bytes]:
    archive = open_zip(path)
    members = {PurePosixPath(member).name: member for member in archive.namelist()}
    return {name: archive.read(member) for name, member in members.items() if name in names}


def _read_tar(path: Path, names: Collection[str]) -> dict[str, bytes]:
    """Read the archive once from start to end, because a compressed one has no index."""
    contents = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = PurePosixPath(member.name).name
            file = archive.extractfile(member) if name in names and member.isfile() else None
            if file is not None:
                contents[name] = file.read()
    return contents
