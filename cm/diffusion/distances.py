"""d(a, b), a distance between images: of two batches [B, C, H, W] in [-1, 1], returning [B].

A distance is a registered function, or a frozen dataclass whose fields are its settings and that is called like one.
`l1` and `l2` are means over the D = C H W values of an image, as in the paper's code; `l2-norm` and `pseudo-huber` are
of the sum over them, as in its successors. `LPIPS` is perceptual: it needs the features of a network.

For losses in continuous time a distance states how it vanishes between images that approach each other, its **degree**
p, and what is left of it, its **limit** (paper, Appendix B):

    limit(a, v) = lim d(a + h v, a) / h^p   for h -> 0

A norm of a - b has degree 1, a distance that is twice differentiable has degree 2, and v^T H(a) v / 2 as its limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, TypeVar

from cm.config.sections import Precision
from cm.config.settings import above, at_least, at_most
from cm.errors import UserError
from cm.lazy import torch
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from cm.diffusion.perceptual import PerceptualDistance

Function = TypeVar("Function", bound=Callable[..., Any])
WIDE = 256  # pixels: images of this width and wider are never resized before a perceptual distance


class Distance(Protocol):
    """d(a, b). `b` is the target: a perceptual distance computes no gradient with respect to it."""

    def __call__(self, a: Tensor, b: Tensor, /) -> Tensor:
        """The distance of each pair of images, [B, C, H, W] and [B, C, H, W] to [B]."""
        ...


def homogeneous(degree: int) -> Callable[[Function], Function]:
    """Return a decorator that states of a distance that d(a, b) = d(a - b, 0) and d(h v, 0) = h^degree d(v, 0)."""

    def decorate(distance: Function) -> Function:
        distance.degree = degree  # type: ignore[attr-defined]
        return distance

    return decorate


def degree_of(distance: Distance | LPIPS) -> int | None:
    """The degree of a distance, None for one that states none and so has no limit."""
    return getattr(distance, "degree", None)


def limit(distance: Any, a: Tensor, v: Tensor) -> Tensor:
    """lim d(a + h v, a) / h^degree of images a and directions v, both [B, C, H, W], returning [B].

    Gradients flow to both. `distance` must have a degree.
    """
    return distance.limit(a, v) if hasattr(distance, "limit") else distance(v, torch.zeros_like(v))


@register("distance", "l1")
@homogeneous(1)
def l1(a: Tensor, b: Tensor) -> Tensor:
    """mean |a - b|."""
    return (a - b).abs().flatten(1).mean(1)


@register("distance", "l2")
@homogeneous(2)
def l2(a: Tensor, b: Tensor) -> Tensor:
    """mean (a - b)^2 (not its root: as in the official code)."""
    return (a - b).square().flatten(1).mean(1)


@register("distance", "linf")
@homogeneous(1)
def linf(a: Tensor, b: Tensor) -> Tensor:
    """max |a - b| (`linf` of the official CIFAR-10 code)."""
    return (a - b).abs().flatten(1).amax(1)


@register("distance", "l2-32")
@homogeneous(2)
def l2_32(a: Tensor, b: Tensor) -> Tensor:
    """`l2` after a bilinear resize to 32x32 pixels (`l2-32` of the official code)."""
    return l2(resize(a, 32), resize(b, 32))


@register("distance", "l2-norm")
@homogeneous(1)
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

    degree: ClassVar[int] = 2
    c: Annotated[float, above(0.0), at_most(1e6)] = 0.00054
    relative: bool = True

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        squares, c = (a - b).square().flatten(1).sum(1), self._constant(a)
        return squares / ((squares + c**2).sqrt() + c)  # the same, without cancellation where a is near b

    def limit(self, a: Tensor, v: Tensor) -> Tensor:
        """||v||^2 / (2 c), [B]."""
        return v.square().flatten(1).sum(1) / (2 * self._constant(v))

    def _constant(self, a: Tensor) -> float:
        return self.c * a[0].numel() ** 0.5 if self.relative else self.c


@register("distance", "lpips")
@dataclass(frozen=True)
class LPIPS:
    """Learned perceptual distance (Zhang et al. 2018), of the features of a network (`with_network`).

    `size`: the width in pixels to which images narrower than 256 pixels are resized first, as in the official code;
    null compares them at their own size, as is always done with a classifier of this suite. `pooling` of a pretrained
    VGG16: `max` in the official code for CIFAR-10, `average` in that for ImageNet and LSUN. `precision`: of the feature
    maps and of the gradients through them; the maps are compared in float32. `float16` is for trainings in float16.

    Grey images are repeated to the three channels of a pretrained network. In bfloat16, the values of the pretrained
    VGG16 were off by 0.8 % or less in the median, by up to 8 % where images nearly agree, and the cosine of the
    gradients with those in float32 was above 0.98 in the median, 0.91 at least; in float16, at the images' own size,
    0.1 %, 1 %, 0.99 and 0.98 (benchmarks/lpips_distance.md).
    """

    perceptual: ClassVar[bool] = True
    degree: ClassVar[int] = 2
    size: Annotated[int, at_least(1), at_most(8192)] | None = 224
    pooling: Literal["average", "max"] = "max"
    precision: Precision = "float32"

    def compared_size(self, resolution: int) -> int:
        """The width in pixels at which images of width `resolution` are compared by a pretrained network."""
        return self.size if self.size and resolution < WIDE else resolution

    def check_size(self, resolution: int, network: str, least: int, where: str) -> None:
        """UserError unless `network`, which takes images of `least` pixels or more, can compare those of a run."""
        size = self.compared_size(resolution)
        if size < least:
            raise UserError(
                f"{where}: distance 'lpips' with size {self.size or 'null'} compares images of {size} pixels, but "
                f"{network} needs at least {least}: set its size to {least} or more"
            )

    def with_network(self, metric: Any) -> PerceptualDistance:
        """The distance with a metric of images in [0, 1], [B, C, size, size] twice to [B].

        The network of the metric has the weights and the feature maps of this distance's `precision`.
        For losses in continuous time the metric has a method `limit` of images in [0, 1] too.
        """
        from cm.diffusion.perceptual import PerceptualDistance

        return PerceptualDistance(metric, self.size, self.precision)


def is_perceptual(distance: Distance | LPIPS) -> bool:
    """Whether a distance needs the features of a network."""
    return getattr(distance, "perceptual", False)


def resize(x: Tensor, size: int) -> Tensor:
    """Bilinear resize to [B, C, size, size], corners not aligned, no antialiasing."""
    return torch.nn.functional.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
