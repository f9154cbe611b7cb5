"""Consistency training (paper, Algorithm 3): the neighbour is the same image with the same noise, at a lower level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cm.config.settings import component, default
from cm.diffusion.solvers import Solver
from cm.methods.base import Batch, Networks
from cm.methods.consistency import Consistency
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("method", "ct")
@dataclass(frozen=True)
class ConsistencyTraining(Consistency):
    """With D(x_t, t) = x instead of a teacher, an Euler step gives x + s z exactly (Theorem 2)."""

    solver: Annotated[Solver, component("solver")] = default("solver", "euler")
    init: Literal["random", "teacher"] = "random"

    @property
    def needs_teacher(self) -> bool:
        return self.init == "teacher"

    def neighbour(self, nets: Networks, batch: Batch, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self.solver(lambda y, time: batch.x, x_t, t, s)
