"""Encoded images in a folder or a zip, looked at when they are opened and decoded by threads."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from cm.data.encoded import SUFFIXES, is_image_file, list_files
from cm.data.sources.stores import FolderFiles, Store, ZipMembers, open_zip
from cm.errors import UserError
from cm.evaluation.imagesets.base import Images
from cm.utils.parallel import map_in_order

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
GREY, COLOURED = ("1", "L"), ("RGB", "P", "CMYK", "YCbCr")
PART = 32  # images a worker decodes at a time
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures(Images):
    """Encoded images; `digest` of the digests of all of them."""

    store: Store
    shape: tuple[int, int, int]
    digest: str

    def __len__(self) -> int:
        return len(self.store.names)

    def batches(self, batch: int, workers: int, start: int = 0) -> Iterator[np.ndarray]:
        starts = range(start, len(self), batch)
        places = (
            range(part, min(part + PART, start + batch, len(self)))
            for start in starts
            for part in range(start, min(start + batch, len(self)), PART)
        )
        with self.store.open() as get:
            decoded = functools.partial(_with_image, self.store, get, self._pixels)
            made = map_in_order(lambda part: np.stack([decoded(index) for index in part]), places, workers)
            with contextlib.closing(made) as parts:
                for start in starts:
                    wanted = min(batch, len(self) - start)
                    yield np.concatenate(list(itertools.islice(parts, -(-wanted // PART))))

    def only(self, places: np.ndarray | slice) -> Pictures:
        names = [self.store.names[index] for index in np.arange(len(self))[places]]
        return dataclasses.replace(self, store=dataclasses.replace(self.store, names=names))

    def sha256(self) -> str:
        return self.digest

    def _pixels(self, image: Image, data: bytes) -> np.ndarray:
        if (image.height, image.width) != self.shape[:2]:
            raise ValueError("it has changed since the images were opened")
        return np.asarray(image.convert("L" if self.shape[-1] == 1 else "RGB")).reshape(self.shape)


def of_folder(path: Path) -> Pictures:
    return _pictures(FolderFiles(path, []), sorted(list_files(path)))


def of_zip(path: Path) -> Pictures:
    return _pictures(ZipMembers(path, []), sorted(name for name in open_zip(path).namelist() if name[-1] != "/"))


def scaled(size: int | str = "SIZE") -> str:
    return f"; `cm prepare --dataset folder --resolution {size}` crops and scales a folder of images"


def by(shape: tuple[int, ...]) -> str:
    """Height by width."""
    return f"{shape[0]}x{shape[1]}"


def _pictures(store: Store, found: list[str]) -> Pictures:
    """The images among the files that were found, after a look at the header of each."""
    store = dataclasses.replace(store, names=[name for name in found if is_image_file(name)])
    if not store.names:
        beside = f", only files such as {found[0]}" if found else ""
        raise UserError(f"{store.path} has no images in it ({', '.join(sorted(SUFFIXES))}){beside}")
    sizes: dict[tuple[int, int], str] = {}
    grey, digest = True, hashlib.sha256()
    with store.open() as get, contextlib.closing(_looks(store, get)) as looks:
        for name, look in zip(store.names, looks, strict=True):
            sizes.setdefault(look.size, name)
            if len(sizes) > 1:
                different = " and ".join(f"{other} of {by(size)}" for size, other in sizes.items())
                raise UserError(f"{store.path} has images of several sizes: {different} pixels{scaled()}")
            grey &= look.grey
            digest.update(look.digest)
    return Pictures(store, (*next(iter(sizes)), 1 if grey else 3), digest.hexdigest())


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
    for part in map_in_order(lambda part: [look(index) for index in part], parts, len(os.sched_getaffinity(0))):
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
