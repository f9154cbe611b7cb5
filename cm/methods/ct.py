"""Consistency training (paper, Algorithm 3): the neighbour is the same image with the same noise, less of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cm.diffusion import curriculum
from cm.errors import UserError, unknown
from cm.methods.base import Batch, Clock, Networks
from cm.methods.consistency import Consistency
from cm.registry import register, setting

if TYPE_CHECKING:
    from torch import Tensor

SCHEDULES = ("adaptive", "fixed")
EXPONENTS = ("code", "paper")


@register("method", "ct")
@dataclass(frozen=True)
class ConsistencyTraining(Consistency):
    """`schedule` `adaptive`: N(k) and mu(k) from `s0`, `s1`, `mu0` (Appendix C); `fixed`: `steps` and `target_mu`.

    `mu_exponent`: mu(k) = exp(s0 ln mu0 / N(k)) as in the `paper`, or with N(k) - 1 as in the official `code`.
    With D(x_t, t) = x in place of a teacher, an Euler step gives x + s z exactly (Theorem 2).
    """

    solver: Callable = setting("euler", kind="solver")
    init: str = setting("random")
    schedule: str = setting("adaptive")
    s0: int = setting(2, low=2)
    s1: int = setting(150, low=2)
    mu0: float = setting(0.9, low=1e-9, below=1.0)
    mu_exponent: str = setting("paper")
    steps: int | None = setting(None, low=2)
    target_mu: float | None = setting(None, low=0.0, below=1.0)

    def check(self, where: str) -> None:
        """UserError for an unknown word, s1 < s0, or `steps` and `target_mu` that do not go with the schedule."""
        super().check(where)
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES, where)
        if self.mu_exponent not in EXPONENTS:
            raise unknown("mu_exponent", self.mu_exponent, EXPONENTS, where)
        if self.s1 < self.s0:
            raise UserError(f"{where}: s1 {self.s1} must be at least s0 {self.s0}")
        fixed = self.schedule == "fixed"
        if (self.steps is None) is fixed or (self.target_mu is None) is fixed:
            raise UserError(f"{where}: 'steps' and 'target_mu' go with 'schedule: fixed', both of them, and only there")

    def wants_teacher(self) -> bool:
        return self.init == "teacher"

    def steps_at(self, clock: Clock) -> int:
        if self.schedule == "fixed":
            return self.steps
        return curriculum.steps_at(clock.k, clock.total, s0=self.s0, s1=self.s1)

    def mu_at(self, clock: Clock) -> float:
        if self.schedule == "fixed":
            return self.target_mu
        return curriculum.mu_at(self.steps_at(clock), s0=self.s0, mu0=self.mu0, exponent=self.mu_exponent)

    def neighbour(self, nets: Networks, batch: Batch, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self.solver(lambda y, time: batch.x, x_t, t, s)
