"""Arrays of images in a .npy file, or in a .npz file as ADM writes samples: mapped into memory, never loaded whole."""

from __future__ import annotations

import dataclasses
import hashlib
import mmap
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from cm.errors import UserError
from cm.evaluation.imagesets.base import Images
from cm.utils import files, npy, unpacking

SCANNED = 1 << 22  # bytes of an array of another type that are read to advise how to convert it


@dataclasses.dataclass(frozen=True, eq=False)
class Array(Images):
    """An array that is mapped into memory: that of a .npy file, or the `member` of a .npz file.

    `size`: the bytes of the file, of which none may be missing when its images are read: that would end the process.
    """

    path: Path
    pixels: np.ndarray
    size: int
    member: str | None = None
    shape: tuple[int, int, int] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", self.pixels.shape[1:])

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, batch: int, workers: int, start: int = 0) -> Iterator[np.ndarray]:
        """See `Images`. The memory that a batch was mapped to is released before the next one."""
        for place in range(start, len(self), batch):
            if self.path.exists() and self.path.stat().st_size < self.size:
                raise UserError(f"{self.path} was truncated while it was read: it had {self.size} bytes")
            yield np.array(self.pixels[place : place + batch], order="C")
            _release_pages(self.pixels)

    def subset(self, places: np.ndarray | slice) -> Array:
        """See `Images`. A slice stays mapped into memory; other places are loaded."""
        return dataclasses.replace(self, pixels=self.pixels[places])

    def sha256(self) -> str:
        """See `Images`."""
        if self.member is None:
            return files.sha256_of(self.path)
        with npy.one_line_errors(self.path), unpacking.open_zip(self.path).open(self.member) as stream:
            return hashlib.file_digest(cast(Any, stream), "sha256").hexdigest()


def read_npy(path: Path) -> Array:
    """The images of a .npy file."""
    size = files.check_regular(path).st_size
    with npy.one_line_errors(path), open(path, "rb") as stream:
        header = npy.read_header(stream)
        _check_images(header, stream, path, size=size)
        return Array(path, header.map(path), size)


def read_npz(path: Path) -> Array:
    """The images of a .npz file: its only array with four dimensions, or `arr_0`."""
    size = files.check_regular(path).st_size
    with npy.one_line_errors(path):
        archive = unpacking.open_zip(path)
        headers = _read_headers(archive)
        member = _find_member(path, headers)
        info, header = archive.getinfo(member), headers[member]
        with archive.open(member) as stream:
            stream.read(header.length)
            _check_images(header, stream, f"{path}, {member.removesuffix('.npy')}", size=info.file_size)
        if info.compress_type == zipfile.ZIP_STORED:
            _check_bytes(archive, member)
            return Array(path, header.map(path, _find_data(path, info)), size, member)
        with archive.open(member) as stream:
            return Array(path, _unpack(path, stream, header, info.file_size), size, member)


def _read_headers(archive: zipfile.ZipFile) -> dict[str, npy.Header]:
    headers = {}
    for name in archive.namelist():
        with archive.open(name) as stream:
            if name.endswith(".npy"):
                headers[name] = npy.read_header(stream)
    return headers


def _find_member(path: Path, headers: Mapping[str, npy.Header]) -> str:
    four_dimensional = [name for name, header in headers.items() if len(header.shape) == 4]
    if len(four_dimensional) == 1:
        return four_dimensional[0]
    if "arr_0.npy" in headers:
        return "arr_0.npy"
    listed = ", ".join(f"{name.removesuffix('.npy')} {list(header.shape)}" for name, header in headers.items())
    raise UserError(
        f"{path} must have images in an array arr_0, or in its only array of 4 dimensions; it has {listed or 'none'}"
    )


def _check_bytes(archive: zipfile.ZipFile, member: str) -> None:
    """Read a member, so that BadZipFile is raised if its bytes do not have their checksum."""
    with archive.open(member) as stream:
        while stream.read(1 << 20):
            pass


def _find_data(path: Path, info: zipfile.ZipInfo) -> int:
    """The offset of the bytes of an uncompressed member, which follow its own header, its name and extra fields."""
    with open(path, "rb") as file:
        file.seek(info.header_offset + 26)
        return file.tell() + 4 + sum(struct.unpack("<HH", file.read(4)))


def _unpack(path: Path, stream: IO[bytes], header: npy.Header, size: int) -> np.ndarray:
    """The array, mapped from a temporary file that has no name and is removed together with the array."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(f"{path} takes {size / 1e9:.1f} GB unpacked; {folder} has {free / 1e9:.1f}: set TMPDIR")
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(stream, file, 1 << 20)
        file.flush()
        return header.map(file)


def _release_pages(mapped: np.ndarray) -> None:
    """Let go of the pages that were read: they stay in the system's cache, but are not memory of this process."""
    mapping = getattr(mapped, "_mmap", None)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def _check_images(header: npy.Header, stream: IO[bytes], where: Path | str, *, size: int) -> None:
    """UserError for anything but uint8 [N, H, W, C], with advice how to convert it.

    `stream`: at the first value of the array. `size`: the number of bytes of the .npy file. Raises ValueError if they
    are not those that the array takes.
    """
    advice = _advise(header, stream)
    if advice or len(header.shape) != 4 or 0 in header.shape:
        found = f"expected uint8 images [N, H, W, C], not {header.dtype} {list(header.shape)}"
        raise UserError("; ".join([f"{where}: {found}", *advice]))
    header.check(size)


def _advise(header: npy.Header, stream: IO[bytes]) -> list[str]:
    shape, dtype = header.shape, header.dtype
    advice = []
    if dtype.hasobject:
        advice.append("pickled objects are not read")
    elif dtype != np.uint8:
        advice.append(_advise_conversion(stream.read(SCANNED), dtype))
    if len(shape) == 3:
        advice.append("an axis is missing: x[..., None] for grey images, x[None] for a single one")
    elif len(shape) == 4 and shape[3] not in (1, 3):
        channels_first = shape[1] in (1, 3)
        advice.append("put the channels last: x.transpose(0, 2, 3, 1)" if channels_first else "C must be 1 or 3")
    return advice


def _advise_conversion(data: bytes, dtype: np.dtype) -> str:
    """How to make uint8 of an array whose first bytes are `data`."""
    if dtype.kind not in "fiu" or len(data) < dtype.itemsize:
        return "convert it to uint8"
    values = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)
    finite = values[np.isfinite(values)]
    if len(finite) < len(values):
        broken = len(values) - len(finite)
        return f"{broken} of its first {len(values)} values are NaN or infinite: these are not images"
    low, high = finite.min(), finite.max()
    formula = _conversion_formula(low, high)
    return f"its first values are in [{low:.4g}, {high:.4g}]: convert them to uint8: {formula}"


def _conversion_formula(low: float, high: float) -> str:
    """For values in [0, 1], [-1, 1] or 0 to 255; samples may exceed these ranges a little."""
    if low >= -0.25 and high <= 1.5:
        return "(x * 255).round().clip(0, 255).astype('uint8')"
    if low >= -1.5 and high <= 1.5:
        return "((x + 1) * 127.5).clip(0, 255).astype('uint8')"
    if low >= -16 and high <= 272:
        return "x.round().clip(0, 255).astype('uint8')"
    return "scale them to 0 ... 255 first"
