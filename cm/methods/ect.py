"""Easy consistency tuning (Geng et al. 2024, arXiv 2406.14548): a diffusion model becomes a consistency model.

    w(t, s) ||D(x + t z, t) - sg D(x + s z, s)||,   s = max(s_min, t - t (1 + k sigmoid(-b t)) (1 - rho))

with rho = min(1 - q^-(stage + 1), ratio_limit), so that s approaches t from stage to stage. Where s = 0 the target is
x. In the first stage almost all targets are clean images, as in the training of a diffusion model. The preconditioning
is the teacher's in training; for sampling it is shifted so that D(x, 0.003) = x, as in the official code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cm.config.settings import above, at_least, at_most, component, default
from cm.diffusion.distances import Distance
from cm.diffusion.solvers import euler
from cm.diffusion.times import Times
from cm.diffusion.weightings import Weighting
from cm.lazy import torch
from cm.methods.base import Batch, Networks
from cm.methods.consistency import PairedConsistency
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("method", "ect")
@dataclass(frozen=True)
class EasyConsistencyTuning(PairedConsistency):
    """The defaults are those of the official code on CIFAR-10.

    `q`: by how much t - s shrinks from stage to stage. `k`: by how much larger t - s is at small t; 0 is the official
    code's mapping `const`. `b`: how quickly that falls with t. `ratio_limit`: the largest rho. `stage_steps`: the
    training steps of a stage. `s_min`: the smallest s, 1e-6 in the official code of TCM.
    """

    times: Annotated[Times, component("times")] = default("times", "lognormal", p_mean=-1.1, p_std=2.0)
    distance: Annotated[Distance, component("distance")] = default("distance", "l2-norm")
    weighting: Annotated[Weighting, component("weighting")] = default("weighting", "inverse-interval")
    init: Literal["random", "teacher"] = "teacher"
    q: Annotated[float, above(1.0), at_most(1e6)] = 2.0
    k: Annotated[float, at_least(0.0), at_most(1e6)] = 8.0
    b: Annotated[float, at_least(0.0), at_most(1e6)] = 1.0
    ratio_limit: Annotated[float, above(0.0), at_most(1.0)] = 1.0
    stage_steps: Annotated[int, at_least(1), at_most(10**9)] = 25_000
    s_min: Annotated[float, at_least(0.0), at_most(1e6)] = 0.0

    @property
    def preconditioning(self) -> str:
        return "edm"

    @property
    def sampling_preconditioning(self) -> str:
        return "ect"

    def mu_at(self, step: int, total_steps: int) -> float:
        return 0.0

    def ratio_at(self, step: int) -> float:
        """rho, which s / t approaches for large t."""
        return min(1 - self.q ** -(step // self.stage_steps + 1), self.ratio_limit)

    def earlier(self, t: Tensor, step: int) -> Tensor:
        """s [B] of times `t` [B], float64, at a step."""
        return (t - t * (1 + self.k * torch.sigmoid(-self.b * t)) * (1 - self.ratio_at(step))).clamp(min=self.s_min)

    def neighbour(self, nets: Networks, batch: Batch, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return euler(lambda y, time: batch.x, x_t, t, s)

    def target(self, nets: Networks, batch: Batch, x_s: Tensor, s: Tensor) -> Tensor:
        clean = s == 0
        estimate = super().target(nets, batch, x_s, s.where(~clean, torch.ones_like(s)))
        return torch.where(clean.reshape(-1, 1, 1, 1), batch.x, estimate)

    def loss(self, nets: Networks, batch: Batch) -> Tensor:
        t = self.times.continuous(batch, batch.noise)
        return self.pair_loss(nets, batch, z=batch.normal(), t=t, s=self.earlier(t, batch.step))
