"""Progressive distillation (Salimans & Ho 2022) on the noise grid of EDM, as the paper's baseline.

One Euler step of the student from t_i to t_{i+1} learns to land where two Euler steps of the teacher land, on the grid
t(i / n), i = 0..n. A run is one stage, from 2n steps to n; the stages are a chain of runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cm.lazy import torch
from cm.objectives.base import Clock, Networks, Objective
from cm.registry import register, setting
from cm.solvers import euler, per_image

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from cm.schedules import Karras


@register("method", "pd")
@dataclass(frozen=True)
class ProgressiveDistillation(Objective):
    """`steps`: the sampling steps n of the student of this stage; its teacher makes 2n."""

    steps: int = setting(1, low=1)
    distance: Callable[[Tensor, Tensor], Tensor] = setting("l2", kind="distance")
    weighting: Callable[[Tensor, float], Tensor] = setting("truncated-snr", kind="weighting")

    def wants_teacher(self) -> bool:
        return True

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
        index = torch.randint(self.steps, (len(x),), generator=generator, device=x.device)
        z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return self.stage_loss(nets, x, labels, z=z, index=index.double(), noise=noise)

    def stage_loss(
        self, nets: Networks, x: Tensor, labels: Tensor | None, *, z: Tensor, index: Tensor, noise: Karras
    ) -> Tensor:
        """The loss at given noise `z` [B, C, H, W] and grid indices `index` [B] in 0..steps-1; gives [B]."""
        t, middle, s = (noise.time((index + offset) / self.steps) for offset in (0.0, 0.5, 1.0))
        x_t = x + per_image(t, x) * z
        with torch.no_grad():
            target = self._target(nets, x_t, t, middle, s, labels)
        return self.weighting(t, noise.sigma_data).to(x.dtype) * self.distance(nets.student(x_t, t, labels), target)

    def _target(self, nets: Networks, x: Tensor, t: Tensor, middle: Tensor, s: Tensor, labels: Tensor | None) -> Tensor:
        """The clean image for which one Euler step from t lands where the teacher's two steps do."""

        def denoise(y: Tensor, time: Tensor) -> Tensor:
            return nets.teacher(y, time, labels)

        landed = euler(denoise, euler(denoise, x, t, middle), middle, s)
        return x - per_image(t, x) * (landed - x) / per_image(s - t, x)
