"""An index of the files in a tar of tars, so that each file can be read without unpacking."""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from cm.data.sources.stores import TarMembers
from cm.errors import UserError
from cm.utils import files, unpacking
from cm.utils.progress_bar import ProgressBar


def index_tar_of_tars(path: Path) -> TarMembers:
    """Find the members `<outer>/<inner>`, sorted by name, of an uncompressed tar whose members are uncompressed tars.

    Raises UserError for a file that is truncated or of another format.
    """
    files.check_regular(path)
    try:
        with open(path, "rb") as file:
            _check_end(file)
            members = sorted(_inner_members(file, path))
    except (*unpacking.ARCHIVE_ERRORS, MemoryError) as error:
        reason = unpacking.describe(error)
        raise UserError(f"{path} is truncated, or not an uncompressed tar of tars: {reason}") from None
    spans = np.array([span for _, span in members], np.int64).reshape(-1, 2)
    return TarMembers(path, [name for name, _ in members], spans)


def _check_end(file: IO[bytes]) -> None:
    """Raise ReadError unless the file ends with zeros; tarfile accepts a file that ends within a header."""
    file.seek(max(0, file.seek(0, 2) - 512))
    if any(file.read()):
        raise tarfile.ReadError("it does not end as a tar does")


def _inner_members(file: IO[bytes], path: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the name of every inner member, with its offset and length in `file` in bytes."""
    outers = [(member.name, member.offset_data) for member in _members(file, 0) if member.name.endswith(".tar")]
    with contextlib.closing(ProgressBar(f"indexing {path.name}", len(outers), unit="tar")) as progress:
        for outer, start in outers:
            for member in _members(file, start):
                name = f"{PurePosixPath(outer).stem}/{PurePosixPath(member.name).name}"
                yield name, (member.offset_data, member.size)
            progress.update()


def _members(file: IO[bytes], start: int) -> Iterator[tarfile.TarInfo]:
    """Yield the regular files of the tar that starts at byte `start`; their offsets count from the start of `file`."""
    end = file.seek(0, 2)
    file.seek(start)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            if member.size < 0 or member.offset_data + member.size > end:
                raise tarfile.ReadError(f"{member.name!r:.80} ends where the file does not")
            if member.isfile():
                yield member
