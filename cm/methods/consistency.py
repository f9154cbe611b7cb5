"""What consistency training and distillation, and their successors, share: a loss between two times (paper, Eq. 7).

    lambda(t, s) d( f_theta(x_t, t), f_theta-(x_s, s) ),   x_t = x + t z,   s < t

The student is evaluated at the noisier time t, the target, through which no gradient flows, at the cleaner time s. The
methods differ in how they draw t, choose s and find x_s, and in the defaults of their settings. The limit s -> t is in
`cm.methods.continuous`.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cm.config.settings import component, default
from cm.diffusion.curriculum import Curriculum
from cm.diffusion.distances import Distance, is_perceptual
from cm.diffusion.solvers import per_image
from cm.diffusion.times import Times
from cm.diffusion.weightings import Weighting
from cm.lazy import torch
from cm.methods.base import Batch, Networks, StartsByChoice, require
from cm.utils.devices import send

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Consistency(StartsByChoice):
    """What all of them share, in discrete and in continuous time.

    `times`: the distribution of t. `distance`: d. `init`: the weights that the student starts from.
    """

    times: Annotated[Times, component("times")] = default("times", "uniform")
    distance: Annotated[Distance, component("distance")] = default("distance", "lpips")
    init: Literal["random", "teacher"] = "random"

    @property
    def preconditioning(self) -> str:
        return "boundary"

    @property
    def needs_perceptual_network(self) -> bool:
        return is_perceptual(self.distance)


@dataclass(frozen=True)
class PairedConsistency(Consistency):
    """A loss between two times.

    `weighting`: lambda. `target_dropout`: whether the target network has the dropout mask of the student, as in both
    official implementations (`student`), or no dropout (`none`).
    """

    weighting: Annotated[Weighting, component("weighting")] = default("weighting", "uniform")
    target_dropout: Literal["student", "none"] = "student"

    @property
    def target_uses_dropout(self) -> bool:
        return self.target_dropout == "student"

    @property
    def has_target(self) -> bool:
        return True

    @abc.abstractmethod
    def neighbour(self, nets: Networks, batch: Batch, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x_s [B, C, H, W], the point at times `s` [B] on one trajectory with `x_t` at times `t`."""

    def target(self, nets: Networks, batch: Batch, x_s: Tensor, s: Tensor) -> Tensor:
        """f_theta-(x_s, s), [B, C, H, W]."""
        return require(nets.target)(x_s, s, batch.labels)

    def pair_loss(self, nets: Networks, batch: Batch, *, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Eq. 7 for given noise `z` [B, C, H, W] and times `t`, `s` [B], s < t; returns [B]."""
        x_t = batch.x + per_image(t, batch.x) * z
        with torch.no_grad():
            target = self.target(nets, batch, self.neighbour(nets, batch, x_t, t, s), s)
        weight = self.weighting(t, s, batch.noise.sigma_data).to(batch.x.dtype)
        return weight * self.distance(nets.student(x_t, t, batch.labels), target)


@dataclass(frozen=True)
class DiscreteConsistency(PairedConsistency):
    """t and s are neighbours on the noise grid. `curriculum`: the number of its times, N, and mu over the training."""

    curriculum: Annotated[Curriculum, component("curriculum")] = default("curriculum", "adaptive")

    def mu_at(self, step: int, total_steps: int) -> float:
        return self.curriculum.mu_at(step, total_steps)

    def curriculum_at(self, step: int, total_steps: int) -> tuple[int | None, float | None]:
        return self.curriculum.steps_at(step, total_steps), self.mu_at(step, total_steps)

    def loss(self, nets: Networks, batch: Batch) -> Tensor:
        """Algorithms 2 and 3: draw n and z, then `pair_loss` between neighbours."""
        grid = batch.noise.times(self.curriculum.steps_at(batch.step, batch.total_steps))
        index, z = self.times.on_grid(batch, grid), batch.normal()
        times = send(torch.from_numpy(grid), batch.x.device)
        return self.pair_loss(nets, batch, z=z, t=times[index], s=times[index + 1])
