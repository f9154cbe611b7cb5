"""A few files of a folder, a tar (compressed or not), a zip or a Debian package, found by name and read into memory."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, cast

from cm.errors import UserError
from cm.utils import files, unpacking

DEPTHS = ("", "*/", "*/*/")
AR_MAGIC, AR_HEADER = b"!<arch>\n", 60  # the start of an ar archive, and the bytes before each of its members


def read_files(path: Path, names: Collection[str]) -> dict[str, bytes]:
    """Read those of the files `names` that exist: at any depth of an archive, at most two folders deep in a folder.

    Returns their contents by name. Raises UserError for an archive that is damaged or of another format, and for one
    that would expand to more than `unpacking.LARGEST` bytes.
    """
    if path.is_dir():
        return _read_folder(path, names)
    files.check_regular(path)
    try:
        return _read_archive(path, names)
    except unpacking.ARCHIVE_ERRORS as error:
        reason = unpacking.describe(error).rstrip(":")
        raise UserError(f"{path} is truncated, or neither a tar nor a zip archive: {reason}") from None


def find_file(folder: Path, name: str) -> Path | None:
    """Return the file of that name that is the least deep in the folder, the first one in sorted order.

    Returns None if there is none in the folder or at most two folders deep in it.
    """
    for depth in DEPTHS:
        for path in sorted(filter(Path.is_file, folder.glob(depth + name))):
            return path
    return None


def checksum(path: Path, contents: Mapping[str, bytes]) -> tuple[str, str]:
    """The sha256 of an archive or, for a folder, of the files that were read; and what it is the sha256 of, in words.

    `contents`: what `read_files` returned.
    """
    if path.is_file():
        return files.sha256_of(path), "the file"
    lines = "".join(f"{files.sha256(contents[name])}  {name}\n" for name in sorted(contents))
    return files.sha256(lines.encode()), "the lines that sha256sum prints for the files, sorted by name"


def _read_folder(folder: Path, names: Collection[str]) -> dict[str, bytes]:
    paths = {name: path for name in names if (path := find_file(folder, name))}
    size = sum(path.stat().st_size for path in paths.values())
    if size > unpacking.LARGEST:
        raise UserError(f"{folder} has files of {size} bytes, more than the {unpacking.LARGEST} that are read")
    return {name: path.read_bytes() for name, path in paths.items()}


def _read_archive(path: Path, names: Collection[str]) -> dict[str, bytes]:
    if zipfile.is_zipfile(path):
        return _read_zip(path, names)
    with open(path, "rb") as file:
        is_package = file.read(len(AR_MAGIC)) == AR_MAGIC
        file.seek(0)
        return _read_tar(_data_of_package(file) if is_package else file, names)


def _read_zip(path: Path, names: Collection[str]) -> dict[str, bytes]:
    archive = unpacking.open_zip(path)
    members = {PurePosixPath(member).name: member for member in archive.namelist()}
    contents: dict[str, bytes] = {}
    for name in sorted(members.keys() & set(names)):
        left = unpacking.LARGEST - sum(map(len, contents.values()))
        contents[name] = unpacking.read_member(archive, members[name], left)
    return contents


def _data_of_package(file: IO[bytes]) -> IO[bytes]:
    """The tar of the files that a Debian package installs: the member `data.tar.<compression>` of an ar archive.

    Before each member stand its name, in 16 characters, and its size in bytes, from the character 48 on. Members have
    an even number of bytes. Raises ReadError for another archive.
    """
    file.seek(len(AR_MAGIC))
    while len(header := file.read(AR_HEADER)) == AR_HEADER and header[48:58].strip().isdigit():
        size = int(header[48:58])
        if header.startswith(b"data.tar"):
            return io.BytesIO(file.read(min(size, unpacking.LARGEST)))
        file.seek(size + size % 2, io.SEEK_CUR)
    raise tarfile.ReadError("it is an ar archive without data.tar, and no Debian package")


def _read_tar(file: IO[bytes], names: Collection[str]) -> dict[str, bytes]:
    """Read the archive once from start to end, because a compressed one has no index."""
    contents = {}
    stream = cast(IO[bytes], unpacking.open_compressed(file))
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            if not 0 <= member.size <= unpacking.LARGEST:  # tarfile would skip them in a loop without end
                limit = f"not 0 to the {unpacking.LARGEST} that are read"
                raise tarfile.ReadError(f"{member.name!r:.80} has {member.size} bytes, {limit}")
            name = PurePosixPath(member.name).name
            content = archive.extractfile(member) if name in names and member.isfile() else None
            if content is not None:
                contents[name] = content.read()
    return contents
