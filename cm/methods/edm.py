"""The diffusion teacher (EDM, Karras et al. 2022): denoising score matching at log-normal noise levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cm.config.settings import at_least, component, default
from cm.diffusion.solvers import per_image
from cm.diffusion.weightings import Weighting
from cm.methods.base import Batch, Networks, Objective
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("method", "edm")
@dataclass(frozen=True)
class ScoreMatching(Objective):
    """lambda(t) mean |D(x + t z, t) - x|^2 with ln t ~ N(p_mean, p_std^2) (EDM, Eq. 2 and Table 1)."""

    p_mean: float = -1.2
    p_std: Annotated[float, at_least(0.0)] = 1.2
    weighting: Annotated[Weighting, component("weighting")] = default("weighting", "karras")

    def loss(self, nets: Networks, batch: Batch) -> Tensor:
        t = (self.p_mean + self.p_std * batch.normal_scalar()).exp()
        return self.denoising_loss(nets, batch, z=batch.normal(), t=t)

    def denoising_loss(self, nets: Networks, batch: Batch, *, z: Tensor, t: Tensor) -> Tensor:
        """The weighted loss for given noise `z` [B, C, H, W] and times `t` [B]; returns [B]."""
        error = nets.student(batch.x + per_image(t, batch.x) * z, t, batch.labels) - batch.x
        return self.weighting(t, batch.noise.sigma_data) * error.square().flatten(1).mean(1)
