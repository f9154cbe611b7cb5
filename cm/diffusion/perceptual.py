"""LPIPS with its network, which `cm.diffusion.distances` only describes: what is compiled with torch.compile.

torch is imported here and not lazily, since compilation would stop at each use of it otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cm.diffusion.distances import LPIPS, Distance, resize

Head = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PerceptualDistance:
    """`metric((a + 1) / 2, (b + 1) / 2)`, of images in [-1, 1], as LPIPS takes them.

    Images narrower than 256 pixels are resized to `size` first, unless it is None: bilinear, without antialiasing.
    The autocast of the training does not apply: the metric has a precision of its own.
    """

    metric: Distance
    size: int | None = None

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        with torch.autocast(a.device.type, enabled=False):
            return self.metric(self._prepare(a), self._prepare(b)).flatten()

    def compile(self, backend: str = "inductor") -> PerceptualDistance:
        """The same distance with a metric that torch.compile compiles when it is first called."""
        return replace(self, metric=torch.compile(self.metric, backend=backend))

    def _prepare(self, x: Tensor) -> Tensor:
        x = _to_float32(x)
        size = LPIPS(self.size).compared_size(x.shape[-1])
        return ((x if size == x.shape[-1] else resize(x, size)) + 1) / 2


def feature_distance(maps: Callable[[Tensor], list[Tensor]], heads: Sequence[Head] | None = None) -> Distance:
    """LPIPS of images in [0, 1], [B, C, H, W] twice to [B] (Zhang et al. 2018, Eq. 1).

        sum over layers l of mean over space of head_l((u_l(a) - u_l(b))^2),   u_l = maps_l / ||maps_l|| over channels

    `maps(x)` returns the feature maps [B, C_l, H_l, W_l] of images x, in any precision. `heads`: a weighted sum over
    channels for each layer, [B, C_l, H_l, W_l] to [B, 1, H_l, W_l], by default the plain sum. Nothing is kept of the
    computation of the maps of b, and no gradient flows to b.
    """

    def metric(a: Tensor, b: Tensor) -> Tensor:
        with torch.no_grad():
            target = [_unit(v) for v in maps(b)]
        return _compare([_unit(u) for u in maps(a)], target, heads)

    return metric


def _compare(student: list[Tensor], target: list[Tensor], heads: Sequence[Head] | None) -> Tensor:
    layers = zip(heads or [_sum_channels] * len(target), student, target, strict=True)
    return functools.reduce(torch.add, [head((u - v).square()).mean((1, 2, 3)) for head, u, v in layers])


def _unit(maps: Tensor) -> Tensor:
    maps = _to_float32(maps)
    return maps / (maps.square().sum(1, keepdim=True) + 1e-10).sqrt()


def _sum_channels(squares: Tensor) -> Tensor:
    return squares.sum(1, keepdim=True)


def _to_float32(x: Tensor) -> Tensor:
    """x in float32, or in its own type if that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
