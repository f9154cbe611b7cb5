"""LPIPS with its network, which `cm.diffusion.distances` only describes: what is compiled with torch.compile.

torch is imported here and not lazily, since compilation would stop at each use of it otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from cm.diffusion.distances import LPIPS, Distance, resize
from cm.diffusion.forward import jvp
from cm.diffusion.precision import multiply_in_float32

Head = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PerceptualDistance:
    """`metric((a + 1) / 2, (b + 1) / 2)`, of images in [-1, 1], as LPIPS takes them.

    Images narrower than 256 pixels are resized to `size` first, unless it is None: bilinear, without antialiasing.
    The autocast of the training does not apply: the metric has a `precision` of its own. `compiled` is called instead
    of the metric; its limit, which torch.compile cannot differentiate forward, is never compiled.
    """

    degree: ClassVar[int] = 2
    metric: Any
    size: int | None = None
    precision: str = "float32"
    compiled: Distance | None = None

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        with self._arithmetic(a.device):
            return (self.compiled or self.metric)(self._prepare(a), self._prepare(b)).flatten()

    def limit(self, a: Tensor, v: Tensor) -> Tensor:
        """lim d(a + h v, a) / h^2 of images a and directions v, both [B, C, H, W], returning [B]."""
        with self._arithmetic(a.device):
            return self.metric.limit(*jvp(self._prepare, (a,), (v,))).flatten()

    def compile(self, mode: str | None = None, backend: str = "inductor") -> PerceptualDistance:
        """The same distance with a metric that torch.compile compiles when it is first called; `mode` is torch's."""
        return replace(self, compiled=torch.compile(self.metric, mode=mode, backend=backend))

    @contextmanager
    def _arithmetic(self, device: torch.device) -> Iterator[None]:
        with torch.autocast(device.type, enabled=False), multiply_in_float32(device, self.precision):
            yield

    def _prepare(self, x: Tensor) -> Tensor:
        x = _to_float32(x)
        size = LPIPS(self.size).compared_size(x.shape[-1])
        return ((x if size == x.shape[-1] else resize(x, size)) + 1) / 2


@dataclass(frozen=True)
class FeatureDistance:
    """LPIPS of images in [0, 1], [B, C, H, W] twice to [B] (Zhang et al. 2018, Eq. 1).

        sum over layers l of mean over space of head_l((u_l(a) - u_l(b))^2),   u_l = maps_l / ||maps_l|| over channels

    `maps(x)` returns the feature maps [B, C_l, H_l, W_l] of images x, in any precision. `heads`: a weighted sum over
    channels for each layer, [B, C_l, H_l, W_l] to [B, 1, H_l, W_l], by default the plain sum. Nothing is kept of the
    computation of the maps of b, and no gradient flows to b.
    """

    maps: Callable[[Tensor], list[Tensor]]
    heads: Sequence[Head] | None = None

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        with torch.no_grad():
            target = self._unit_maps(b)
        return self._add_layers([u - v for u, v in zip(self._unit_maps(a), target, strict=True)])

    def limit(self, a: Tensor, v: Tensor) -> Tensor:
        """The same sum of the squares of the derivatives of u_l(a) along v, [B]."""
        return self._add_layers(jvp(self._unit_maps, (a,), (v,))[1])

    def _unit_maps(self, x: Tensor) -> list[Tensor]:
        return [_unit(layer) for layer in self.maps(x)]

    def _add_layers(self, differences: list[Tensor]) -> Tensor:
        layers = zip(self.heads or [_sum_channels] * len(differences), differences, strict=True)
        return functools.reduce(torch.add, [head(u.square()).mean((1, 2, 3)) for head, u in layers])


def _unit(maps: Tensor) -> Tensor:
    maps = _to_float32(maps)
    return maps / (maps.square().sum(1, keepdim=True) + 1e-10).sqrt()


def _sum_channels(squares: Tensor) -> Tensor:
    return squares.sum(1, keepdim=True)


def _to_float32(x: Tensor) -> Tensor:
    """x in float32, or in its own type if that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
