"""d(a, b), a distance between images: of two batches [B, C, H, W] in [-1, 1], returning [B].

A distance is a registered function, or a frozen dataclass whose fields are its settings and that is called like one.
`l1` and `l2` are means over the D = C H W values of an image, as in the paper's code; `l2-norm` and `pseudo-huber` are
of the sum over them, as in its successors. `LPIPS` is perceptual: it needs the features of a network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol

from cm.config.settings import above, at_least
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
    """mean |a - b|."""
    return (a - b).abs().flatten(1).mean(1)


@register("distance", "l2")
def l2(a: Tensor, b: Tensor) -> Tensor:
    """mean (a - b)^2 (not its root: as in the official code)."""
    return (a - b).square().flatten(1).mean(1)


@register("distance", "linf")
def linf(a: Tensor, b: Tensor) -> Tensor:
    """max |a - b| (`linf` of the official CIFAR-10 code)."""
    return (a - b).abs().flatten(1).amax(1)


@register("distance", "l2-32")
def l2_32(a: Tensor, b: Tensor) -> Tensor:
    """`l2` after a bilinear resize to 32x32 pixels (`l2-32` of the official code)."""
    return l2(resize(a, 32), resize(b, 32))


@register("distance", "l2-norm")
def l2_norm(a: Tensor, b: Tensor) -> Tensor:
    """||a - b||, the root of the sum of squares (ECT with c = 0); its gradient at a = b is taken as 0."""
    return torch.linalg.vector_norm((a - b).flatten(1), dim=1)


@register("distance", "pseudo-huber")
@dataclass(frozen=True)
class PseudoHuber:
    """sqrt(||a - b||^2 + c^2) - c over a whole image (Song & Dhariwal 2024, Section 3.3).

    `c`: the constant c, or c / sqrt(D) with D the number of values of an image; iCT has c = 0.00054 sqrt(D), ECT a c
    of its own. `relative`: whether it is c / sqrt(D).
    """

    c: Annotated[float, above(0.0)] = 0.00054
    relative: bool = True

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        squares = (a - b).square().flatten(1).sum(1)
        c = self.c * a[0].numel() ** 0.5 if self.relative else self.c
        return squares / ((squares + c**2).sqrt() + c)  # the same, without cancellation where a is near b


@register("distance", "lpips")
@dataclass(frozen=True)
class LPIPS:
    """Learned perceptual distance (Zhang et al. 2018), of the features of a network (`with_network`).

    `size`: the width in pixels to which images narrower than 256 pixels are resized first, as in the official code;
    null compares them at their own size, as is always done with a classifier of this suite. `pooling` of a pretrained
    VGG16: `max` in the official code for CIFAR-10, `average` in that for ImageNet and LSUN.
    """

    perceptual: ClassVar[bool] = True
    size: Annotated[int, at_least(1)] | None = 224
    pooling: Literal["average", "max"] = "max"

    def with_network(self, metric: Distance) -> PerceptualDistance:
        """The distance with a metric of images in [0, 1], [B, C, size, size] twice to [B]."""
        return PerceptualDistance(metric, self.size)


@dataclass(frozen=True)
class PerceptualDistance:
    """`metric((a + 1) / 2, (b + 1) / 2)`, of images in [-1, 1], as LPIPS takes them.

    Images narrower than 256 pixels are resized to `size` first, unless it is None: bilinear, without antialiasing.
    Computed in float32 under autocast too.
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
    """LPIPS without learned heads.

        sum over layers l of mean over space of ||u_l(a) - u_l(b)||^2,   u_l = maps_l / ||maps_l|| over channels

    `maps(x)` returns the feature maps [B, C_l, H_l, W_l] of images x in [0, 1].
    """

    def metric(a: Tensor, b: Tensor) -> Tensor:
        layers = zip(maps(a), maps(b), strict=True)
        return functools.reduce(torch.add, [(_unit(u) - _unit(v)).square().sum(1).mean((1, 2)) for u, v in layers])

    return metric


def _unit(maps: Tensor) -> Tensor:
    return maps / (maps.square().sum(1, keepdim=True) + 1e-10).sqrt()


def resize(x: Tensor, size: int) -> Tensor:
    """Bilinear resize to [B, C, size, size], corners not aligned, no antialiasing."""
    return torch.nn.functional.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
