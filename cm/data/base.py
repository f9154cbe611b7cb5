"""What a data set is: settings, splits, and a way to open its source; and what the splits of an open source are."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from cm.errors import UserError


@dataclasses.dataclass(frozen=True)
class Picture:
    """One image of a source: uint8 pixels [H, W, C], or None and what is wrong with it.

    `digest`: sha256 of the encoded image, 32 bytes; empty for images that were never encoded.
    """

    name: str
    pixels: np.ndarray | None
    digest: bytes = b""
    problem: str = ""


class Images(abc.ABC):
    """Images in their order, which may be more than fits into memory."""

    encoded: ClassVar[bool]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @abc.abstractmethod
    def part(self, start: int, stop: int) -> Images:
        """A few of them; small enough to be sent to another process."""

    @abc.abstractmethod
    def read(self) -> Iterator[Picture]:
        """Every image; UserError if the source as a whole turns out to be damaged."""


@dataclasses.dataclass(frozen=True)
class InMemory(Images):
    """Images that are all here: uint8 [N, H, W, C]; labels int64 [N]."""

    encoded: ClassVar[bool] = False
    pixels: np.ndarray
    labels: np.ndarray

    def part(self, start: int, stop: int) -> InMemory:
        return InMemory(self.pixels[start:stop], self.labels[start:stop])

    def read(self) -> Iterator[Picture]:
        return (Picture("", pixels) for pixels in self.pixels)


@dataclasses.dataclass(frozen=True)
class Opened:
    """A source that was looked into. `name`: of the file or folder; `stamp`: changes when the source does.

    `sha256`: of what `of` says; None if it comes out only when all the encoded images are read.
    """

    name: str
    splits: Mapping[str, Images]
    stamp: str
    sha256: str | None = None
    of: str = "the sha256 digests of the encoded images, in their order"


class DataSet(abc.ABC):
    """A data set. Its fields are the settings that a `data:` section may give.

    `digests`: split to the sha256 of its raw images and of its int64 labels, for a data set that never changes.
    """

    resolution: ClassVar[int]
    channels: ClassVar[int] = 3
    splits: ClassVar[tuple[str, ...]] = ("train",)
    preprocessing: str
    digests: ClassVar[Mapping[str, tuple[str, str]]] = {}

    @abc.abstractmethod
    def open(self, source: Path | None, scratch: Path) -> Opened:
        """The splits of `source`, or of what is found in the cache or fetched from the data set's home if it is None.

        `scratch`: a folder for what has to be unpacked, removed when the data set is prepared. UserError, with how to
        get the data set, if there is no source, and for one that is damaged, incomplete or of another format.
        """


def check_count(found: int, wanted: int, source: Path) -> None:
    """UserError for a source with fewer images than the data set has."""
    if found < wanted:
        part = f"; for a part of the data set: --images {found}" if found else ""
        raise UserError(f"{source} has {found} images, not {wanted}: it is incomplete{part}")
