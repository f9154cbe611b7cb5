"""The interface of a set of images: so many of one shape, in a fixed order, read in batches."""

from __future__ import annotations

import abc
from collections.abc import Iterator

import numpy as np


class Images(abc.ABC):
    """Images of one `shape` (H, W, C) in a fixed order, which may be more than fit into memory."""

    shape: tuple[int, int, int]

    @abc.abstractmethod
    def __len__(self) -> int:
        """The number of images."""

    @abc.abstractmethod
    def batches(self, batch: int, workers: int, start: int = 0) -> Iterator[np.ndarray]:
        """Batches uint8 [b, H, W, C] of `batch` images, the last one maybe smaller, from the image `start` on.

        `workers` threads decode the images. Raises UserError, which names the image, for a damaged one.
        """

    @abc.abstractmethod
    def subset(self, places: np.ndarray | slice) -> Images:
        """The images at these places, in the order of the places."""

    @abc.abstractmethod
    def sha256(self) -> str:
        """The digest of all images of the source: of the .npy file, packed or not, or of the digests of all encoded
        images, which is the same for a folder and a zip.
        """
