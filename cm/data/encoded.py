"""Images that are decoded and cropped one by one, wherever their bytes are stored."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np

from cm.data.base import ImageSequence, SourceImage
from cm.data.sources.stores import Store, UnreadableImage
from cm.utils import unpacking

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

    @property
    def in_workers(self) -> bool:
        """See `ImageSequence`."""
        return self.store.in_workers

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
        except Exception as error:  # a damaged image can raise almost anything
            return SourceImage(name, None, digest, unpacking.describe(error))


def is_image_file(name: str) -> bool:
    """Whether a path is that of an image, by its suffix; hidden files and files in hidden folders are not."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(part.startswith((".", "__MACOSX")) for part in path.parts)
