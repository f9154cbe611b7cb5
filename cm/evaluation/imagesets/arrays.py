"""An array of images in a .npy file, or in a .npz file as ADM's samples are, mapped into memory and never loaded."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import mmap
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from cm.data.sources.stores import open_zip
from cm.errors import UserError
from cm.evaluation.imagesets.base import Images
from cm.utils import files

BEGINNING = 1 << 22  # bytes of an array of another type that are looked at


@dataclasses.dataclass(frozen=True, eq=False)
class Array(Images):
    """An array that is mapped into memory: that of a .npy file, or the `member` of a .npz file."""

    path: Path
    pixels: np.ndarray
    member: str | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.pixels.shape[1:]

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, batch: int, workers: int, start: int = 0) -> Iterator[np.ndarray]:
        for place in range(start, len(self), batch):
            yield np.array(self.pixels[place : place + batch], order="C")
            _forget(self.pixels)

    def only(self, places: np.ndarray | slice) -> Array:
        return dataclasses.replace(self, pixels=self.pixels[places])

    def sha256(self) -> str:
        if self.member is None:
            return files.sha256_of(self.path)
        with _whole(self.path), open_zip(self.path).open(self.member) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclasses.dataclass(frozen=True)
class Header:
    """What a .npy file says of its array. `length`: bytes before the first value."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    length: int

    @property
    def array_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def mapped(self, file: Path | IO[bytes], offset: int = 0) -> np.ndarray:
        """The array of a file that has the .npy file at `offset`."""
        order = "F" if self.fortran else "C"
        return np.memmap(file, np.uint8, "r", offset + self.length, self.shape, order)


def of_npy(path: Path) -> Array:
    with _whole(path), open(path, "rb") as stream:
        header = _header(stream)
        _check(header, stream, path, available=path.stat().st_size)
        return Array(path, header.mapped(path))


def of_npz(path: Path) -> Array:
    headers = {}
    with _whole(path):
        archive = open_zip(path)
        for name in archive.namelist():
            with archive.open(name) as stream:
                if name.endswith(".npy"):
                    headers[name] = _header(stream)
        member = _chosen(path, headers)
        info, header = archive.getinfo(member), headers[member]
        with archive.open(member) as stream:
            stream.read(header.length)
            _check(header, stream, f"{path}, {member.removesuffix('.npy')}", available=info.file_size)
        if info.compress_type == zipfile.ZIP_STORED:
            return Array(path, header.mapped(path, _place(path, info)), member)
        with archive.open(member) as stream:
            return Array(path, _unpacked(path, stream, header, info.file_size), member)


def _chosen(path: Path, headers: Mapping[str, Header]) -> str:
    """The array of images: the only one with four dimensions, or the first of ADM's files."""
    four = [name for name, header in headers.items() if len(header.shape) == 4]
    if len(four) == 1:
        return four[0]
    if "arr_0.npy" in headers:
        return "arr_0.npy"
    listed = ", ".join(f"{name.removesuffix('.npy')} {list(header.shape)}" for name, header in headers.items())
    raise UserError(
        f"{path} must have images in an array arr_0, or in the only one of 4 dimensions; it has {listed or 'none'}"
    )


def _place(path: Path, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin that is not compressed: behind its own header, and a name and extras."""
    with open(path, "rb") as file:
        file.seek(info.header_offset + 26)
        return file.tell() + 4 + sum(struct.unpack("<HH", file.read(4)))


def _unpacked(path: Path, stream: IO[bytes], header: Header, size: int) -> np.ndarray:
    """Mapped from a temporary file, which has no name and goes away with the array."""
    folder = tempfile.gettempdir()
    if size > (free := shutil.disk_usage(folder).free):
        raise UserError(f"{path} takes {size / 1e9:.1f} GB unpacked; {folder} has {free / 1e9:.1f}: set TMPDIR")
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(stream, file, 1 << 20)
        file.flush()
        return header.mapped(file)


def _forget(mapped: np.ndarray) -> None:
    """Pages that were read stay in the system's cache, but are no memory of this process any more."""
    mapping = getattr(mapped, "_mmap", None)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except files.READ_ERRORS as error:
        reason = (str(error).splitlines() or ["it ends too early"])[0]
        raise UserError(f"{path} is not a whole {path.suffix} file: {reason}") from None


def _header(stream: IO[bytes]) -> Header:
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"its array is of another kind than images (version {version[0]})")
    return Header(*readers[version](stream), stream.tell())


def _check(header: Header, stream: IO[bytes], where: Path | str, *, available: int) -> None:
    """UserError for anything but uint8 [N, H, W, C]. `stream`: at the first value; `available`: bytes of the file."""
    shape, dtype = header.shape, header.dtype
    advice = []
    if dtype != np.uint8:
        advice.append("pickled objects are not read" if dtype.hasobject else _conversion(stream.read(BEGINNING), dtype))
    if len(shape) == 3:
        advice.append("an axis is missing: x[..., None] for grey images, x[None] for a single one")
    elif len(shape) == 4 and shape[3] not in (1, 3):
        first = shape[1] in (1, 3)
        advice.append("put the channels last: x.transpose(0, 2, 3, 1)" if first else "C must be 1 or 3")
    if advice or len(shape) != 4 or 0 in shape:
        is_ = f"expected uint8 images [N, H, W, C], not {dtype} {list(shape)}"
        raise UserError("; ".join([f"{where}: {is_}", *advice]))
    if header.length + header.array_bytes > available:
        raise ValueError(f"it has {available} bytes of {header.length + header.array_bytes}")


def _conversion(data: bytes, dtype: np.dtype) -> str:
    """How to make uint8 of numbers that begin like these."""
    if dtype.kind not in "fiu" or len(data) < dtype.itemsize:
        return "convert it to uint8"
    values = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)
    finite = values[np.isfinite(values)]
    if len(finite) < len(values):
        return f"{len(values) - len(finite)} of its first {len(values)} values are NaN or infinite: they are no images"
    low, high = finite.min(), finite.max()
    return f"its values begin in [{low:.4g}, {high:.4g}]: convert them to uint8: {_formula(low, high)}"


def _formula(low: float, high: float) -> str:
    """For numbers of [0, 1], [-1, 1] or 0 to 255, a little beyond which samples may be."""
    if low >= -0.25 and high <= 1.5:
        return "(x * 255).round().clip(0, 255).astype('uint8')"
    if low >= -1.5 and high <= 1.5:
        return "((x + 1) * 127.5).clip(0, 255).astype('uint8')"
    if low >= -16 and high <= 272:
        return "x.round().clip(0, 255).astype('uint8')"
    return "bring them to 0 ... 255 first"
