"""Progressive distillation (Salimans & Ho 2022) on the noise grid of EDM, as the paper's baseline.

One Euler step of the student from t to s learns to end where two Euler steps of the teacher end, at x_s:

    lambda(t, s) d( D_theta(x_t, t), x_t - t (x_s - x_t) / (s - t) ),   t = t(i / n), s = t((i + 1) / n), i = 0..n-1

A run is one stage, from 2n steps to n; the stages are a chain of runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from cm.config.settings import at_least, at_most, component, default
from cm.diffusion.distances import Distance, is_perceptual
from cm.diffusion.solvers import euler, per_image
from cm.diffusion.weightings import Weighting
from cm.lazy import torch
from cm.methods.base import Batch, Networks, Objective, require
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from cm.diffusion.solvers import Denoise


@register("method", "pd")
@dataclass(frozen=True)
class ProgressiveDistillation(Objective):
    """One stage of progressive distillation.

    `steps`: the number n of sampling steps of the student; its teacher takes 2n. `distance`: between the estimate of
    the student and its target. `weighting`: lambda(t).
    """

    evaluates_teacher: ClassVar[bool] = True

    steps: Annotated[int, at_least(1), at_most(2**20)] = 1
    distance: Annotated[Distance, component("distance")] = default("distance", "l2")
    weighting: Annotated[Weighting, component("weighting")] = default("weighting", "truncated-snr")

    @property
    def needs_perceptual_network(self) -> bool:
        return is_perceptual(self.distance)

    def loss(self, nets: Networks, batch: Batch) -> Tensor:
        index, z = batch.integers(self.steps), batch.normal()
        return self.stage_loss(nets, batch, z=z, index=index.double())

    def stage_loss(self, nets: Networks, batch: Batch, *, z: Tensor, index: Tensor) -> Tensor:
        """The loss at given noise `z` [B, C, H, W] and grid indices `index` [B] in 0..steps-1; returns [B]."""
        t, middle, s = (batch.noise.time((index + offset) / self.steps) for offset in (0.0, 0.5, 1.0))
        x_t = batch.x + per_image(t, batch.x) * z
        teacher = require(nets.teacher)
        with torch.no_grad():
            target = self._target(lambda y, time: teacher(y, time, batch.labels), x_t, t, middle, s)
        weight = self.weighting(t, s, batch.noise.sigma_data).to(batch.x.dtype)
        return weight * self.distance(nets.student(x_t, t, batch.labels), target)

    def _target(self, denoise: Denoise, x: Tensor, t: Tensor, middle: Tensor, s: Tensor) -> Tensor:
        """The clean images for which one Euler step from `t` ends where the teacher's two steps end."""
        x_s = euler(denoise, euler(denoise, x, t, middle), middle, s)
        return x - per_image(t, x) * (x_s - x) / per_image(s - t, x)
