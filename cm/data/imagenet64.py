"""ImageNet at 64x64 with the preprocessing of ADM: the ILSVRC2012 training images, scaled and cropped in the centre.

It is not the "downsampled ImageNet 64x64" of Chrabaszcz et al. (2017), whose images are squeezed and whose scores
cannot be compared. It has no test split: the paper trains and scores on the training images.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated

import numpy as np

from cm.config.settings import at_least, at_most
from cm.data import cropping
from cm.data.base import DataSet, Source, check_count
from cm.data.encoded import EncodedImages, is_image_file
from cm.data.locating import require_in_cache
from cm.data.sources.folders import list_files
from cm.data.sources.stores import FolderFiles, Store
from cm.data.sources.tars import index_tar_of_tars
from cm.errors import UserError
from cm.registry import register

NAMES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_train")
HOME = "https://image-net.org (it needs an account)"
SYNSET = re.compile(r"n\d{8}")


@register("dataset", "imagenet64")
@dataclasses.dataclass(frozen=True)
class ImageNet64(DataSet):
    """Labels are the places of the synsets in sorted order.

    `images`: the least number of images that the source must have.
    """

    resolution = 64
    preprocessing = cropping.ADM.format(size=64) + "; not the downsampled ImageNet of Chrabaszcz et al. (2017)"
    images: Annotated[int, at_least(1), at_most(10**9)] = 1_281_167

    def open(self, path: Path | None, scratch: Path) -> Source:
        """List the images of a tar with one tar per synset, or of a folder with one folder per synset."""
        path = path or require_in_cache(NAMES, HOME)
        store = _list_folder(path) if path.is_dir() else index_tar_of_tars(path)
        check_count(len(store.names), self.images, path)
        images = EncodedImages(store, _labels(store.names), cropping.adm, self.resolution)
        return Source(path.name, {"train": images}, fingerprint=store.fingerprint())


def _list_folder(path: Path) -> Store:
    if not any(SYNSET.fullmatch(folder.name) and folder.is_dir() for folder in path.iterdir()):
        raise UserError(f"{path} has no folders of synsets, such as n01440764")
    return FolderFiles(path, list_files(path, _is_image_of_synset)[0])


def _is_image_of_synset(name: str) -> bool:
    synset, _, file = name.partition("/")
    return SYNSET.fullmatch(synset) is not None and "/" not in file and is_image_file(file)


def _labels(names: list[str]) -> np.ndarray:
    _, labels = np.unique([name.partition("/")[0] for name in names], return_inverse=True)
    return labels.astype(np.int64)
