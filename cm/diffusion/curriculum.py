"""The curriculum of consistency models: N(k), the number of times on the grid, and mu(k), the decay of theta-minus.

    curriculum.steps_at(step, total_steps) -> N        curriculum.mu_at(step, total_steps) -> mu

at step k = `step` of K = `total_steps`. A curriculum is a frozen dataclass; its fields are its settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from cm.config.settings import above, at_least, below
from cm.errors import UserError
from cm.registry import register


class Curriculum(Protocol):
    """N(k) and mu(k)."""

    def steps_at(self, step: int, total_steps: int) -> int:
        """N, the number of times on the noise grid, at a step."""
        ...

    def mu_at(self, step: int, total_steps: int) -> float:
        """mu, the decay of theta-minus after a step."""
        ...


@register("curriculum", "fixed")
@dataclass(frozen=True)
class Fixed:
    """The same N = `steps` and mu = `target_mu` throughout."""

    steps: Annotated[int, at_least(2)]
    target_mu: Annotated[float, at_least(0.0), below(1.0)]

    def steps_at(self, step: int, total_steps: int) -> int:
        """N."""
        return self.steps

    def mu_at(self, step: int, total_steps: int) -> float:
        """mu."""
        return self.target_mu


@register("curriculum", "adaptive")
@dataclass(frozen=True)
class Adaptive:
    """N(k) grows from `s0` to `s1` + 1 and mu(k) follows it (paper, Appendix C):

        N(k)  = ceil(sqrt(k/K ((s1 + 1)^2 - s0^2) + s0^2) - 1) + 1
        mu(k) = exp(s0 ln(mu0) / N(k))

    The official code divides by N(k) - 1 in mu(k): `mu_exponent: code`.
    """

    s0: Annotated[int, at_least(2)] = 2
    s1: Annotated[int, at_least(2)] = 150
    mu0: Annotated[float, above(0.0), below(1.0)] = 0.9
    mu_exponent: Literal["code", "paper"] = "paper"

    def check(self, where: str) -> None:
        """UserError for s1 < s0."""
        if self.s1 < self.s0:
            raise UserError(f"{where}: s1 {self.s1} must be at least s0 {self.s0}")

    def steps_at(self, step: int, total_steps: int) -> int:
        """N(k)."""
        root = math.sqrt(step / total_steps * ((self.s1 + 1) ** 2 - self.s0**2) + self.s0**2)
        return max(1, math.ceil(root - 1)) + 1

    def mu_at(self, step: int, total_steps: int) -> float:
        """mu(k)."""
        steps = self.steps_at(step, total_steps)
        return math.exp(self.s0 * math.log(self.mu0) / (steps - 1 if self.mu_exponent == "code" else steps))
