"""d(a, b), the paper's metric between images: functions of two batches [B, C, H, W] in [-1, 1] that give [B].

A distance with the attribute `perceptual` is a class that is made with a feature network; see `LPIPS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cm.lazy import torch
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("distance", "l1")
def l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (a - b).abs().flatten(1).mean(1)


@register("distance", "l2")
def l2(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference (squared, not its root: as the official code)."""
    return (a - b).square().flatten(1).mean(1)


@register("distance", "linf")
def linf(a: Tensor, b: Tensor) -> Tensor:
    """Largest absolute difference (the CIFAR-10 code's `linf`)."""
    return (a - b).abs().flatten(1).amax(1)


@register("distance", "l2-32")
def l2_32(a: Tensor, b: Tensor) -> Tensor:
    """`l2` after a bilinear resize to 32 pixels (the official code's `l2-32`)."""
    return l2(resize(a, 32), resize(b, 32))


@register("distance", "lpips")
@dataclass(frozen=True)
class LPIPS:
    """Learned perceptual distance (Zhang et al. 2018): `metric(a, b)` on images in [0, 1], [B, C, size, size] to [B].

    Images narrower than 256 pixels are resized to `size` first, bilinearly and without antialiasing, as in the
    official code; `size` None leaves them as they are. Computed in float32 under autocast too.
    """

    metric: Callable[[Tensor, Tensor], Tensor]
    size: int | None = None
    perceptual = True
    pooling = "max"

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        with torch.autocast(a.device.type, enabled=False):
            return self.metric(self._prepared(a), self._prepared(b)).flatten()

    def _prepared(self, x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.size and x.shape[-1] < 256:
            x = resize(x, self.size)
        return (x + 1) / 2


@register("distance", "lpips-average")
class AverageLPIPS(LPIPS):
    """`lpips` with average pools in place of VGG16's max pools: the official code for ImageNet and LSUN."""

    pooling = "average"


def feature_distance(maps: Callable[[Tensor], list[Tensor]]) -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS without learned heads: squared differences of channel-normalised maps, mean over space, sum over layers.

    `maps(x)` gives the feature maps [B, C_l, H_l, W_l] of images x in [0, 1].
    """

    def metric(a: Tensor, b: Tensor) -> Tensor:
        layers = zip(maps(a), maps(b), strict=True)
        return sum((_unit(u) - _unit(v)).square().sum(1).mean((1, 2)) for u, v in layers)

    return metric


def _unit(maps: Tensor) -> Tensor:
    return maps / (maps.square().sum(1, keepdim=True) + 1e-10).sqrt()


def resize(x: Tensor, size: int) -> Tensor:
    """Bilinear resize to [B, C, size, size], corners not aligned, no antialiasing."""
    return torch.nn.functional.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
