"""Data sets, one a file. A data set is a function `() -> {split: (images, labels)}` with at least `train` and `test`:

uint8 images [N, H, W, C] and int64 labels [N]. `prepare` writes them where training and scoring read them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cm import files, registry


def prepare(dataset: str, out: Path) -> None:
    """Write `<out>/<split>/images.npy`, `labels.npy` and, last, `<out>/manifest.json`."""
    splits = registry.get("dataset", dataset)()
    manifest = {"dataset": dataset, "splits": {}}
    for split, (images, labels) in splits.items():
        files.write_array(out / split / "images.npy", images)
        files.write_array(out / split / "labels.npy", labels)
        manifest["splits"][split] = _summary(images, labels)
    files.write_json(out / "manifest.json", manifest)


def _summary(images: np.ndarray, labels: np.ndarray) -> dict:
    return {
        "images": len(images),
        "shape": list(images.shape[1:]),
        "classes": int(labels.max()) + 1,
        "sha256": files.sha256(images.tobytes()),
    }
