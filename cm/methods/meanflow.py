"""MeanFlow (Geng et al. 2025, arXiv 2505.13447): the average velocity of a flow between two times.

With images x and noise e, both unit Gaussian at the scale of the images, the flow has the points and velocities

    z_t = (1 - t) x + t e,   v = e - x,   t in [0, 1],

and the network u(z, t, t - r) learns the mean of dz/dt from r to t, which satisfies the MeanFlow identity (Eq. 6):

    u = v - (t - r) du/dt,   du/dt = v du/dz + du/dt   (r is fixed)

    loss = e_i / sg(e_i + c)^p,   e_i = ||u - sg(v - (t - r) du/dt)||^2, a sum over pixels   (Eq. 9, 11 and 22).

For r = t this is flow matching. The derivative is computed beside the evaluation with gradients, which keeps memory,
with the same dropout mask. One step of the network leads from z_t to z_r = z_t - (t - r) u.

In noise levels, those of all other methods here, the point z_t is x_sigma / (1 + sigma) at t = sigma / (1 + sigma). A
trained model (preconditioning `meanflow`) is therefore a consistency function f(x, sigma), with which every sampler
for consistency models works, and leads to any other noise level too (sampler `flowmap`). Pure noise, t = 1, is the
limit of sigma: experiments have a large `sigma_max`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cm.config.settings import above, at_least, at_most, component, default
from cm.diffusion.solvers import per_image
from cm.diffusion.time_pairs import TimePairs
from cm.lazy import torch
from cm.methods.base import Batch, Networks, Objective
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("method", "meanflow")
@dataclass(frozen=True)
class MeanFlow(Objective):
    """The defaults are those of the paper on CIFAR-10; its network needs `two_times: true`.

    `times`: the distribution of t and r. `weight_power`: p of the adaptive weight, 0 for none. `weight_offset`: c of
    the adaptive weight.
    """

    times: Annotated[TimePairs, component("time-pairs")] = default("time-pairs", "sorted")
    weight_power: Annotated[float, at_least(0.0), at_most(10.0)] = 0.75
    weight_offset: Annotated[float, above(0.0), at_most(1e6)] = 1e-3

    @property
    def preconditioning(self) -> str:
        return "average-velocity"

    @property
    def sampling_preconditioning(self) -> str:
        return "meanflow"

    @property
    def differentiates_forward(self) -> bool:
        return True

    def loss(self, nets: Networks, batch: Batch) -> Tensor:
        """Draw t, r and e, then `loss_at`."""
        t, r = self.times(batch)
        return self.loss_at(nets, batch, e=batch.normal(), t=t, r=r)

    def loss_at(self, nets: Networks, batch: Batch, *, e: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """The loss for given noise `e` [B, C, H, W] and times `t`, `r` [B], r <= t; returns [B]."""
        z = per_image(1 - t, batch.x) * batch.x + per_image(t, batch.x) * e
        u, target = self.estimate(nets, batch, z=z, v=e - batch.x, t=t, r=r)
        error = (u - target).square().flatten(1).sum(1)
        return error / (error.detach() + self.weight_offset) ** self.weight_power

    def estimate(
        self, nets: Networks, batch: Batch, *, z: Tensor, v: Tensor, t: Tensor, r: Tensor
    ) -> tuple[Tensor, Tensor]:
        """u(z, t, t - r) at points `z` with velocities `v`, and its target without a gradient, all [B, C, H, W]."""
        from cm.diffusion.forward import jvp

        def average(point: Tensor, later: Tensor, earlier: Tensor) -> Tensor:
            return nets.student(point, later, batch.labels, s=earlier)

        with torch.no_grad():
            _, derivative = jvp(average, (z, t, r), (v, torch.ones_like(t), torch.zeros_like(r)))
        return average(z, t, r), v - per_image(t - r, z) * derivative
