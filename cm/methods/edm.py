"""The diffusion teacher (EDM, Karras et al. 2022): denoising score matching.

    lambda(t) mean (D(x + t z, t) - x)^2,   ln t ~ N(p_mean, p_std^2)        (EDM, Eq. 2 and Table 1)

with the mean over the pixels of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cm.config.settings import component, default
from cm.diffusion.solvers import per_image
from cm.diffusion.times import Times
from cm.diffusion.weightings import Weighting
from cm.lazy import torch
from cm.methods.base import Batch, Networks, Objective
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("method", "edm")
@dataclass(frozen=True)
class ScoreMatching(Objective):
    """The defaults are those of EDM.

    `times`: the distribution of t. `weighting`: lambda, in which s is 0. `parametrization`: what the network F
    estimates and what it is told of t, as in EDM, or the velocity and an angle, as in TrigFlow (Lu & Song 2024); with
    the weighting `karras` that is TrigFlow's loss, mean (F - (cos z - sin x) / sd)^2.
    """

    times: Annotated[Times, component("times")] = default("times", "lognormal")
    weighting: Annotated[Weighting, component("weighting")] = default("weighting", "karras")
    parametrization: Literal["edm", "trigflow"] = "edm"

    @property
    def preconditioning(self) -> str:
        return self.parametrization

    def loss(self, nets: Networks, batch: Batch) -> Tensor:
        t = self.times.continuous(batch, batch.noise)
        return self.denoising_loss(nets, batch, z=batch.normal(), t=t)

    def denoising_loss(self, nets: Networks, batch: Batch, *, z: Tensor, t: Tensor) -> Tensor:
        """The weighted loss for given noise `z` [B, C, H, W] and times `t` [B]; returns [B]."""
        error = nets.student(batch.x + per_image(t, batch.x) * z, t, batch.labels) - batch.x
        weight = self.weighting(t, torch.zeros_like(t), batch.noise.sigma_data).to(batch.x.dtype)
        return weight * error.square().flatten(1).mean(1)
