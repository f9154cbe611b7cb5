"""Any set of images to be scored: a folder or zip of encoded images, or an array [N, H, W, C] in a .npz or .npy file.

Whatever is wrong with it is told in one line when it is opened, except pixels that are damaged behind a whole header.
Nothing is guessed: floats, transparency, several sizes and other orders of the axes are refused.
"""

from __future__ import annotations

import abc
import collections
import dataclasses
import hashlib
import io
import itertools
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np

from cm import files
from cm.data.encoded import SUFFIXES
from cm.data.sources.stores import Files, Store, Unreadable, ZipMembers, open_zip
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
            parts = _in_order(lambda part: np.stack([self._decoded(get, i) for i in part]), places, workers)
            for start in starts:
                wanted = min(batch, len(self) - start)
                yield np.concatenate(list(itertools.islice(parts, -(-wanted // PART))))

    def sha256(self) -> str:
        return self.digest

    def _decoded(self, get: Callable[[int], bytes], index: int) -> np.ndarray:
        def pixels(image: Image, data: bytes) -> np.ndarray:
            if (image.height, image.width) != self.shape[:2]:
                raise ValueError("it has changed since the images were opened")
            return np.asarray(image.convert("L" if self.shape[-1] == 1 else "RGB")).reshape(self.shape)

        return _with_image(self.store, index, get, pixels)


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
