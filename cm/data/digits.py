"""Scikit-learn's handwritten digits: 1,797 real grey images of 8x8 in 10 classes, half for training, half for test."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from cm.data.base import ArrayImages, DataSet, Source
from cm.errors import UserError
from cm.registry import register
from cm.utils import files


@register("dataset", "digits")
@dataclasses.dataclass(frozen=True)
class Digits(DataSet):
    """Training and test images are the even and odd places of a fixed permutation. It has no settings."""

    resolution = 8
    channels = 1
    preprocessing = "grey levels 0..16 to 0..255, rounded; even and odd places of a fixed permutation"
    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    digests: ClassVar[Mapping[str, tuple[str, str]]] = {
        "train": (
            "e2819db18e634b6e958237a4172744b258b11e24ae6c3f3a25a7cfb715c27922",
            "0f159503c0c330f3c8997e3741e22427803e514a4ec7b8a9483dfe9a3e913cac",
        ),
        "test": (
            "18faad66efec464ea1fcd563912de3e106e05414ff385be5f305f530171abd49",
            "b2bf7060029f4e4402f7a64f42c09595400dd457f8ab37c8f73243684bfc841a",
        ),
    }

    def open(self, path: Path | None, scratch: Path) -> Source:
        """Read the file in scikit-learn's package, without the second that importing scikit-learn takes.

        The grey levels 0..16 become 0..255. Raises UserError for a `path`.
        """
        if path is not None:
            raise UserError("digits takes no --source: it is a part of scikit-learn")
        file = _package_folder("sklearn") / "datasets" / "data" / "digits.csv.gz"
        table = np.loadtxt(file, delimiter=",")
        images = np.round(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
        labels = table[:, -1].astype(np.int64)
        order = np.random.default_rng(0).permutation(len(images))
        indices = {"train": order[::2], "test": order[1::2]}
        splits = {split: ArrayImages(images[index], labels[index]) for split, index in indices.items()}
        sha256 = files.sha256_of(file)
        return Source(file.name, splits, fingerprint=sha256, sha256=sha256, sha256_of="the file")


def _package_folder(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise UserError(f"the package '{name}' is not installed")
    return Path(spec.origin).parent
