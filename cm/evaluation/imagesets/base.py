"""What a set of images is: so many of one shape, in a fixed order, in batches."""

from __future__ import annotations

import abc
from collections.abc import Iterator

import numpy as np


class Images(abc.ABC):
    """Images of one `shape` (H, W, C) in a fixed order; they may be more than fits into memory."""

    shape: tuple[int, int, int]

    @abc.abstractmethod
    def __len__(self) -> int:
        """How many."""

    @abc.abstractmethod
    def batches(self, batch: int, workers: int, start: int = 0) -> Iterator[np.ndarray]:
        """Images from `start` on, uint8 [b, H, W, C], decoded by `workers` threads; UserError names a damaged one."""

    @abc.abstractmethod
    def only(self, places: np.ndarray | slice) -> Images:
        """The images at these places."""

    @abc.abstractmethod
    def sha256(self) -> str:
        """Digest of the .npy file, packed or not; of the digests of the encoded images, in a folder as in a zip."""
