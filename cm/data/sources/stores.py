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


class Unreadable(Exception):
    """One image whose bytes cannot be had, while the others can."""


@dataclasses.dataclass(frozen=True)
class Store(abc.ABC):
    """Encoded images by name, at `path`."""

    path: Path
    names: list[str]

    def part(self, start: int, stop: int) -> Store:
        """A few of them."""
        return dataclasses.replace(self, names=self.names[start:stop])

    @property
    def file(self) -> Path:
        """The file that all bytes are in, or the folder of many."""
        return self.path

    def stamp(self) -> str:
        """Changes when the names do, or the file."""
        about = self.file.stat()
        of_file = "" if self.file.is_dir() else f"{about.st_size} {about.st_mtime_ns} "
        return of_file + files.sha256("\0".join(self.names).encode(errors="surrogateescape"))

    @abc.abstractmethod
    def opened(self) -> contextlib.AbstractContextManager[Callable[[int], bytes]]:
        """A function from place to bytes; it raises Unreadable, or UserError if the whole store is damaged."""


@dataclasses.dataclass(frozen=True)
class Files(Store):
    """Files below the folder `path`, named by their relative paths."""

    @contextlib.contextmanager
    def opened(self) -> Iterator[Callable[[int], bytes]]:
        yield lambda index: (self.path / self.names[index]).read_bytes()


@dataclasses.dataclass(frozen=True)
class ZipMembers(Store):
    """Members of a zip archive."""

    @contextlib.contextmanager
    def opened(self) -> Iterator[Callable[[int], bytes]]:
        archive = open_zip(self.path)
        yield lambda index: _member(archive, self.names[index])


@dataclasses.dataclass(frozen=True)
class TarMembers(Store):
    """Stretches of a file: `places` int64 [N, 2] are offset and length of each image."""

    places: np.ndarray

    def part(self, start: int, stop: int) -> TarMembers:
        return TarMembers(self.path, self.names[start:stop], self.places[start:stop])

    @contextlib.contextmanager
    def opened(self) -> Iterator[Callable[[int], bytes]]:
        with open(self.path, "rb") as file:
            yield lambda index: self._stretch(file.fileno(), *map(int, self.places[index]))

    def _stretch(self, descriptor: int, offset: int, length: int) -> bytes:
        data = os.pread(descriptor, length, offset)
        if len(data) != length:
            raise UserError(f"{self.path} is truncated: it ends within an image")
        return data


@dataclasses.dataclass(frozen=True)
class LmdbValues(Store):
    """Values of an LMDB environment, the folder `path`; the names are the keys, a character a byte."""

    ENCODING: ClassVar[str] = "latin-1"

    @property
    def file(self) -> Path:
        return self.path / "data.mdb"

    @contextlib.contextmanager
    def opened(self) -> Iterator[Callable[[int], bytes]]:
        with _transaction(self.path) as transaction:
            yield lambda index: transaction.get(self.names[index].encode(self.ENCODING), b"")


def lmdb_values(path: Path) -> LmdbValues:
    """All values of an LMDB, in the order of their keys."""
    with _transaction(path) as transaction:
        keys = transaction.cursor().iternext(keys=True, values=False)
        return LmdbValues(path, [key.decode(LmdbValues.ENCODING) for key in keys])


@contextlib.contextmanager
def _transaction(path: Path) -> Iterator[Any]:
    """A look into an LMDB that takes no lock and writes nothing; UserError if it is damaged."""
    import lmdb

    try:
        with lmdb.open(str(path), readonly=True, lock=False, readahead=False) as environment:
            _check_length(environment, path / "data.mdb")
            with environment.begin() as transaction:
                yield transaction
    except lmdb.Error as error:
        raise UserError(f"{path} is not a whole LMDB: {error}") from None


def _check_length(environment: Any, file: Path) -> None:
    """UserError for a truncated file: reading behind its end would kill the process."""
    wanted = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if file.stat().st_size < wanted:
        raise UserError(f"{file} is truncated: it has {file.stat().st_size} bytes of {wanted}")


def open_zip(path: Path) -> zipfile.ZipFile:
    """An archive, whose directory is read once a process; UserError if it is truncated or is none."""
    about = path.stat()
    return _zip(path, about.st_size, about.st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _zip(path: Path, size: int, changed: int) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise UserError(f"{path} is truncated or not a zip archive: {error}") from None


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise Unreadable(str(error).splitlines()[0]) from None
