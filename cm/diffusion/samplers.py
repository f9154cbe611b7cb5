"""Samplers: noise to images. A sampler is a frozen dataclass; its fields are its settings, which all stand in its name,
such as `multistep,times~2.0+0.8`; calling it is one algorithm.

    sampler(denoise, z, noise, draw) -> x [B, C, H, W]

`denoise(x, t)` estimates the clean images at times t [B]; z [B, C, H, W] is unit Gaussian; `noise` is the time grid;
`draw()` gives further unit noise like z (each image has its own stream, so an image does not depend on its batch).
`evaluations` is the number of calls of the network (NFE). Nothing is clamped: that is left to who writes images.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cm.config.settings import at_least
from cm.diffusion.solvers import euler, heun
from cm.errors import UserError
from cm.lazy import torch
from cm.registry import register

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from cm.diffusion.noise import KarrasNoise
    from cm.diffusion.solvers import Denoise


@register("sampler", "onestep")
@dataclass(frozen=True)
class OneStep:
    """x = f(T z, T)."""

    @property
    def evaluations(self) -> int:
        return 1

    def __call__(self, denoise: Denoise, z: Tensor, noise: KarrasNoise, draw: Callable[[], Tensor]) -> Tensor:
        return denoise(noise.sigma_max * z, _times(noise.sigma_max, z))


@register("sampler", "multistep")
@dataclass(frozen=True)
class Multistep:
    """Multistep consistency sampling (paper, Algorithm 1): `times` tau_1 > tau_2 > ... after the first step from T."""

    times: tuple[Annotated[float, at_least(0.0)], ...]

    def check(self, where: str) -> None:
        """UserError unless the times decrease and are positive."""
        if any(not t > 0 for t in self.times) or sorted(set(self.times), reverse=True) != list(self.times):
            raise UserError(f"{where}: times must be positive and decrease, not {list(self.times)}")

    @property
    def evaluations(self) -> int:
        return 1 + len(self.times)

    def __call__(self, denoise: Denoise, z: Tensor, noise: KarrasNoise, draw: Callable[[], Tensor]) -> Tensor:
        x = denoise(noise.sigma_max * z, _times(noise.sigma_max, z))
        for tau in self.times:
            tau = min(max(tau, noise.sigma_min), noise.sigma_max)
            x = x + (tau**2 - noise.sigma_min**2) ** 0.5 * draw()
            x = denoise(x, _times(tau, z))
        return x


@register("sampler", "heun")
@dataclass(frozen=True)
class Heun:
    """The deterministic sampler of EDM (Algorithm 1): Heun over `steps` times from T to eps, then Euler to 0."""

    steps: Annotated[int, at_least(2)]

    @property
    def evaluations(self) -> int:
        return 2 * self.steps - 1

    def __call__(self, denoise: Denoise, z: Tensor, noise: KarrasNoise, draw: Callable[[], Tensor]) -> Tensor:
        x = _along(noise.times(self.steps), heun, denoise, z)
        return denoise(x, _times(noise.sigma_min, z))


@register("sampler", "stochastic")
@dataclass(frozen=True)
class Stochastic:
    """The stochastic sampler of EDM (Algorithm 2): `heun` with noise added before each step where t is in [low, high].

    `churn` is S_churn, `low` and `high` S_tmin and S_tmax, `inflation` S_noise. EDM's ImageNet-64 results have
    `steps~256`, `churn~40`, `low~0.05`, `high~50`, `inflation~1.003` (511 evaluations).
    """

    steps: Annotated[int, at_least(2)]
    churn: Annotated[float, at_least(0.0)]
    low: Annotated[float, at_least(0.0)]
    high: Annotated[float, at_least(0.0)]
    inflation: Annotated[float, at_least(0.0)]

    @property
    def evaluations(self) -> int:
        return 2 * self.steps - 1

    def __call__(self, denoise: Denoise, z: Tensor, noise: KarrasNoise, draw: Callable[[], Tensor]) -> Tensor:
        grid = [*noise.times(self.steps), 0.0]
        x = grid[0] * z
        for t, s in itertools.pairwise(grid):
            gamma = min(self.churn / self.steps, 2**0.5 - 1) if self.low <= t <= self.high else 0.0
            noisier = t + gamma * t
            x = x + (noisier**2 - t**2) ** 0.5 * self.inflation * draw()
            x = (heun if s else euler)(denoise, x, _times(noisier, z), _times(s, z))
        return x


@register("sampler", "pd")
@dataclass(frozen=True)
class Progressive:
    """The sampler of progressive distillation: `steps` Euler intervals from T to eps, without a last denoising."""

    steps: Annotated[int, at_least(1)]

    @property
    def evaluations(self) -> int:
        return self.steps

    def __call__(self, denoise: Denoise, z: Tensor, noise: KarrasNoise, draw: Callable[[], Tensor]) -> Tensor:
        return _along(noise.times(self.steps + 1), euler, denoise, z)


def _along(grid: np.ndarray, solver: Callable[..., Tensor], denoise: Denoise, z: Tensor) -> Tensor:
    """From unit noise `z` at the first time of the grid to its last, one step of the solver for each interval."""
    x = float(grid[0]) * z
    for t, s in itertools.pairwise(grid):
        x = solver(denoise, x, _times(t, z), _times(s, z))
    return x


def _times(t: float, z: Tensor) -> Tensor:
    """The time `t` for each image of `z`, [B], float64 so that solvers subtract exactly."""
    return z.new_full((len(z),), float(t), dtype=torch.float64)
