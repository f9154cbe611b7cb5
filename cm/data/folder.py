"""Any folder, or zip, of images at any resolution: the sub-folders of the first level are the classes."""

from __future__ import annotations

import dataclasses
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np

from cm.config.settings import at_least
from cm.data import cropping
from cm.data.base import DataSet, Opened
from cm.data.encoded import SUFFIXES, Encoded, below, is_picture
from cm.data.sources.stores import Files, Store, ZipMembers, open_zip
from cm.errors import UserError
from cm.registry import register


@register("dataset", "folder")
@dataclasses.dataclass(frozen=True)
class Folder(DataSet):
    """Classes by the sorted names of the sub-folders; a folder without any has one class. Hidden files do not count."""

    resolution: Annotated[int, at_least(1)]

    @property
    def preprocessing(self) -> str:
        """ADM's centre crop."""
        return cropping.ADM.format(size=self.resolution)

    def open(self, source: Path | None, scratch: Path) -> Opened:
        """List the images of a folder, however deep, or of a zip."""
        if source is None:
            raise UserError("the data set 'folder' needs a --source: a folder or a zip of images")
        store = _store(source)
        if not store.names:
            raise UserError(f"{source} has no images in it ({', '.join(sorted(SUFFIXES))})")
        images = Encoded(store, _labels(store.names, source), cropping.adm, self.resolution)
        return Opened(source.name, {"train": images}, stamp=store.stamp())


def _store(path: Path) -> Store:
    if path.is_dir():
        return Files(path, sorted(filter(is_picture, below(path))))
    return ZipMembers(path, sorted(name for name in open_zip(path).namelist() if is_picture(name)))


def _labels(names: list[str], source: Path) -> np.ndarray:
    """Place of the first sub-folder in which the images part; a folder around all of them is none."""
    paths = [PurePosixPath(name).parts for name in names]
    while all(len(path) > 1 for path in paths) and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    loose = [path[-1] for path in paths if len(path) == 1]
    if loose and len(loose) < len(paths):
        raise UserError(f"{source} has images both in sub-folders and beside them, such as {loose[0]}: of which class?")
    classes = sorted({path[0] for path in paths}) if not loose else []
    place = {name: number for number, name in enumerate(classes)}
    return np.array([place.get(path[0], 0) for path in paths], np.int64)
