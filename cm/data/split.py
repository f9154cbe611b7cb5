"""One split: a file that is filled, checked, and moved to its place beside its labels."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from cm.data import writing
from cm.data.base import Images
from cm.data.journal import Journal
from cm.utils import files
from cm.utils.progress_bar import ProgressBar


class Split:
    """The images of a split on their way to `<out>/<name>`. `about`: what they hang on; another one starts over."""

    def __init__(self, images: Images, name: str, scratch: Path, *, image_shape: tuple[int, ...], about: dict) -> None:
        self.name, self.images, self.labels = name, images, images.labels
        self.problems: dict[int, tuple[str, str]] = {}
        self._path, self._digests = scratch / f"{name}.npy", scratch / f"{name}.sha256"
        self._shape = (len(images), *image_shape)
        header = {**about, "split": name, "shape": self._shape, "chunk": writing.CHUNK}
        self._journal = Journal(scratch / f"{name}.journal", json.dumps(header))

    @property
    def missing(self) -> int:
        """Bytes of the disk that writing will still take."""
        taken = self._path.stat().st_blocks * 512 if self._path.exists() and self._journal.done else 0
        return max(0, int(np.prod(self._shape)) - taken)

    def write(self, *, workers: int, allowed: float) -> None:
        """All images, without those that cannot be decoded."""
        target = self._target()
        how = {"workers": workers, "allowed": allowed}
        self.problems = writing.write(self.images, target, self._journal, **how)
        if self.problems:
            keep = np.setdiff1d(np.arange(len(self.labels)), list(self.problems))
            self._journal.start_over()
            _keep_rows(self._path, keep)
            self.labels = self.labels[keep]

    def summary(self) -> dict:
        """Its part of the manifest."""
        images = files.read_images(self._path)
        return {
            "images": len(images),
            "shape": list(images.shape[1:]),
            "classes": int(self.labels.max()) + 1,
            "sha256": _sha256(images, self.name),
            "labels_sha256": files.sha256(self.labels.tobytes()),
        }

    def digest(self) -> str:
        """sha256 of the sha256 digests of the encoded images, also those that were left out."""
        with open(self._digests, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def move(self, folder: Path) -> None:
        """Both files to their place."""
        files.write_array(folder / "labels.npy", self.labels)
        os.replace(self._path, folder / "images.npy")

    def _target(self) -> writing.Target:
        """The file to fill: as an earlier start left it, or a new one, which takes no space yet."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not (self._journal.done and self._path.exists() and self._digests.exists()):
            self._journal.start_over()
            np.lib.format.open_memmap(self._path, "w+", np.uint8, self._shape)
            self._digests.write_bytes(b"")
        offset = np.lib.format.open_memmap(self._path, "r").offset
        return writing.Target(self._path, self._digests, offset, self._shape)


def _keep_rows(path: Path, keep: np.ndarray) -> None:
    """Close up the rows of a .npy file in place, and cut off its end; the header keeps its length."""
    array = np.lib.format.open_memmap(path, "r+")
    block = max(1, writing.CHUNK // array[0].nbytes)
    for start in range(0, len(keep), block):
        rows = keep[start : start + block]
        array[start : start + len(rows)] = array[rows]
    array.flush()
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(keep), *array.shape[1:])}
    with open(path, "r+b") as file:
        np.lib.format.write_array_header_1_0(file, header)
        if file.tell() != array.offset:
            raise RuntimeError(f"the header of {path} has another length than NumPy gave it before")
        file.truncate(array.offset + len(keep) * array[0].nbytes)


def _sha256(images: np.ndarray, name: str) -> str:
    """Of the raw bytes, a few megabytes at a time."""
    block = max(1, 4 * writing.CHUNK // images[0].nbytes)
    digest, progress = hashlib.sha256(), ProgressBar(f"checksum of {name}", len(images), unit="image", lines=4)
    for start in range(0, len(images), block):
        part = images[start : start + block]
        digest.update(part.data)
        progress.update(len(part))
    progress.close()
    return digest.hexdigest()
