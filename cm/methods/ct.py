"""Consistency training (paper, Algorithm 3): the neighbour is the same image with the same noise, at a lower level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cm.config.settings import component, default
from cm.diffusion.solvers import Solver, check_single_step
from cm.methods.base import Batch, Networks
from cm.methods.consistency import DiscreteConsistency
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("method", "ct")
@dataclass(frozen=True)
class ConsistencyTraining(DiscreteConsistency):
    """With D(x_t, t) = x in place of a teacher, an Euler step returns x_s = x + s z exactly (Theorem 2).

    `solver`: the ODE solver; each of a single step leads to the same neighbour.
    """

    solver: Annotated[Solver, component("solver")] = default("solver", "euler")

    def check(self, where: str) -> None:
        """Raises UserError for a multistep solver."""
        check_single_step(self.solver, where)

    def neighbour(self, nets: Networks, batch: Batch, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self.solver(lambda y, time: batch.x, x_t, t, s)
