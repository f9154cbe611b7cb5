"""The diffusion teacher (EDM, Karras et al. 2022): denoising score matching at log-normal noise levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cm.diffusion.solvers import per_image
from cm.lazy import torch
from cm.methods.base import Batch, Networks, Objective
from cm.registry import register, setting

if TYPE_CHECKING:
    from torch import Tensor


@register("method", "edm")
@dataclass(frozen=True)
class ScoreMatching(Objective):
    """lambda(t) mean |D(x + t z, t) - x|^2 with ln t ~ N(p_mean, p_std^2) (EDM, Eq. 2 and Table 1)."""

    p_mean: float = setting(-1.2)
    p_std: float = setting(1.2, low=0.0)
    weighting: Callable[[Tensor, float], Tensor] = setting("karras", kind="weighting")

    def loss(self, nets: Networks, batch: Batch) -> Tensor:
        normal = torch.randn(len(batch.x), generator=batch.generator, device=batch.x.device, dtype=batch.x.dtype)
        return self.denoising_loss(nets, batch, z=batch.normal(), t=(self.p_mean + self.p_std * normal).exp())

    def denoising_loss(self, nets: Networks, batch: Batch, *, z: Tensor, t: Tensor) -> Tensor:
        """The weighted loss for given noise `z` [B, C, H, W] and times `t` [B]; gives [B]."""
        error = nets.student(batch.x + per_image(t, batch.x) * z, t, batch.labels) - batch.x
        return self.weighting(t, batch.noise.sigma_data) * error.square().flatten(1).mean(1)
