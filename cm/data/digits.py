"""Scikit-learn's handwritten digits: 1,797 real grey images of 8x8 in 10 classes, half for training, half for test."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from cm.registry import register


@register("dataset", "digits")
def digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Even and odd places of a fixed permutation; grey levels 0..16 become 0..255.

    Reads the file in scikit-learn's package, as `sklearn.datasets.load_digits` does, without the second that importing
    scikit-learn takes.
    """
    package = Path(importlib.util.find_spec("sklearn").origin).parent
    table = np.loadtxt(package / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    images = np.round(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = table[:, -1].astype(np.int64)
    order = np.random.default_rng(0).permutation(len(images))
    return {name: (images[half], labels[half]) for name, half in (("train", order[::2]), ("test", order[1::2]))}
