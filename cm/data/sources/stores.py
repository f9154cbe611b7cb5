"""Stores of encoded images: the files of a folder, the members of a zip or of a tar of tars, the values of an LMDB."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import os
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cm.data.decoding import LARGEST
from cm.errors import UserError
from cm.utils import files, unpacking
from cm.utils.parallel import call_in_child


class UnreadableImage(Exception):
    """The bytes of one image cannot be read, while those of other images can."""


ReadBytes = Callable[[int], bytes]  # from the index of an image to its encoded bytes


@dataclasses.dataclass(frozen=True)
class Store(abc.ABC):
    """Encoded images, listed by `names`, in the file or folder `path`."""

    in_workers: ClassVar[bool] = False  # see `ImageSequence`
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
        yield lambda index: _read_file(self.path / self.names[index])


@dataclasses.dataclass(frozen=True)
class ZipMembers(Store):
    """Members of the zip archive `path`."""

    @contextlib.contextmanager
    def open(self) -> Iterator[ReadBytes]:
        """A context with a function that decompresses one member."""
        archive = unpacking.open_zip(self.path)
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
        _check_size(length)
        data = os.pread(descriptor, length, offset)
        if len(data) != length:
            raise UserError(f"{self.path} is truncated: it ends within an image")
        return data


@dataclasses.dataclass(frozen=True)
class LMDBValues(Store):
    """Values of the LMDB environment in the folder `path`; the names are the keys, one character per byte."""

    in_workers: ClassVar[bool] = True
    ENCODING: ClassVar[str] = "latin-1"

    @property
    def file(self) -> Path:
        """The file that contains all values."""
        return self.path / "data.mdb"

    @contextlib.contextmanager
    def open(self) -> Iterator[ReadBytes]:
        """A context with a function that reads one value."""
        with _open_lmdb(self.path) as transaction:
            yield lambda index: self._read_value(transaction, self.names[index])

    def _read_value(self, transaction: Any, name: str) -> bytes:
        """A value, which is a buffer in the mapped file until its size is checked."""
        value = transaction.get(name.encode(self.ENCODING))
        if value is None:
            raise UserError(f"{self.path} is not a whole LMDB: it has no longer the key {name!r}")
        _check_size(len(value))
        return bytes(value)


def list_lmdb(path: Path) -> LMDBValues:
    """Return all values of an LMDB, in the order of their keys.

    A damaged file can kill the process that reads it, so the keys are read in another one. (The values are read by the
    workers of `cm.data.writing`.) Raises UserError if it is damaged, or if that process is killed.
    """
    files.check_regular(path / "data.mdb")
    try:
        return LMDBValues(path, call_in_child(_list_keys, path))
    except BrokenProcessPool:
        raise UserError(f"{path} is not a whole LMDB: it killed the process that read it") from None


def _list_keys(path: Path) -> list[str]:
    """The keys of an LMDB; UserError if they are not in order, or not as many as its header says."""
    with _open_lmdb(path) as transaction:
        count, keys, last = transaction.stat()["entries"], [], b""
        for view in transaction.cursor().iternext(keys=True, values=False):
            key = bytes(view)
            if key <= last:
                raise UserError(f"{path} is not a whole LMDB: its keys are not in order")
            keys.append(key.decode(LMDBValues.ENCODING))
            last = key
    if len(keys) != count:
        raise UserError(f"{path} is not a whole LMDB: it has {len(keys)} records, its header says {count}")
    return keys


@contextlib.contextmanager
def _open_lmdb(path: Path) -> Iterator[Any]:
    """A context with a read-only transaction that takes no lock. Raises UserError if the LMDB is damaged."""
    import lmdb

    try:
        with lmdb.open(str(path), readonly=True, lock=False, readahead=False) as environment:
            _check_length(environment, path / "data.mdb")
            with environment.begin(buffers=True) as transaction:
                yield transaction
    except (lmdb.Error, OverflowError, MemoryError) as error:
        raise UserError(f"{path} is not a whole LMDB: {unpacking.describe(error)}") from None


def _check_length(environment: Any, file: Path) -> None:
    """Raise UserError for a truncated file: reading beyond its end would kill the process."""
    expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if file.stat().st_size < expected:
        raise UserError(f"{file} is truncated: it has {file.stat().st_size} bytes of {expected}")


def _read_file(path: Path) -> bytes:
    try:
        size = files.check_regular(path).st_size
        _check_size(size)
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(error.strerror or str(error)) from None
    except UserError as error:
        raise UnreadableImage(str(error)) from None


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return unpacking.read_member(archive, name, LARGEST)
    except unpacking.ARCHIVE_ERRORS as error:
        raise UnreadableImage(unpacking.describe(error)) from None


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise UnreadableImage(f"it has {size} bytes, more than the {LARGEST} that are read")
