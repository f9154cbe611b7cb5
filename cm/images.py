"""Any set of images to be scored: a folder or zip of encoded images, or an array [N, H, W, C] in a .npz or .npy file.

Whatever is wrong with it is told in one line when it is opened, except pixels that are damaged behind a whole header.
Nothing is guessed: floats, transparency, several sizes and other orders of the axes are refused.
"""

from __future__ import annotations

import abc
import collections
import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import math
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, TypeVar

import numpy as np

from cm import files
from cm.data.encoded import SUFFIXES
from cm.data.sources.stores import Files, Store, ZipMembers, open_zip
from cm.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
GREY, COLOURED = ("1", "L"), ("RGB", "P", "CMYK", "YCbCr")
PART = 32  # images a worker decodes at a time
BEGINNING = 1 << 22  # bytes of an array of another type that are looked at
DAMAGED = (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
Result = TypeVar("Result")


class Images(abc.ABC):
    """Images of one `shape` (H, W, C) in a fixed order; they may be more than fits into memory."""

    shape: tuple[int, int, int]

    @abc.abstractmethod
    def __len__(self) -> int:
        """How many."""

    @abc.abstractmethod
    def batches(self, batch: int, workers: int) -> Iterator[np.ndarray]:
        """All images, uint8 [b, H, W, C], decoded by so many threads; UserError that names one that is damaged."""

    @abc.abstractmethod
    def sha256(self) -> str:
        """Digest of the .npy file, packed or not; of the digests of the encoded images, in a folder as in a zip."""


def opened(path: Path | str, *, size: int | None = None) -> Images:
    """The images of a folder (however deep, sorted by path), zip (sorted by name), .npz or .npy file.

    Grey images have one channel, unless there are coloured ones among them. `size`: the pixels a side that they must
    have. UserError for everything else.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"no file or folder {path}")
    kinds = {".zip": _of_zip, ".npz": _of_npz, ".npy": _of_npy}
    kind = _of_folder if path.is_dir() else kinds.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"{path} is no set of images: expected a folder, or a file that ends in {', '.join(kinds)}")
    try:
        images = kind(path)
    except PermissionError as error:
        raise UserError(f"{error.filename or path} may not be read") from None
    if size is not None and images.shape[:2] != (size, size):
        raise UserError(f"{path} has images of {_by(images.shape)} pixels, not {size}x{size}{_scaled(size)}")
    return images


def _scaled(size: int | str = "SIZE") -> str:
    return f"; `cm prepare --dataset folder --resolution {size}` crops and scales a folder of images"


def _by(shape: tuple[int, ...]) -> str:
    """Height by width."""
    return f"{shape[0]}x{shape[1]}"


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures(Images):
    """Encoded images; `digest` of the digests of all of them."""

    store: Store
    shape: tuple[int, int, int]
    digest: str

    def __len__(self) -> int:
        return len(self.store.names)

    def batches(self, batch: int, workers: int) -> Iterator[np.ndarray]:
        starts = range(0, len(self), batch)
        places = (
            range(part, min(part + PART, start + batch, len(self)))
            for start in starts
            for part in range(start, min(start + batch, len(self)), PART)
        )
        with self.store.opened() as get:
            decoded = functools.partial(_with_image, self.store, get, self._pixels)
            with contextlib.closing(
                _in_order(lambda part: np.stack(list(map(decoded, part))), places, workers)
            ) as parts:
                for start in starts:
                    wanted = min(batch, len(self) - start)
                    yield np.concatenate(list(itertools.islice(parts, -(-wanted // PART))))

    def sha256(self) -> str:
        return self.digest

    def _pixels(self, image: Image, data: bytes) -> np.ndarray:
        if (image.height, image.width) != self.shape[:2]:
            raise ValueError("it has changed since the images were opened")
        return np.asarray(image.convert("L" if self.shape[-1] == 1 else "RGB")).reshape(self.shape)


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

    def batches(self, batch: int, workers: int) -> Iterator[np.ndarray]:
        for start in range(0, len(self), batch):
            yield np.array(self.pixels[start : start + batch], order="C")

    def sha256(self) -> str:
        if self.member is None:
            return files.sha256_of(self.path)
        with _whole(self.path), open_zip(self.path).open(self.member) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


def _of_folder(path: Path) -> Pictures:
    return _pictures(Files(path, []), sorted(_below(path)))


def _of_zip(path: Path) -> Pictures:
    return _pictures(ZipMembers(path, []), sorted(name for name in open_zip(path).namelist() if name[-1] != "/"))


def _below(path: Path) -> Iterator[str]:
    """Relative paths of all files, links to folders followed; a folder that may not be read is an error."""

    def refuse(error: OSError) -> None:
        raise error

    for folder, _, names in os.walk(path, followlinks=True, onerror=refuse):
        yield from ((Path(folder).relative_to(path) / name).as_posix() for name in names)


def _pictures(store: Store, found: list[str]) -> Pictures:
    """The images among the files that were found, after a look at the header of each."""
    store = dataclasses.replace(store, names=[name for name in found if _is_picture(name)])
    if not store.names:
        beside = f", only files such as {found[0]}" if found else ""
        raise UserError(f"{store.path} has no images in it ({', '.join(sorted(SUFFIXES))}){beside}")
    sizes: dict[tuple[int, int], str] = {}
    grey, digest = True, hashlib.sha256()
    with store.opened() as get, contextlib.closing(_looks(store, get)) as looks:
        for name, look in zip(store.names, looks, strict=True):
            sizes.setdefault(look.size, name)
            if len(sizes) > 1:
                different = " and ".join(f"{other} of {_by(size)}" for size, other in sizes.items())
                raise UserError(f"{store.path} has images of several sizes: {different} pixels{_scaled()}")
            grey &= look.grey
            digest.update(look.digest)
    return Pictures(store, (*next(iter(sizes)), 1 if grey else 3), digest.hexdigest())


def _is_picture(name: str) -> bool:
    """By its suffix; hidden files are none."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(part.startswith((".", "__MACOSX")) for part in path.parts)


@dataclasses.dataclass(frozen=True)
class Look:
    """What the header of an image says; `size`: height and width. `digest`: of the whole file."""

    size: tuple[int, int]
    grey: bool
    digest: bytes


def _looks(store: Store, get: Callable[[int], bytes]) -> Iterator[Look]:
    count = len(store.names)
    parts = (range(start, min(start + PART, count)) for start in range(0, count, PART))
    look = functools.partial(_with_image, store, get, _look)
    for part in _in_order(lambda part: [look(index) for index in part], parts, len(os.sched_getaffinity(0))):
        yield from part


def _look(image: Image, data: bytes) -> Look:
    if image.has_transparency_data:
        raise ValueError("it has transparency; save it as RGB")
    if image.mode not in GREY + COLOURED:
        raise ValueError(f"expected 8 bits a channel, grey or colour, not Pillow's mode '{image.mode}'")
    return Look((image.height, image.width), image.mode in GREY, hashlib.sha256(data).digest())


def _with_image(store: Store, get: Callable[[int], bytes], use: Callable[[Image, bytes], Result], index: int) -> Result:
    """What `use` makes of an image that is open, but not yet decoded, and of its file; a UserError that names it."""
    from PIL import Image, UnidentifiedImageError

    try:
        data = get(index)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return use(image, data)
    except UnidentifiedImageError:
        reason = "it is not a PNG, JPEG, WebP or BMP image"
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a damaged image can raise almost anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise UserError(f"{store.path}: {store.names[index]} cannot be used: {reason}")


def _in_order(function: Callable[[range], Result], parts: Iterable[range], workers: int) -> Iterator[Result]:
    """`function` of each part, in threads, of which Pillow's decoders do not hold each other up; a few are ahead."""
    pool = ThreadPoolExecutor(workers)
    ahead = collections.deque()
    try:
        for part in parts:
            ahead.append(pool.submit(function, part))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


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


def _of_npy(path: Path) -> Array:
    with _whole(path), open(path, "rb") as stream:
        header = _header(stream)
        _check(header, stream, path, available=path.stat().st_size)
        return Array(path, header.mapped(path))


def _of_npz(path: Path) -> Array:
    archive = open_zip(path)
    headers = {}
    with _whole(path):
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


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise UserError(f"{path} is not a whole {path.suffix} file: {str(error).splitlines()[0]}") from None


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
