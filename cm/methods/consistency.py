"""What consistency distillation and consistency training share: the paper's Eq. 7.

    lambda(t) d( f_theta(x_t, t), f_theta-(x_s, s) ),   x_t = x + t z,   s < t neighbours on the noise grid,

with the student at the noisier time t and the target, through which no gradient flows, at the cleaner time s. The
two methods differ in how they find the neighbour x_s, and in the defaults of their settings.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from cm.config.settings import component, default
from cm.diffusion.curriculum import Curriculum
from cm.diffusion.distances import Distance, is_perceptual
from cm.diffusion.solvers import Solver, per_image
from cm.diffusion.weightings import Weighting
from cm.lazy import torch
from cm.methods.base import Batch, Networks, Objective

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Consistency(Objective):
    """Shared settings.

    `curriculum`: N and mu over the training. `distance`: the paper's d. `init`: the weights that the student starts
    from. `target_dropout`: `student` gives the target network the dropout mask of the student, as both official
    implementations do; `none` evaluates it without dropout.
    """

    preconditioning: ClassVar[str] = "boundary"

    curriculum: Annotated[Curriculum, component("curriculum")] = default("curriculum", "adaptive")
    distance: Annotated[Distance, component("distance")] = default("distance", "lpips")
    solver: Annotated[Solver, component("solver")] = default("solver", "heun")
    weighting: Annotated[Weighting, component("weighting")] = default("weighting", "uniform")
    init: Literal["random", "teacher"] = "teacher"
    target_dropout: Literal["student", "none"] = "student"

    @property
    def target_uses_dropout(self) -> bool:
        return self.target_dropout == "student"

    @property
    def starts_from_teacher(self) -> bool:
        return self.init == "teacher"

    @property
    def needs_perceptual_network(self) -> bool:
        return is_perceptual(self.distance)

    @property
    def has_target(self) -> bool:
        return True

    def mu_at(self, step: int, total_steps: int) -> float:
        return self.curriculum.mu_at(step, total_steps)

    @abc.abstractmethod
    def neighbour(self, nets: Networks, batch: Batch, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x_s, the point at time s that is on one trajectory with x_t."""

    def loss(self, nets: Networks, batch: Batch) -> Tensor:
        """Algorithms 2 and 3: draw n and z, then `pair_loss` between neighbours."""
        steps = self.curriculum.steps_at(batch.step, batch.total_steps)
        index, z = batch.integers(steps - 1), batch.normal()
        grid = torch.from_numpy(batch.noise.times(steps)).to(batch.x.device)
        return self.pair_loss(nets, batch, z=z, t=grid[index], s=grid[index + 1])

    def pair_loss(self, nets: Networks, batch: Batch, *, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Eq. 7 for given noise `z` [B, C, H, W] and times `t`, `s` [B], s < t; returns [B]."""
        x_t = batch.x + per_image(t, batch.x) * z
        with torch.no_grad():
            target = nets.target(self.neighbour(nets, batch, x_t, t, s), s, batch.labels)
        weight = self.weighting(t, batch.noise.sigma_data).to(batch.x.dtype)
        return weight * self.distance(nets.student(x_t, t, batch.labels), target)
