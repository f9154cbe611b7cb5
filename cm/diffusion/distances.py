"""d(a, b), the paper's metric between images: functions of two batches [B, C, H, W] in [-1, 1] that give [B].

A distance with the attribute `perceptual` is a class that is made with a feature network; see `LPIPS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol

from cm.config.settings import at_least
from cm.lazy import torch
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor


class Distance(Protocol):
    """d(a, b)."""

    def __call__(self, a: Tensor, b: Tensor, /) -> Tensor:
        """The distance of each pair of images, [B, C, H, W] and [B, C, H, W] to [B]."""
        ...


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
    """Learned perceptual distance (Zhang et al. 2018), of the features of a network (`with_network`).

    `size`: images narrower than 256 pixels are resized to so many first, as in the official code; null compares them at
    their own size, as it always is with a classifier of this suite. `pooling` of a pretrained VGG16: `max` in the
    official code for CIFAR-10, `average` in that for ImageNet and LSUN.
    """

    perceptual: ClassVar[bool] = True
    size: Annotated[int, at_least(1)] | None = 224
    pooling: Literal["average", "max"] = "max"

    def with_network(self, metric: Distance) -> PerceptualDistance:
        """The distance with a metric of images in [0, 1], [B, C, size, size] twice to [B]."""
        return PerceptualDistance(metric, self.size)


@dataclass(frozen=True)
class PerceptualDistance:
    """`metric` of images in [-1, 1] that are narrower than 256 pixels, resized to `size` unless that is None.

    Resizing is bilinear, without antialiasing. Computed in float32 under autocast too.
    """

    metric: Distance
    size: int | None = None

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        with torch.autocast(a.device.type, enabled=False):
            return self.metric(self._prepare(a), self._prepare(b)).flatten()

    def _prepare(self, x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.size and x.shape[-1] < 256:
            x = resize(x, self.size)
        return (x + 1) / 2


def is_perceptual(distance: Distance | LPIPS) -> bool:
    """Whether a distance needs the features of a network."""
    return getattr(distance, "perceptual", False)


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
