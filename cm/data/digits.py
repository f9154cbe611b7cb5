"""Scikit-learn's handwritten digits: 1,797 real grey images of 8x8 in 10 classes, half for training, half for test."""

from __future__ import annotations

import numpy as np

from cm.registry import register


@register("dataset", "digits")
def digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Even and odd places of a fixed permutation; grey levels 0..16 become 0..255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    order = np.random.default_rng(0).permutation(len(images))
    halves = {"train": order[::2], "test": order[1::2]}
    return {name: (images[half], bunch.target[half].astype(np.int64)) for name, half in halves.items()}
