"""What a data set is: a frozen dataclass with the settings of its preparation, which opens a source of images.

    data_set.open(path, scratch) -> Source: for each split an ImageSequence, whose `read` yields SourceImages

A data set is registered in a file of `cm/data`: `@register("dataset", "cifar10")`. Each setting is described in the
docstring of the class and becomes an option of `cm prepare`.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cm.config.checking import hints_of
from cm.errors import UserError

ENCODED_DIGESTS = "the sha256 digests of the encoded images, in their order"


@dataclasses.dataclass(frozen=True)
class SourceImage:
    """One image of a source.

    `pixels`: uint8 [H, W, C], or None if the image cannot be decoded; `problem` then says why. `digest`: sha256 of the
    encoded image, 32 bytes; empty if the source holds plain pixels.
    """

    name: str
    pixels: np.ndarray | None
    digest: bytes = b""
    problem: str = ""


class ImageSequence(abc.ABC):
    """The images of a split in a fixed order, possibly more than fit into memory, and their labels, int64 [N].

    `encoded`: whether each image is decoded when it is read; then it has a digest and may turn out to be undecodable.
    """

    encoded: ClassVar[bool]
    labels: np.ndarray

    @property
    def in_workers(self) -> bool:
        """Whether damaged data can kill the process that reads them, so that this must not be the main one."""
        return False

    def __len__(self) -> int:
        return len(self.labels)

    @abc.abstractmethod
    def slice(self, start: int, stop: int) -> ImageSequence:
        """Return the images `start` to `stop` (exclusive) as an object that can be sent to another process."""

    @abc.abstractmethod
    def read(self) -> Iterator[SourceImage]:
        """Yield every image in order. Raises UserError if the source as a whole turns out to be damaged."""


@dataclasses.dataclass(frozen=True)
class ArrayImages(ImageSequence):
    """Images in memory: `pixels` uint8 [N, H, W, C], `labels` int64 [N]."""

    encoded: ClassVar[bool] = False
    pixels: np.ndarray
    labels: np.ndarray

    def slice(self, start: int, stop: int) -> ArrayImages:
        """Return the images `start` to `stop`."""
        return ArrayImages(self.pixels[start:stop], self.labels[start:stop])

    def read(self) -> Iterator[SourceImage]:
        """Yield every image; none can be undecodable."""
        return (SourceImage("", pixels) for pixels in self.pixels)


@dataclasses.dataclass(frozen=True)
class Source:
    """An open source: the images of each split, and what identifies them.

    `name`: the name of the file or folder. `fingerprint`: text that changes when the source changes. `sha256`: the
    digest of what `sha256_of` says, or None if it is known only after all encoded images have been read.
    """

    name: str
    splits: Mapping[str, ImageSequence]
    fingerprint: str
    sha256: str | None = None
    sha256_of: str = ENCODED_DIGESTS


class DataSet(abc.ABC):
    """A data set. The fields of the dataclass are its settings, which stand in the `data:` section of an experiment.

    `resolution`: height and width of the prepared images in pixels; `channels`: 3 for RGB, 1 for grey. `splits`: the
    names of its splits. `digests`: for a data set that never changes, split to the sha256 of the raw images and of the
    int64 labels.
    """

    resolution: int
    channels: int = 3
    splits: ClassVar[tuple[str, ...]] = ("train",)
    digests: ClassVar[Mapping[str, tuple[str, str]]] = {}

    @property
    @abc.abstractmethod
    def preprocessing(self) -> str:
        """How the images of the source become the prepared images, in words."""

    @abc.abstractmethod
    def open(self, path: Path | None, scratch: Path) -> Source:
        """Open the source at `path` or, if it is None, the one in the cache, which is fetched where that is allowed.

        `scratch`: a folder for files that have to be unpacked; it is removed when the data set is prepared. Raises
        UserError for a source that is damaged, incomplete or of another format, and, with instructions how to obtain
        the data set, if there is no source.
        """

    def settings(self) -> dict[str, Any]:
        """The settings of the preparation by name."""
        return {name: getattr(self, name) for name in hints_of(type(self))}


def check_count(count: int, expected: int, path: Path) -> None:
    """Raise UserError for a source at `path` with fewer images than expected."""
    if count < expected:
        advice = f"; for a part of the data set: --images {count}" if count else ""
        raise UserError(f"{path} has {count} images, not {expected}: it is incomplete{advice}")


def check_labels(labels: Any, classes: int, where: object) -> np.ndarray:
    """The labels as int64 [N]. Raises UserError unless they are whole numbers from 0 to `classes` - 1.

    `where`: the place of the labels, for the error.
    """
    if isinstance(labels, list) and any(type(label) is not int for label in labels):
        raise UserError(f"{where}: labels must be whole numbers")
    try:
        array = np.asarray(labels)
    except (ValueError, OverflowError):
        raise UserError(f"{where}: labels must be a list of whole numbers") from None
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UserError(f"{where}: labels must be whole numbers [N], not {array.dtype} {list(array.shape)}")
    if len(array) and not 0 <= array.min() <= array.max() < classes:
        raise UserError(f"{where}: labels must be in 0..{classes - 1}, not in {array.min()}..{array.max()}")
    return array.astype(np.int64)
