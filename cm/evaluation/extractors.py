"""What features are of: a network, and how images come to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


@dataclass(frozen=True)
class Extractor:
    """Features of images uint8 [B, H, W, C], as `network(host(images).to(device))`.

    `name`: of the weights, or of the run of a classifier. `width`: numbers an image, D. `host`: images to what the
    network takes, on the processor; it may be called in threads. `network`: that to features [B, D] in float32, and
    logits [B, K] or None.
    """

    name: str
    width: int
    host: Callable[[np.ndarray], Tensor]
    network: nn.Module
