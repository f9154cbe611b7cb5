"""A few files of a folder, a tar (compressed or not) or a zip, by their last names, read into memory."""

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
    """Those of `names` that are there, at any depth of an archive and two deep in a folder.

    UserError if the archive is damaged.
    """
    if path.is_dir():
        found = {name: [other for depth in DEPTHS for other in sorted(path.glob(depth + name))] for name in names}
        return {name: others[0].read_bytes() for name, others in found.items() if others}
    try:
        return _zipped(path, names) if zipfile.is_zipfile(path) else _tarred(path, names)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise UserError(f"{path} is truncated, or neither a tar nor a zip archive: {reason}") from None


def checksum(path: Path, contents: Mapping[str, bytes]) -> tuple[str, str]:
    """Digest of an archive, or of the files that were read from a folder; and of what it is."""
    if path.is_file():
        return files.sha256_of(path), "the file"
    lines = "".join(f"{files.sha256(contents[name])}  {name}\n" for name in sorted(contents))
    return files.sha256(lines.encode()), "the lines that sha256sum prints for the files, sorted by name"


def _zipped(path: Path, names: Collection[str]) -> dict[str, bytes]:
    archive = open_zip(path)
    wanted = {PurePosixPath(name).name: name for name in archive.namelist() if PurePosixPath(name).name in names}
    return {name: archive.read(member) for name, member in wanted.items()}


def _tarred(path: Path, names: Collection[str]) -> dict[str, bytes]:
    """One pass from the start to the end, as a compressed archive can only be read in."""
    with tarfile.open(path) as archive:
        members = ((PurePosixPath(member.name).name, member) for member in archive if member.isfile())
        return {name: archive.extractfile(member).read() for name, member in members if name in names}
