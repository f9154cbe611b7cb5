"""Stores of encoded images: the files of a folder, the members of a zip or of a tar of tars, the values of an LMDB."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cm.errors import UserError
from cm.utils import files


class UnreadableImage(Exception):
    """The bytes of one image cannot be read, while those of other images can."""


ReadBytes = Callable[[int], bytes]  # from the index of an image to its encoded bytes


@dataclasses.dataclass(frozen=True)
class Store(abc.ABC):
    """Encoded images, listed by `names`, in the file or folder `path`."""

    path: Path
    names: list[str]

    def slice(self, start: int, stop: int) -> Store:
        """Return the store of the images `start` to `stop` (exclusive)."""
        return dataclasses.replace(self, names=self.names[start:stop])

    @property
    def file(self) -> Path:
        """The file that contains all bytes, or the folder of the files that do."""
        return self.path

    def fingerprint(self) -> str:
        """Text that changes when the names change or, unless it is a folder, when the file changes."""
        status = self.file.stat()
        of_file = "" if self.file.is_dir() else f"{status.st_size} {status.st_mtime_ns} "
        return of_file + files.sha256("\0".join(self.names).encode(errors="surrogateescape"))

    @abc.abstractmethod
    def open(self) -> contextlib.AbstractContextManager[ReadBytes]:
        """A context with a function that returns the bytes of the image at an index.

        The function raises UnreadableImage for one damaged image, and UserError if the whole store is damaged.
        """


@dataclasses.dataclass(frozen=True)
class FolderFiles(Store):
    """Files in the folder `path`, named by their relative paths."""

    @contextlib.contextmanager
    def open(self) -> Iterator[ReadBytes]:
        """A context with a function that reads one file."""
        yield lambda index: (self.path / self.names[index]).read_bytes()


@dataclasses.dataclass(frozen=True)
class ZipMembers(Store):
    """Members of the zip archive `path`."""

    @contextlib.contextmanager
    def open(self) -> Iterator[ReadBytes]:
        """A context with a function that decompresses one member."""
        archive = open_zip(self.path)
        yield lambda index: _read_member(archive, self.names[index])


@dataclasses.dataclass(frozen=True)
class TarMembers(Store):
    """Members of the uncompressed tar `path`. `spans` int64 [N, 2]: offset and length of each in bytes."""

    spans: np.ndarray

    def slice(self, start: int, stop: int) -> TarMembers:
        """Return the store of the images `start` to `stop`."""
        return TarMembers(self.path, self.names[start:stop], self.spans[start:stop])

    @contextlib.contextmanager
    def open(self) -> Iterator[ReadBytes]:
        """A context with a function that reads one span of the file."""
        with open(self.path, "rb") as file:
            yield lambda index: self._read_span(file.fileno(), *map(int, self.spans[index]))

    def _read_span(self, descriptor: int, offset: int, length: int) -> bytes:
        data = os.pread(descriptor, length, offset)
        if len(data) != length:
            raise UserError(f"{self.path} is truncated: it ends within an image")
        return data


@dataclasses.dataclass(frozen=True)
class LMDBValues(Store):
    """Values of the LMDB environment in the folder `path`; the names are the keys, one character per byte."""

    ENCODING: ClassVar[str] = "latin-1"

    @property
    def file(self) -> Path:
        """The file that contains all values."""
        return self.path / "data.mdb"

    @contextlib.contextmanager
    def open(self) -> Iterator[ReadBytes]:
        """A context with a function that reads one value."""
        with _open_lmdb(self.path) as transaction:
            yield lambda index: transaction.get(self.names[index].encode(self.ENCODING), b"")


def list_lmdb(path: Path) -> LMDBValues:
    """Return all values of an LMDB, in the order of their keys. Raises UserError if it is damaged."""
    with _open_lmdb(path) as transaction:
        keys = transaction.cursor().iternext(keys=True, values=False)
        return LMDBValues(path, [key.decode(LMDBValues.ENCODING) for key in keys])


@contextlib.contextmanager
def _open_lmdb(path: Path) -> Iterator[Any]:
    """A context with a read-only transaction that takes no lock. Raises UserError if the LMDB is damaged."""
    import lmdb

    try:
        with lmdb.open(str(path), readonly=True, lock=False, readahead=False) as environment:
            _check_length(environment, path / "data.mdb")
            with environment.begin() as transaction:
                yield transaction
    except lmdb.Error as error:
        raise UserError(f"{path} is not a whole LMDB: {error}") from None


def _check_length(environment: Any, file: Path) -> None:
    """Raise UserError for a truncated file: reading beyond its end would kill the process."""
    expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if file.stat().st_size < expected:
        raise UserError(f"{file} is truncated: it has {file.stat().st_size} bytes of {expected}")


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip archive; its directory is read once per process. Raises UserError if it is truncated or not a zip."""
    status = path.stat()
    return _open_cached_zip(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _open_cached_zip(path: Path, size: int, modified: int) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise UserError(f"{path} is truncated or not a zip archive: {error}") from None


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UnreadableImage(str(error).splitlines()[0]) from None
