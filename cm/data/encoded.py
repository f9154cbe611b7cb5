"""Images that are decoded and cropped one by one, wherever their bytes are stored."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from cm.data.base import ImageSequence, SourceImage
from cm.data.sources.stores import Store, UnreadableImage

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


@dataclasses.dataclass(frozen=True)
class EncodedImages(ImageSequence):
    """Encoded images (JPEG, PNG, WebP, ...) in a store, and their labels, int64 [N].

    `crop`: a function `(data, size)` that returns uint8 [size, size, 3].
    """

    encoded: ClassVar[bool] = True
    store: Store
    labels: np.ndarray
    crop: Callable[[bytes, int], np.ndarray]
    size: int

    def slice(self, start: int, stop: int) -> EncodedImages:
        """Return the images `start` to `stop`."""
        return dataclasses.replace(self, store=self.store.slice(start, stop), labels=self.labels[start:stop])

    def read(self) -> Iterator[SourceImage]:
        """Decode and crop every image; one that cannot be decoded has no pixels but a problem."""
        with self.store.open() as read_bytes:
            for index, name in enumerate(self.store.names):
                yield self._read_image(name, index, read_bytes)

    def _read_image(self, name: str, index: int, read_bytes: Callable[[int], bytes]) -> SourceImage:
        try:
            data = read_bytes(index)
        except UnreadableImage as error:
            return SourceImage(name, None, bytes(32), str(error))
        digest = hashlib.sha256(data).digest()
        try:
            return SourceImage(name, self.crop(data, self.size), digest)
        except MemoryError:
            raise
        except Exception as error:  # a damaged image can raise almost anything
            return SourceImage(name, None, digest, _describe_problem(error))


def _describe_problem(error: Exception) -> str:
    """The first line of Pillow's message, which for an unknown format would show an address in memory."""
    line = (str(error).splitlines() or [""])[0]
    return "not an image of a known format" if "cannot identify" in line else line or type(error).__name__


def is_image_file(name: str) -> bool:
    """Whether a path is that of an image, by its suffix; hidden files and files in hidden folders are not."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(part.startswith((".", "__MACOSX")) for part in path.parts)


def list_files(folder: Path) -> Iterator[str]:
    """Yield the relative paths of all files in a folder, following links to folders.

    Raises OSError for a folder that may not be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    for parent, _, names in os.walk(folder, followlinks=True, onerror=refuse):
        yield from ((Path(parent).relative_to(folder) / name).as_posix() for name in names)
