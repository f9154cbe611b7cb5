"""Consistency distillation (paper, Algorithm 2): the neighbour is one step of an ODE solver with the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from cm.config.settings import component, default
from cm.diffusion.curriculum import Curriculum
from cm.diffusion.solvers import Solver, check_single_step
from cm.methods.base import Batch, Networks, require
from cm.methods.consistency import DiscreteConsistency
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("method", "cd")
@dataclass(frozen=True)
class ConsistencyDistillation(DiscreteConsistency):
    """x_s = solver(teacher, x_t, t, s). N and mu are fixed; mu is 0 on CIFAR-10 (Table 3).

    `solver`: the ODE solver whose step with the teacher leads to the neighbour.
    """

    evaluates_teacher: ClassVar[bool] = True

    curriculum: Annotated[Curriculum, component("curriculum")] = default("curriculum", "fixed", steps=18, target_mu=0.0)
    solver: Annotated[Solver, component("solver")] = default("solver", "heun")
    init: Literal["random", "teacher"] = "teacher"

    def check(self, where: str) -> None:
        """Raises UserError for a multistep solver."""
        check_single_step(self.solver, where)

    def neighbour(self, nets: Networks, batch: Batch, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        teacher = require(nets.teacher)
        return self.solver(lambda y, time: teacher(y, time, batch.labels), x_t, t, s)
