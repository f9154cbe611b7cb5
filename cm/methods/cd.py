"""Consistency distillation (paper, Algorithm 2): the neighbour is one step of an ODE solver with the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cm.methods.base import Batch, Clock, Networks
from cm.methods.consistency import Consistency
from cm.registry import register, setting

if TYPE_CHECKING:
    from torch import Tensor


@register("method", "cd")
@dataclass(frozen=True)
class ConsistencyDistillation(Consistency):
    """`steps`: the paper's N, fixed. `target_mu`: the decay mu of theta-minus, fixed; 0 on CIFAR-10 (Table 3)."""

    steps: int = setting(18, low=2)
    target_mu: float = setting(0.0, low=0.0, below=1.0)

    def wants_teacher(self) -> bool:
        return True

    def mu_at(self, clock: Clock) -> float:
        return self.target_mu

    def steps_at(self, clock: Clock) -> int:
        return self.steps

    def neighbour(self, nets: Networks, batch: Batch, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self.solver(lambda y, time: nets.teacher(y, time, batch.labels), x_t, t, s)
