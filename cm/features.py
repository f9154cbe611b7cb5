"""Images to features: the one door through which samples and reference images go to be compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cm import files
from cm.errors import UserError
from cm.images import Images
from cm.metrics import Features, Moments
from cm.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

Extractor = Callable[["Tensor"], tuple["Tensor", "Tensor | None"]]
ARRAYS = ("units", "mean", "covariance", "about")


def extract(
    extractor: Extractor, images: Images, *, batch: int = 64, workers: int = 1, device: str = "cpu"
) -> Features:
    """Features [N, D] and logits [N, K], if there are any, of images.

    `extractor` takes images [B, C, H, W] in [-1, 1]; `workers` decode files meanwhile.
    """
    parts = list(_batches(extractor, images, batch, workers, device))
    units, *logits = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Features(units, logits[0] if logits else None)


def summarise(
    extractor: Extractor, images: Images, *, keep: int, batch: int = 64, workers: int = 1, device: str = "cpu"
) -> Features:
    """Mean and covariance of the features of all images, and the features of `keep` of them, a fixed random choice.

    Memory does not grow with the number of images.
    """
    chosen = np.zeros(len(images), bool)
    chosen[np.random.RandomState(0).permutation(len(images))[:keep]] = True
    running, kept, start = Moments(), [], 0
    for units, *_ in _batches(extractor, images, batch, workers, device):
        running.add(units)
        kept.append(units[chosen[start : start + len(units)]])
        start += len(units)
    return Features(np.concatenate(kept), fitted=running.result())


def write(path: Path, features: Features, about: Mapping[str, Any]) -> None:
    """A summary as .npz, with a JSON-able description of what it is of."""
    mean, covariance = features.moments()
    files.write_arrays(path, units=features.units, mean=mean, covariance=covariance, about=np.array(json.dumps(about)))


def read(path: Path) -> tuple[Features, dict[str, Any]]:
    """What `write` wrote; UserError for another file."""
    arrays = files.read_arrays(path)
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        raise UserError(f"{path} is no file of features: it has no {', '.join(missing)}")
    return Features(arrays["units"], fitted=(arrays["mean"], arrays["covariance"])), json.loads(str(arrays["about"]))


def _batches(extractor: Extractor, images: Images, batch: int, workers: int, device: str) -> Iterator[list[np.ndarray]]:
    """The features, and the logits if there are any, of each batch."""
    progress = Progress("features", len(images), unit="images")
    for pixels in images.batches(batch, workers):
        x = torch.from_numpy(np.array(pixels)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        # TF32, which GPUs have for convolutions, would move FID in its third decimal.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield [part.float().cpu().numpy() for part in extractor(x) if part is not None]
        progress.update(len(x))
    progress.close()
