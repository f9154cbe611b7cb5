"""What consistency distillation and consistency training share: the paper's Eq. 7.

    lambda(t) d( f_theta(x_t, t), f_theta-(x_s, s) ),   x_t = x + t z,   s < t neighbours on the noise grid,

with the student at the noisier time t and the target, through which no gradient flows, at the cleaner time s. The
two methods differ in how they find the neighbour x_s, and in N and mu.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cm.errors import unknown
from cm.lazy import torch
from cm.objectives.base import Clock, Networks, Objective
from cm.registry import setting
from cm.solvers import per_image

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from cm.schedules import Karras

INITS = ("random", "teacher")


@dataclass(frozen=True)
class Consistency(Objective):
    """Shared settings. `distance`: the paper's metric d. `init`: where the weights start, `teacher` or `random`."""

    preconditioning: ClassVar[str] = "boundary"

    distance: Callable[[Tensor, Tensor], Tensor] = setting("lpips", kind="distance")
    solver: Callable = setting("heun", kind="solver")
    weighting: Callable[[Tensor, float], Tensor] = setting("uniform", kind="weighting")
    init: str = setting("teacher")

    def check(self, where: str) -> None:
        """UserError for an unknown `init`."""
        if self.init not in INITS:
            raise unknown("init", self.init, INITS, where)

    @abc.abstractmethod
    def steps_at(self, clock: Clock) -> int:
        """N, the number of times on the grid, at iteration k."""

    @abc.abstractmethod
    def neighbour(self, nets: Networks, x: Tensor, x_t: Tensor, t: Tensor, s: Tensor, labels: Tensor | None) -> Tensor:
        """x_s, the point at time s that is on one trajectory with x_t."""

    def loss(
        self,
        nets: Networks,
        x: Tensor,
        labels: Tensor | None,
        *,
        noise: Karras,
        clock: Clock,
        generator: Generator,
    ) -> Tensor:
        """Algorithms 2 and 3: draw n and z, then `pair_loss` between neighbours."""
        steps = self.steps_at(clock)
        index = torch.randint(steps - 1, (len(x),), generator=generator, device=x.device)
        z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        grid = torch.from_numpy(noise.times(steps)).to(x.device)
        return self.pair_loss(nets, x, labels, z=z, t=grid[index], s=grid[index + 1], sigma_data=noise.sigma_data)

    def pair_loss(
        self,
        nets: Networks,
        x: Tensor,
        labels: Tensor | None,
        *,
        z: Tensor,
        t: Tensor,
        s: Tensor,
        sigma_data: float,
    ) -> Tensor:
        """Eq. 7 for given noise `z` [B, C, H, W] and times `t`, `s` [B], s < t; gives [B]."""
        x_t = x + per_image(t, x) * z
        with torch.no_grad():
            x_s = self.neighbour(nets, x, x_t, t, s, labels)
            target = nets.target(x_s, s, labels)
        return self.weighting(t, sigma_data).to(x.dtype) * self.distance(nets.student(x_t, t, labels), target)
