"""One split of a data set: its images are written to a temporary file, checked, and moved beside its labels."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cm.data import prepared, writing
from cm.data.base import ImageSequence
from cm.data.journal import Journal
from cm.errors import UserError
from cm.utils import files, npy


class Split:
    """The images of a split, on their way from a source to the folder `<out>/<name>`.

    `scratch`: the folder of the temporary files. `image_shape`: [H, W, C] of the prepared images. `inputs`: everything
    that the images depend on, in JSON types; work that was done with other inputs is not resumed.
    """

    def __init__(
        self,
        images: ImageSequence,
        name: str,
        scratch: Path,
        *,
        image_shape: tuple[int, ...],
        inputs: Mapping[str, Any],
    ) -> None:
        self.name, self.images, self.labels = name, images, images.labels
        self.problems: dict[int, tuple[str, str]] = {}
        self._path, self._digests = scratch / f"{name}.npy", scratch / f"{name}.sha256"
        self._shape = (len(images), *image_shape)
        header = {**inputs, "split": name, "shape": self._shape, "chunk": writing.CHUNK}
        self._journal = Journal(scratch / f"{name}.journal", json.dumps(header))

    @property
    def missing_bytes(self) -> int:
        """Bytes on the disk that writing the images will take in addition to what is written already."""
        written = self._path.stat().st_blocks * 512 if self._path.exists() and self._journal.done else 0
        return max(0, int(np.prod(self._shape)) - written)

    def write(self, *, workers: int, allow_undecodable: float) -> None:
        """Write all images; those that cannot be decoded are left out, together with their labels.

        Raises ResumableError if their share is larger than `allow_undecodable`.
        """
        self.problems = writing.write_images(
            self.images, self._open_file(), self._journal, workers=workers, allow_undecodable=allow_undecodable
        )
        if self.problems:
            decodable = np.setdiff1d(np.arange(len(self.labels)), list(self.problems))
            self._journal.start_over()
            _keep_rows(self._path, decodable)
            self.labels = self.labels[decodable]

    def summary(self) -> dict[str, Any]:
        """The entry of this split in the manifest."""
        images = npy.read_images(self._path)
        return {
            "images": len(images),
            "shape": list(images.shape[1:]),
            "classes": int(self.labels.max()) + 1,
            "sha256": prepared.sha256_of_pixels(self._path, images),
            "labels_sha256": files.sha256(self.labels.tobytes()),
        }

    def source_sha256(self) -> str:
        """The sha256 of the sha256 digests of all encoded images, including those that were left out."""
        with open(self._digests, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def move(self, folder: Path) -> None:
        """Move the images to `folder`/images.npy and write the labels to `folder`/labels.npy."""
        files.write_array(folder / "labels.npy", self.labels)
        os.replace(self._path, folder / "images.npy")

    def _open_file(self) -> writing.SplitFile:
        """The file to fill: the one that an earlier start left, or a new one, which takes no space on the disk yet."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._is_resumable():
            self._journal.start_over()
            np.lib.format.open_memmap(self._path, "w+", np.uint8, self._shape)
            self._digests.write_bytes(b"")
        offset = np.lib.format.open_memmap(self._path, "r").offset
        return writing.SplitFile(self._path, self._digests, offset, self._shape)

    def _is_resumable(self) -> bool:
        """Whether an earlier start left files that are not shorter than the chunks of its journal."""
        if not (self._journal.done and self._path.is_file() and self._digests.is_file()):
            return False
        try:
            shape = npy.read_images(self._path).shape
        except UserError:
            return False
        stop = min(max(self._journal.done) + writing.images_per_chunk(shape), len(self.images))
        digests = stop * writing.DIGEST_BYTES if self.images.encoded else 0
        return shape == self._shape and self._digests.stat().st_size >= digests


def _keep_rows(path: Path, rows: np.ndarray) -> None:
    """Reduce a uint8 .npy file to some of its rows, in place; the length of its header does not change."""
    array = np.lib.format.open_memmap(path, "r+")
    block = max(1, writing.CHUNK // array[0].nbytes)
    for start in range(0, len(rows), block):
        sources = rows[start : start + block]
        array[start : start + len(sources)] = array[sources]
    array.flush()
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), *array.shape[1:])}
    with open(path, "r+b") as file:
        np.lib.format.write_array_header_1_0(file, header)
        if file.tell() != array.offset:
            raise RuntimeError(f"the header of {path} has another length than before")
        file.truncate(array.offset + len(rows) * array[0].nbytes)
