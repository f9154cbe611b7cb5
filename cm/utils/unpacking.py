"""Archives and compressed files that others wrote, unpacked with limits.

A compressed file of a megabyte can expand to a gigabyte, and a zip archive says of its members whatever it likes. What
is unpacked into memory is limited to `LARGEST` bytes; what is unpacked to a disk, or read part by part, may be larger,
but not `RATIO` times as large as the archive, which no images and no features are.
"""

from __future__ import annotations

import bz2
import collections
import functools
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

from cm.errors import UserError
from cm.utils import files

LARGEST = 1 << 30  # bytes that are unpacked into memory from one archive
RATIO = 100  # of the unpacked to the packed size; deflate reaches 1032 for zeros
UNSUSPICIOUS = 1 << 28  # bytes that any archive may contain

# What the readers of archives raise for a file that is damaged or of another format.
ARCHIVE_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    ArithmeticError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open, b"]\0\0": lzma.open}


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip archive; its directory is read once per process.

    Raises UserError for an archive that is truncated, has two members of one name, or claims to expand beyond all
    measure, and for a file that is no zip archive.
    """
    status = files.check_regular(path)
    return _open_cached_zip(Path(path), status.st_size, status.st_mtime_ns)


def read_member(archive: zipfile.ZipFile, name: str, limit: int = LARGEST) -> bytes:
    """The content of a member. Raises ValueError for one of more than `limit` bytes, and one of `ARCHIVE_ERRORS`."""
    size = archive.getinfo(name).file_size
    if size > limit:
        raise ValueError(f"it has {size} bytes unpacked, more than the {limit} that are read")
    return archive.read(name)


def gunzip(data: bytes, limit: int = LARGEST) -> bytes:
    """The content of a gzip file. Raises ValueError for one of more than `limit` bytes, and one of `ARCHIVE_ERRORS`."""
    return LimitedReader(gzip.open(io.BytesIO(data)), limit).read_all()


def open_compressed(file: IO[bytes], limit: int = LARGEST) -> LimitedReader:
    """A file to be read from its start to its end, decompressed if it is compressed with gzip, bzip2 or xz."""
    start = file.read(6)
    file.seek(0)
    opener = next((opener for magic, opener in OPENERS.items() if start.startswith(magic)), None)
    return LimitedReader(opener(file) if opener else file, limit)


class LimitedReader:
    """A file that raises ValueError when more than `limit` bytes have been read from it."""

    def __init__(self, file: Any, limit: int) -> None:
        self._file, self._limit, self._left = file, limit, limit

    def read(self, count: int) -> bytes:
        """At most `count` bytes."""
        data = self._file.read(min(count, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(f"it expands to more than the {self._limit} bytes that are read")
        return data

    def read_all(self) -> bytes:
        """All bytes."""
        return self.read(self._limit + 1)


def check_ratio(unpacked: int, packed: int, path: Path | str) -> None:
    """Raise UserError for a file of `packed` bytes that would expand to so many bytes that it cannot be honest."""
    if unpacked > max(UNSUSPICIOUS, RATIO * packed):
        sizes = f"{packed} bytes would expand to {unpacked}"
        raise UserError(f"{path} is refused: its {sizes}, more than {RATIO} times as many")


@functools.lru_cache(maxsize=1)
def _open_cached_zip(path: Path, size: int, modified: int) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
    except ARCHIVE_ERRORS as error:
        raise UserError(f"{path} is truncated or not a zip archive: {describe(error)}") from None
    members = archive.infolist()
    name, count = collections.Counter(member.filename for member in members).most_common(1)[0] if members else ("", 1)
    if count > 1:
        raise UserError(f"{path} has {count} members of the name {name!r}")
    check_ratio(sum(member.file_size for member in members), size, path)
    return archive


def describe(error: Exception) -> str:
    """The first line of the message of an error, or the name of its class."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
