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

from cm.diffusion.solvers import per_image
from cm.errors import unknown
from cm.lazy import torch
from cm.methods.base import Batch, Clock, Networks, Objective
from cm.registry import setting

if TYPE_CHECKING:
    from torch import Tensor

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
    def neighbour(self, nets: Networks, batch: Batch, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x_s, the point at time s that is on one trajectory with x_t."""

    def loss(self, nets: Networks, batch: Batch) -> Tensor:
        """Algorithms 2 and 3: draw n and z, then `pair_loss` between neighbours."""
        steps = self.steps_at(batch.clock)
        index, z = batch.integers(steps - 1), batch.normal()
        grid = torch.from_numpy(batch.noise.times(steps)).to(batch.x.device)
        return self.pair_loss(nets, batch, z=z, t=grid[index], s=grid[index + 1])

    def pair_loss(self, nets: Networks, batch: Batch, *, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Eq. 7 for given noise `z` [B, C, H, W] and times `t`, `s` [B], s < t; gives [B]."""
        x_t = batch.x + per_image(t, batch.x) * z
        with torch.no_grad():
            target = nets.target(self.neighbour(nets, batch, x_t, t, s), s, batch.labels)
        weight = self.weighting(t, batch.noise.sigma_data).to(batch.x.dtype)
        return weight * self.distance(nets.student(x_t, t, batch.labels), target)
