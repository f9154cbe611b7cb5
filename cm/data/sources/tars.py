"""The places of files within a tar of tars, so that each can be read without unpacking."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from cm.data.sources.stores import TarMembers
from cm.errors import UserError
from cm.utils.progress_bar import ProgressBar


def tar_of_tars(path: Path) -> TarMembers:
    """Members `<outer>/<inner>` of an uncompressed tar whose members are uncompressed tars, sorted by name."""
    try:
        with open(path, "rb") as file:
            _check_end(file)
            found = sorted(_inner(file, path))
    except tarfile.ReadError as error:
        raise UserError(f"{path} is truncated, or not an uncompressed tar of tars: {error}") from None
    places = np.array([place for _, place in found], np.int64).reshape(-1, 2)
    return TarMembers(path, [name for name, _ in found], places)


def _check_end(file: IO[bytes]) -> None:
    """A tar ends with zeros; tarfile takes a file that ends within a header for a whole one."""
    file.seek(max(0, file.seek(0, 2) - 512))
    if any(file.read()):
        raise tarfile.ReadError("it does not end as a tar does")


def _inner(file: IO[bytes], path: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    outers = [(member.name, member.offset_data) for member in _members(file, 0) if member.name.endswith(".tar")]
    progress = ProgressBar(f"looking into {path.name}", len(outers), unit="tar") if outers else None
    for outer, start in outers:
        for member in _members(file, start):
            yield f"{PurePosixPath(outer).stem}/{PurePosixPath(member.name).name}", (member.offset_data, member.size)
        progress.update()
    if progress:
        progress.close()


def _members(file: IO[bytes], start: int) -> Iterator[tarfile.TarInfo]:
    """Regular files of the tar that starts at byte `start`, with their places in `file`."""
    file.seek(start)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            if member.isfile():
                yield member
