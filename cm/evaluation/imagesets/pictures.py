"""Sets of encoded images in a folder or a zip: their headers are read on opening, their pixels later, by threads."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from cm.data import decoding
from cm.data.encoded import SUFFIXES, is_image_file
from cm.data.sources.folders import list_files
from cm.data.sources.stores import FolderFiles, Store, ZipMembers
from cm.errors import UserError
from cm.evaluation.imagesets.base import Images
from cm.utils import unpacking
from cm.utils.parallel import map_in_order

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
PART = 32  # images that a thread decodes at a time
Result = TypeVar("Result")
GetBytes = Callable[[int], bytes]


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures(Images):
    """Encoded images in a store. `digest`: the digest of the digests of all files."""

    store: Store
    shape: tuple[int, int, int]
    digest: str

    def __len__(self) -> int:
        return len(self.store.names)

    def batches(self, batch: int, workers: int, start: int = 0) -> Iterator[np.ndarray]:
        """See `Images`. The threads are only a few parts ahead of the batch that is read."""
        with self.store.open() as get:
            decode = functools.partial(self._decode, get)
            with contextlib.closing(_in_threads(decode, self._parts(batch, start), workers)) as parts:
                for first in range(start, len(self), batch):
                    count = min(batch, len(self) - first)
                    yield np.concatenate(list(itertools.islice(parts, -(-count // PART))))

    def subset(self, places: np.ndarray | slice) -> Pictures:
        """See `Images`."""
        names = [self.store.names[index] for index in np.arange(len(self))[places]]
        return dataclasses.replace(self, store=dataclasses.replace(self.store, names=names))

    def sha256(self) -> str:
        """See `Images`."""
        return self.digest

    def _parts(self, batch: int, start: int) -> Iterator[range]:
        """The images that a thread decodes at a time; no part reaches from one batch into the next."""
        for first in range(start, len(self), batch):
            end = min(first + batch, len(self))
            for part in range(first, end, PART):
                yield range(part, min(part + PART, end))

    def _decode(self, get: GetBytes, part: range) -> np.ndarray:
        return np.stack([_read_image(self.store, get, self._pixels, index) for index in part])

    def _pixels(self, image: Image, data: bytes) -> np.ndarray:
        if (image.height, image.width) != self.shape[:2]:
            raise ValueError("it has changed since the images were opened")
        return np.asarray(image.convert("L" if self.shape[-1] == 1 else "RGB")).reshape(self.shape)


def read_folder(path: Path) -> Pictures:
    """The images below a folder, sorted by path."""
    names, others = list_files(path, is_image_file)
    return _read_headers(FolderFiles(path, names), others)


def read_zip(path: Path) -> Pictures:
    """The images in a zip archive, sorted by name."""
    members = sorted(name for name in unpacking.open_zip(path).namelist() if not name.endswith("/"))
    names = [name for name in members if is_image_file(name)]
    return _read_headers(ZipMembers(path, names), [name for name in members if not is_image_file(name)])


def advise_scaling(size: int | str = "SIZE") -> str:
    """The end of an error message about sizes."""
    return f"; `cm prepare --dataset folder --resolution {size}` crops and scales a folder of images"


def format_size(shape: tuple[int, ...]) -> str:
    """`32x48` for images of 32 by 48 pixels, the height first."""
    return f"{shape[0]}x{shape[1]}"


@dataclasses.dataclass(frozen=True)
class Header:
    """What the header of an image says. `size`: height and width. `digest`: the digest of the whole file."""

    size: tuple[int, int]
    grey: bool
    digest: bytes


def _read_headers(store: Store, others: list[str]) -> Pictures:
    """The images of a store, after their headers were read and compared. `others`: what is beside them."""
    if not store.names:
        beside = f", only files such as {others[0]}" if others else ""
        raise UserError(f"{store.path} has no images in it ({', '.join(sorted(SUFFIXES))}){beside}")
    first: Header | None = None
    grey, digest = True, hashlib.sha256()
    with store.open() as get, contextlib.closing(_headers(store, get)) as headers:
        for name, header in zip(store.names, headers, strict=True):
            first = first or header
            _check_same_size(store, first, name, header)
            grey &= header.grey
            digest.update(header.digest)
    height, width = first.size if first else (0, 0)
    return Pictures(store, (height, width, 1 if grey else 3), digest.hexdigest())


def _check_same_size(store: Store, first: Header, name: str, header: Header) -> None:
    if header.size != first.size:
        sizes = f"{store.names[0]} of {format_size(first.size)} and {name} of {format_size(header.size)} pixels"
        raise UserError(f"{store.path} has images of several sizes: {sizes}{advise_scaling()}")


def _headers(store: Store, get: GetBytes) -> Generator[Header, None, None]:
    """The header of each image, in order, read by as many threads as there are processors."""

    def read(part: range) -> list[Header]:
        return [_read_image(store, get, _read_header, index) for index in part]

    count = len(store.names)
    parts = (range(start, min(start + PART, count)) for start in range(0, count, PART))
    for headers in map_in_order(read, parts, len(os.sched_getaffinity(0))):
        yield from headers


def _read_header(image: Image, data: bytes) -> Header:
    if image.has_transparency_data:
        raise ValueError("it has transparency; save it as RGB")
    return Header((image.height, image.width), image.mode in decoding.GREY, hashlib.sha256(data).digest())


def _in_threads(
    function: Callable[[range], np.ndarray], parts: Iterator[range], workers: int
) -> Generator[np.ndarray, None, None]:
    yield from map_in_order(function, parts, workers)


def _read_image(store: Store, get: GetBytes, use: Callable[[Image, bytes], Result], index: int) -> Result:
    """The result of `use` for an image that is open, but not yet decoded, and the bytes of its file.

    Raises UserError, which names the image, if it cannot be read.
    """
    try:
        data = get(index)
        with decoding.open_image(data, FORMATS) as image:
            return use(image, data)
    except UserError:
        raise
    except Exception as error:  # a damaged image can raise almost anything
        reason = unpacking.describe(error)
    raise UserError(f"{store.path}: {store.names[index]} cannot be used: {reason}")
