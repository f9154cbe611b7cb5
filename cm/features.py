"""Images to features: the one door through which samples and reference images go to be compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from cm.metrics import Features
from cm.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

Extractor = Callable[["Tensor"], tuple["Tensor", "Tensor | None"]]


def extract(extractor: Extractor, images: np.ndarray, *, batch: int = 256, device: str = "cpu") -> Features:
    """Features [N, D] and logits [N, K], if there are any, of uint8 images [N, H, W, C].

    `extractor` takes images [B, C, H, W] in [-1, 1].
    """
    progress, parts = Progress("features", len(images), unit="images"), []
    for start in range(0, len(images), batch):
        x = torch.from_numpy(np.array(images[start : start + batch])).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.inference_mode():
            parts.append([part.float().cpu().numpy() for part in extractor(x) if part is not None])
        progress.update(len(x))
    progress.close()
    units, *logits = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Features(units, logits[0] if logits else None)
