"""ImageNet at 64x64 as ADM made it: the ILSVRC2012 training images, box and bicubic filters, cropped in the centre.

Not the "downsampled ImageNet 64x64" of Chrabaszcz et al. (2017), whose images are squeezed and whose scores do not
compare. It has no test split: the paper trains and scores on the training images.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np

from cm.config.settings import at_least
from cm.data import cropping
from cm.data.base import DataSet, Opened, check_count
from cm.data.encoded import SUFFIXES, Encoded
from cm.data.locating import by_hand
from cm.data.sources.stores import Files, Store
from cm.data.sources.tars import tar_of_tars
from cm.errors import UserError
from cm.registry import register

NAMES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_train")
HOME = "https://image-net.org (it needs an account)"
SYNSET = re.compile(r"n\d{8}")


@register("dataset", "imagenet64")
@dataclasses.dataclass(frozen=True)
class ImageNet64(DataSet):
    """Labels are the places of the sorted synsets. `images`: how many there must be at least."""

    resolution: ClassVar[int] = 64
    preprocessing: ClassVar[str] = (
        cropping.ADM.format(size=64) + "; not the downsampled ImageNet of Chrabaszcz et al. (2017)"
    )
    images: Annotated[int, at_least(1)] = 1_281_167

    def open(self, source: Path | None, scratch: Path) -> Opened:
        """Look into a tar of one tar a synset, or a folder of one folder a synset."""
        path = source or by_hand(NAMES, HOME)
        store = _folder(path) if path.is_dir() else tar_of_tars(path)
        check_count(len(store.names), self.images, path)
        images = Encoded(store, _labels(store.names), cropping.adm, self.resolution)
        return Opened(path.name, {"train": images}, stamp=store.stamp())


def _folder(path: Path) -> Store:
    synsets = sorted(folder.name for folder in path.iterdir() if SYNSET.fullmatch(folder.name) and folder.is_dir())
    if not synsets:
        raise UserError(f"{path} has no folders of synsets, such as n01440764")
    pictures = {name: sorted(file.name for file in (path / name).iterdir()) for name in synsets}
    return Files(path, [f"{name}/{file}" for name in synsets for file in pictures[name] if _is_picture(file)])


def _is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def _labels(names: list[str]) -> np.ndarray:
    _, labels = np.unique([name.partition("/")[0] for name in names], return_inverse=True)
    return labels.astype(np.int64)
