"""A prepared data set, as training reads it: its manifest, images and labels are validated before they are used."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cm.data.base import check_labels
from cm.errors import UserError
from cm.utils import fetch, files, npy
from cm.utils.progress_bar import ProgressBar

DIGEST = re.compile("[0-9a-f]{64}")
BLOCK = 1 << 24  # bytes that are read at a time for a digest
LARGE = 1 << 30  # bytes from which on a digest takes long enough to be remembered


@dataclasses.dataclass(frozen=True)
class SplitRecord:
    """What the manifest says of a split.

    `images`: their number. `shape`: (H, W, C). `sha256` and `labels_sha256`: of the pixels, and of the int64 labels.
    """

    images: int
    shape: tuple[int, ...]
    classes: int
    sha256: str
    labels_sha256: str


def read_record(folder: Path, split: str = "train") -> SplitRecord:
    """What the manifest of a prepared data set says of a split.

    Raises UserError if there is no manifest, or if it is not one that `cm prepare` wrote.
    """
    path = folder / "manifest.json"
    manifest = files.read_json(path)
    splits = manifest.get("splits") if isinstance(manifest, dict) else None
    entry = splits.get(split) if isinstance(splits, dict) else None
    if not isinstance(entry, dict):
        raise UserError(f"{path} is no manifest of prepared data with a split '{split}': prepare the data set again")
    for name, is_valid in CHECKS.items():
        if not is_valid(entry.get(name)):
            raise UserError(f"{path}: the {split} split has {name} {entry.get(name)!r:.60}: prepare the data set again")
    return SplitRecord(**{name: entry[name] for name in CHECKS} | {"shape": tuple(entry["shape"])})


def read_images(folder: Path, split: str = "train") -> np.ndarray:
    """The images of a split, mapped into memory, uint8 [N, H, W, C].

    Raises UserError for a file that is missing or has not the size and the digest that the manifest says.
    """
    record, path = read_record(folder, split), folder / split / "images.npy"
    images = npy.read_images(path)
    expected = (record.images, *record.shape)
    if images.shape != expected or not images.flags.c_contiguous:
        raise UserError(f"{path} has images {list(images.shape)}, the manifest says {list(expected)}: prepare it again")
    _check_digest(path, images, record.sha256)
    return images


def read_labels(folder: Path, classes: int, split: str = "train") -> np.ndarray:
    """The labels of a split, int64 [N], in memory.

    `classes`: the number of classes of the network. Raises UserError for labels that are missing, are not one whole
    number below `classes` for each image, or do not have the digest that the manifest says.
    """
    record, path = read_record(folder, split), folder / split / "labels.npy"
    labels = check_labels(np.array(npy.read_array(path)), classes, path)
    if len(labels) != record.images:
        raise UserError(f"{path} has {len(labels)} labels of {record.images} images: prepare the data set again")
    if files.sha256(labels.tobytes()) != record.labels_sha256:
        raise UserError(f"{path} is damaged: its labels do not have the digest in the manifest; prepare it again")
    return labels


def sha256_of_pixels(path: Path, images: np.ndarray) -> str:
    """The sha256 of the pixels of a .npy file, which is read part by part; `images`: its array, mapped."""
    size, digest = images.nbytes, hashlib.sha256()
    progress = ProgressBar(f"checksum of {path.stem}", size, unit="B", lines=4, shown=size > LARGE)
    with open(path, "rb") as file:
        file.seek(path.stat().st_size - size)
        while block := file.read(BLOCK):
            digest.update(block)
            progress.update(len(block))
    progress.close()
    return digest.hexdigest()


def _check_digest(path: Path, images: np.ndarray, expected: str) -> None:
    """Raise UserError if the images do not have their digest.

    For a large file, the cache remembers that it had it, by its size and time of modification.
    """
    status = path.stat()
    key = f"{path.resolve()} {status.st_ino} {status.st_size} {status.st_mtime_ns} {expected}"
    marker = fetch.cache_folder() / "verified" / files.sha256(key.encode())
    if images.nbytes > LARGE and marker.is_file():
        return
    if sha256_of_pixels(path, images) != expected:
        raise UserError(f"{path} is damaged: its images do not have the digest in the manifest; prepare it again")
    if images.nbytes > LARGE:
        with contextlib.suppress(OSError):
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and DIGEST.fullmatch(value) is not None


CHECKS: Mapping[str, Any] = {
    "images": _is_count,
    "shape": lambda value: isinstance(value, list) and len(value) == 3 and all(map(_is_count, value)),
    "classes": _is_count,
    "sha256": _is_digest,
    "labels_sha256": _is_digest,
}
