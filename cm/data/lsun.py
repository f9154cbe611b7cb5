"""LSUN Bedroom and Cat (Yu et al., 2015) at 256x256, from the LMDB export: encoded images, in the order of their keys.

As raw uint8 at 256x256 the 3,033,042 bedrooms take 596.3 GB and the 1,657,264 cats 325.8 GB; a zip of the export is
first unpacked beside them (43 GB and 42 GB). There is one class and no test split.
"""

from __future__ import annotations

import dataclasses
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar

import numpy as np

from cm.config.settings import at_least, at_most
from cm.data import cropping
from cm.data.base import DataSet, Source, check_count
from cm.data.encoded import EncodedImages
from cm.data.locating import require_in_cache
from cm.data.sources.stores import list_lmdb
from cm.errors import UserError
from cm.registry import register
from cm.utils import files, unpacking
from cm.utils.progress_bar import ProgressBar

DATA = "data.mdb"
BLOCK = 1 << 24  # bytes unpacked at a time
DAMAGES = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


class LSUN(DataSet):
    """One category. `names`: the names of the export in the cache; `home`: where it is published."""

    resolution = 256
    preprocessing = cropping.LSUN.format(size=256)
    names: ClassVar[tuple[str, ...]]
    home: ClassVar[str]
    images: int

    def open(self, path: Path | None, scratch: Path) -> Source:
        """List the images of an LMDB: its folder, a folder that contains it, or a zip of either."""
        path = path or require_in_cache(self.names, self.home)
        store = list_lmdb(_find_lmdb(path) if path.is_dir() else _unpack_lmdb(path, scratch))
        check_count(len(store.names), self.images, path)
        labels = np.zeros(len(store.names), np.int64)
        images = EncodedImages(store, labels, cropping.lsun, self.resolution)
        return Source(path.name, {"train": images}, fingerprint=store.fingerprint())


@register("dataset", "lsun_bedroom")
@dataclasses.dataclass(frozen=True)
class Bedroom(LSUN):
    """Bedrooms.

    `images`: the least number of images that the source must have.
    """

    names: ClassVar[tuple[str, ...]] = ("bedroom_train_lmdb", "bedroom_train_lmdb.zip")
    home: ClassVar[str] = "http://dl.yf.io/lsun/scenes/bedroom_train_lmdb.zip"
    images: Annotated[int, at_least(1), at_most(10**9)] = 3_033_042


@register("dataset", "lsun_bedroom_validation")
@dataclasses.dataclass(frozen=True)
class BedroomValidation(LSUN):
    """The bedrooms of LSUN's validation split, which no model is trained on, as a data set of its own.

    `images`: the least number of images that the source must have.
    """

    names: ClassVar[tuple[str, ...]] = ("bedroom_val_lmdb", "bedroom_val_lmdb.zip")
    home: ClassVar[str] = "http://dl.yf.io/lsun/scenes/bedroom_val_lmdb.zip"
    images: Annotated[int, at_least(1), at_most(10**9)] = 300


@register("dataset", "lsun_cat")
@dataclasses.dataclass(frozen=True)
class Cat(LSUN):
    """Cats.

    `images`: the least number of images that the source must have.
    """

    names: ClassVar[tuple[str, ...]] = ("cat", "cat.zip")
    home: ClassVar[str] = "http://dl.yf.io/lsun/objects/cat.zip"
    images: Annotated[int, at_least(1), at_most(10**9)] = 1_657_264


def _find_lmdb(path: Path) -> Path:
    """The folder itself, or the only folder in it that is an LMDB."""
    folders = [path] if (path / DATA).is_file() else [file.parent for file in path.glob(f"*/{DATA}")]
    _check_single(folders, path)
    return folders[0]


def _unpack_lmdb(path: Path, scratch: Path) -> Path:
    """The folder of the LMDB in a zip, unpacked to `scratch` unless an earlier start has done it."""
    archive = unpacking.open_zip(path)
    members = [member for member in archive.infolist() if PurePosixPath(member.filename).name == DATA]
    _check_single(members, path)
    folder = scratch / f"{path.stem}.{members[0].CRC:08x}"
    if not (folder / DATA).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(members[0].file_size, path, folder)
        try:
            _extract(archive, members[0], folder / DATA)
        except DAMAGES as error:
            raise UserError(f"{path} is damaged: {unpacking.describe(error)}") from None
    return folder


def _check_single(exports: Sequence[object], path: Path) -> None:
    if len(exports) != 1:
        raise UserError(f"{path} has {len(exports)} LMDB exports ({DATA}) in it, not one")


def _check_space(size: int, path: Path, folder: Path) -> None:
    """Raise UserError if `size` bytes do not fit on the disk (1 GB = 10^9 bytes)."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(f"{path} unpacked takes {size / 1e9:.1f} GB at {folder}, where {free / 1e9:.1f} GB are free")


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    progress = ProgressBar(f"unpacking {DATA}", member.file_size, unit="B")
    with files.replace_file(path) as temporary, archive.open(member) as packed, open(temporary, "wb") as file:
        while block := packed.read(BLOCK):
            file.write(block)
            progress.update(len(block))
    progress.close()
