"""Images that are decoded and cropped one by one, wherever their bytes are stored."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from cm.data.base import Images, Picture
from cm.data.sources.stores import Store, Unreadable

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


@dataclasses.dataclass(frozen=True)
class Encoded(Images):
    """JPEG, PNG, WebP, ... in a store. `crop`: `(data, size) -> uint8 [size, size, 3]`."""

    encoded: ClassVar[bool] = True
    store: Store
    labels: np.ndarray
    crop: Callable[[bytes, int], np.ndarray]
    size: int

    def part(self, start: int, stop: int) -> Encoded:
        return dataclasses.replace(self, store=self.store.part(start, stop), labels=self.labels[start:stop])

    def read(self) -> Iterator[Picture]:
        with self.store.opened() as get:
            for index, name in enumerate(self.store.names):
                yield self._picture(name, index, get)

    def _picture(self, name: str, index: int, get: Callable[[int], bytes]) -> Picture:
        try:
            data = get(index)
        except Unreadable as error:
            return Picture(name, None, bytes(32), str(error))
        digest = hashlib.sha256(data).digest()
        try:
            return Picture(name, self.crop(data, self.size), digest)
        except MemoryError:
            raise
        except Exception as error:  # a damaged image can raise almost anything
            return Picture(name, None, digest, _reason(error))


def _reason(error: Exception) -> str:
    """The first line of what Pillow said; it names the object in memory if it does not know the format."""
    line = (str(error).splitlines() or [""])[0]
    return "not an image of a known format" if "cannot identify" in line else line or type(error).__name__


def is_picture(name: str) -> bool:
    """Whether a file is an image by its suffix; hidden files are none."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(part.startswith((".", "__MACOSX")) for part in path.parts)


def below(path: Path) -> Iterator[str]:
    """Relative paths of all files of a folder, links to folders followed; OSError for one that may not be read."""

    def refuse(error: OSError) -> None:
        raise error

    for folder, _, names in os.walk(path, followlinks=True, onerror=refuse):
        yield from ((Path(folder).relative_to(path) / name).as_posix() for name in names)
