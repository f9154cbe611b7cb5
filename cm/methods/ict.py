"""Improved consistency training (Song & Dhariwal 2024, arXiv 2310.14189): consistency training with other settings.

    d(f(x + t z, t), sg f(x + s z, s)) / (t - s),   d(a, b) = sqrt(||a - b||^2 + c^2) - c,   c = 0.00054 sqrt(D)

with the same weights in both evaluations (mu = 0), a number of grid times that doubles in stages, and log-normal times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cm.config.settings import component, default
from cm.diffusion.curriculum import Curriculum
from cm.diffusion.distances import Distance
from cm.diffusion.solvers import euler
from cm.diffusion.times import Times
from cm.diffusion.weightings import Weighting
from cm.methods.base import Batch, Networks
from cm.methods.consistency import DiscreteConsistency
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("method", "ict")
@dataclass(frozen=True)
class ImprovedConsistencyTraining(DiscreteConsistency):
    """The defaults are those of the paper (Table 1), whatever the data set."""

    curriculum: Annotated[Curriculum, component("curriculum")] = default("curriculum", "doubling")
    times: Annotated[Times, component("times")] = default("times", "lognormal", p_mean=-1.1, p_std=2.0)
    distance: Annotated[Distance, component("distance")] = default("distance", "pseudo-huber")
    weighting: Annotated[Weighting, component("weighting")] = default("weighting", "inverse-interval")

    def neighbour(self, nets: Networks, batch: Batch, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return euler(lambda y, time: batch.x, x_t, t, s)
