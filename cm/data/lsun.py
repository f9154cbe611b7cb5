"""LSUN Bedroom and Cat (Yu et al., 2015) at 256x256, from the LMDB export: encoded images, in the order of their keys.

As raw uint8 at 256x256 the 3,033,042 bedrooms take 596.3 GB, the 1,657,264 cats 325.8 GB; a zip of the export is
unpacked beside them first (43 GB and 42 GB). There is one class and no test split.
"""

from __future__ import annotations

import dataclasses
import shutil
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar

import numpy as np

from cm.config.settings import at_least
from cm.data import cropping
from cm.data.base import DataSet, Opened, check_count
from cm.data.encoded import Encoded
from cm.data.locating import by_hand
from cm.data.sources.stores import lmdb_values, open_zip
from cm.errors import UserError
from cm.registry import register
from cm.utils import files
from cm.utils.progress_bar import ProgressBar

DATA = "data.mdb"
BLOCK = 1 << 24


class LSUN(DataSet):
    """One category. `names`: of the export in the cache; `home`: where it is published."""

    resolution: ClassVar[int] = 256
    preprocessing: ClassVar[str] = cropping.LSUN.format(size=256)
    names: ClassVar[tuple[str, ...]]
    home: ClassVar[str]
    images: int

    def open(self, source: Path | None, scratch: Path) -> Opened:
        """Look into the folder of an LMDB, into a folder that has one, or into a zip of one."""
        path = source or by_hand(self.names, self.home)
        store = lmdb_values(_environment(path) if path.is_dir() else _unpacked(path, scratch))
        check_count(len(store.names), self.images, path)
        labels = np.zeros(len(store.names), np.int64)
        images = Encoded(store, labels, cropping.lsun, self.resolution)
        return Opened(path.name, {"train": images}, stamp=store.stamp())


@register("dataset", "lsun_bedroom")
@dataclasses.dataclass(frozen=True)
class Bedroom(LSUN):
    """`images`: how many there must be at least."""

    names: ClassVar[tuple[str, ...]] = ("bedroom_train_lmdb", "bedroom_train_lmdb.zip")
    home: ClassVar[str] = "http://dl.yf.io/lsun/scenes/bedroom_train_lmdb.zip"
    images: Annotated[int, at_least(1)] = 3_033_042


@register("dataset", "lsun_cat")
@dataclasses.dataclass(frozen=True)
class Cat(LSUN):
    """`images`: how many there must be at least."""

    names: ClassVar[tuple[str, ...]] = ("cat", "cat.zip")
    home: ClassVar[str] = "http://dl.yf.io/lsun/objects/cat.zip"
    images: Annotated[int, at_least(1)] = 1_657_264


def _environment(path: Path) -> Path:
    """The folder itself or the only one in it that is an LMDB."""
    found = [path] if (path / DATA).is_file() else [file.parent for file in path.glob(f"*/{DATA}")]
    if len(found) != 1:
        raise UserError(f"{path} has {len(found)} LMDB exports ({DATA}) in it, not one")
    return found[0]


def _unpacked(path: Path, scratch: Path) -> Path:
    """The folder of the LMDB in a zip, written to `scratch` unless an earlier start did."""
    archive = open_zip(path)
    members = [member for member in archive.infolist() if PurePosixPath(member.filename).name == DATA]
    if len(members) != 1:
        raise UserError(f"{path} has {len(members)} LMDB exports ({DATA}) in it, not one")
    folder = scratch / f"{path.stem}.{members[0].CRC:08x}"
    if not (folder / DATA).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(members[0].file_size, path, folder)
        try:
            _extract(archive, members[0], folder / DATA)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise UserError(f"{path} is damaged: {error}") from None
    return folder


def _check_space(size: int, path: Path, folder: Path) -> None:
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
