"""NumPy's files, .npy and .npz, that others may have written: read without pickles, and checked before they are.

The header of an array says its type and shape. Before memory is allocated or a file is mapped, both are checked: the
type is a plain one (numbers, or text for descriptions), and the file has exactly the bytes that the array takes.
"""

from __future__ import annotations

import contextlib
import math
import tokenize
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from cm.errors import UserError
from cm.utils import files, unpacking

PLAIN_KINDS = "biufcU"  # booleans, integers, floating-point and complex numbers, and text
READ_ERRORS = (*unpacking.ARCHIVE_ERRORS, MemoryError, SyntaxError, tokenize.TokenError)
HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class Header:
    """What a .npy file says of its array. `length`: the number of bytes before the first value."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    length: int

    @property
    def array_bytes(self) -> int:
        """The size of the array in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def check(self, size: int) -> None:
        """Raise ValueError unless the array has a plain type and fills a .npy file of `size` bytes exactly."""
        if self.dtype.kind not in PLAIN_KINDS or not self.dtype.itemsize:
            raise ValueError(f"its values are {self.dtype}, not numbers")
        if self.length + self.array_bytes != size:
            raise ValueError(f"it has {size} bytes of {self.length + self.array_bytes}")

    def map(self, file: Any, offset: int = 0) -> np.ndarray:
        """The array, mapped from a path or an open file in which the .npy file begins at the byte `offset`."""
        order: Literal["F", "C"] = "F" if self.fortran else "C"
        return np.memmap(file, self.dtype, "r", offset + self.length, self.shape, order)


def read_header(stream: IO[bytes]) -> Header:
    """The header at the start of a .npy file. Raises one of `READ_ERRORS` for a damaged one."""
    version = np.lib.format.read_magic(stream)
    if version not in HEADER_READERS:
        raise ValueError(f"its array is of another kind (version {version[0]})")
    shape, fortran, dtype = HEADER_READERS[version](stream)
    if any(type(length) is not int or length < 0 for length in shape):
        raise ValueError(f"{list(shape)} is no shape")
    return Header(shape, fortran, dtype, stream.tell())


def read_arrays(path: Path | str, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays `names`, or all arrays, of a .npz file.

    Raises UserError for a file that is missing, damaged or of another format, and for an array that is missing or is
    not one of numbers or text.
    """
    with one_line_errors(path):
        archive = unpacking.open_zip(Path(path))
        return {name: _read_array(archive, name, path) for name in (_names(archive) if names is None else names)}


def array_names(path: Path | str) -> list[str]:
    """The names of the arrays in a .npz file, without reading the arrays. Raises UserError as `read_arrays` does."""
    with one_line_errors(path):
        return _names(unpacking.open_zip(Path(path)))


def read_array(path: Path | str) -> np.ndarray:
    """Map the array of a .npy file into memory.

    Raises UserError for a file that is missing, truncated or of another format.
    """
    size = files.check_regular(path).st_size
    with one_line_errors(path), open(path, "rb") as stream:
        header = read_header(stream)
        header.check(size)
        return header.map(path)


def read_images(path: Path | str) -> np.ndarray:
    """Map the images of a .npy file, uint8 [N, H, W, C], into memory.

    Raises UserError as `read_array` does, and for an array of another type or shape.
    """
    images = read_array(path)
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise UserError(f"{path}: expected uint8 images [N, H, W, C], not {images.dtype} {list(images.shape)}")
    return images


@contextlib.contextmanager
def one_line_errors(path: Path | str) -> Iterator[None]:
    """Turn what reading a damaged .npy or .npz file raises into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except READ_ERRORS as error:
        reason = unpacking.describe(error) if str(error) else "it ends too early"
        raise UserError(f"{path} is not a whole {Path(path).suffix or '.npy'} file: {reason}") from None


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def _read_array(archive: zipfile.ZipFile, name: str, path: Path | str) -> np.ndarray:
    """An array of a .npz file, whose header is checked before memory is allocated."""
    member = f"{name}.npy"
    if member not in archive.namelist():
        raise UserError(f"{path} has no array {name}; it has {', '.join(_names(archive)) or 'none'}")
    with archive.open(member) as stream:
        read_header(stream).check(archive.getinfo(member).file_size)
    with archive.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
