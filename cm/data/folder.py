"""Any folder or zip of images at any resolution; the sub-folders of the first level are the classes."""

from __future__ import annotations

import dataclasses
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np

from cm.config.settings import at_least, at_most
from cm.data import cropping
from cm.data.base import DataSet, Source
from cm.data.encoded import SUFFIXES, EncodedImages, is_image_file
from cm.data.sources.folders import list_files
from cm.data.sources.stores import FolderFiles, Store, ZipMembers
from cm.errors import UserError
from cm.registry import register
from cm.utils.unpacking import open_zip


@register("dataset", "folder")
@dataclasses.dataclass(frozen=True)
class Folder(DataSet):
    """Classes are numbered by the sorted names of the sub-folders; without sub-folders there is one class.

    Hidden files are ignored.

    `resolution`: height and width of the prepared images in pixels.
    """

    resolution: Annotated[int, at_least(1), at_most(8192)]

    @property
    def preprocessing(self) -> str:
        """ADM's centre crop."""
        return cropping.ADM.format(size=self.resolution)

    def open(self, path: Path | None, scratch: Path) -> Source:
        """List the images of a folder, at any depth, or of a zip. Raises UserError if there are none."""
        if path is None:
            raise UserError("the data set 'folder' needs a --source: a folder or a zip of images")
        store = _list_images(path)
        if not store.names:
            raise UserError(f"{path} has no images in it ({', '.join(sorted(SUFFIXES))})")
        images = EncodedImages(store, _labels(store.names, path), cropping.adm, self.resolution)
        return Source(path.name, {"train": images}, fingerprint=store.fingerprint())


def _list_images(path: Path) -> Store:
    if path.is_dir():
        return FolderFiles(path, list_files(path, is_image_file)[0])
    return ZipMembers(path, sorted(filter(is_image_file, open_zip(path).namelist())))


def _labels(names: list[str], path: Path) -> np.ndarray:
    """The class of each image, int64 [N]: the place of its sub-folder among the sorted sub-folders.

    A folder that contains all images is no class. Raises UserError if only some images are in sub-folders.
    """
    paths = [PurePosixPath(name).parts for name in names]
    while all(len(parts) > 1 for parts in paths) and len({parts[0] for parts in paths}) == 1:
        paths = [parts[1:] for parts in paths]
    loose = [parts[0] for parts in paths if len(parts) == 1]
    if len(loose) == len(paths):
        return np.zeros(len(paths), np.int64)
    if loose:
        raise UserError(f"{path} has images both in sub-folders and beside them, such as {loose[0]}: of which class?")
    _, labels = np.unique([parts[0] for parts in paths], return_inverse=True)
    return labels.astype(np.int64)
