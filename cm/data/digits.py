"""Scikit-learn's handwritten digits: 1,797 real grey images of 8x8 in 10 classes, half for training, half for test."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from cm.data.base import DataSet, InMemory, Opened
from cm.errors import UserError
from cm.registry import register
from cm.utils import files


@register("dataset", "digits")
@dataclasses.dataclass(frozen=True)
class Digits(DataSet):
    """Even and odd places of a fixed permutation; grey levels 0..16 become 0..255."""

    resolution: ClassVar[int] = 8
    channels: ClassVar[int] = 1
    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    preprocessing: ClassVar[str] = "grey levels 0..16 to 0..255, rounded; even and odd places of a fixed permutation"
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

    def open(self, source: Path | None, scratch: Path) -> Opened:
        """Reads the file in scikit-learn's package, as `load_digits` does, without the second that its import takes."""
        if source is not None:
            raise UserError("digits takes no --source: it is a part of scikit-learn")
        path = Path(importlib.util.find_spec("sklearn").origin).parent / "datasets" / "data" / "digits.csv.gz"
        table = np.loadtxt(path, delimiter=",")
        images = np.round(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
        labels = table[:, -1].astype(np.int64)
        order = np.random.default_rng(0).permutation(len(images))
        halves = {"train": order[::2], "test": order[1::2]}
        splits = {name: InMemory(images[half], labels[half]) for name, half in halves.items()}
        sha256 = files.sha256_of(path)
        return Opened(path.name, splits, stamp=sha256, sha256=sha256, of="the file")
