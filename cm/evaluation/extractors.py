"""A feature extractor: the network whose features are compared, and how images reach it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


@dataclass(frozen=True)
class Extractor:
    """The features of images, computed as `network(preprocess(images).to(device))`.

    `name`: the name of the pretrained weights, or the run of a classifier. `width`: the number D of features of an
    image. `preprocess`: turns images, uint8 [B, H, W, C], into the input of the network; it runs on the processor and
    must be safe to call from several threads. `network`: a module that returns features [B, D] in float32, logits [B,
    K] or None, and, if it has them and they are wanted, spatial features [B, S]. `sha256`: the digest of the weights,
    which score files record. `precision`: `float32`, or the type of autocast.
    """

    name: str
    width: int
    preprocess: Callable[[np.ndarray], Tensor]
    network: nn.Module
    sha256: str = ""
    precision: str = "float32"

    @property
    def identity(self) -> dict[str, str]:
        """The name and digest by which score files and summaries record the extractor, and a reduced precision."""
        reduced = {} if self.precision == "float32" else {"precision": self.precision}
        return {"name": self.name, "sha256": self.sha256, **reduced}
