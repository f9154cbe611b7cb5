"""The curriculum of consistency models: N(k), the number of times on the grid, and mu(k), the decay of theta-minus.

    curriculum.steps_at(step, total_steps) -> N        curriculum.mu_at(step, total_steps) -> mu

at step k = `step` of K = `total_steps`; after each step theta-minus <- mu theta-minus + (1 - mu) theta. A curriculum is
a frozen dataclass; its fields are its settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from cm.config.settings import above, at_least, at_most, below
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

    steps: Annotated[int, at_least(2), at_most(10**6)]
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
    """N(k) grows from s0 to s1 + 1 and mu(k) follows it (paper, Appendix C):

        N(k)  = ceil(sqrt(k/K ((s1 + 1)^2 - s0^2) + s0^2) - 1) + 1
        mu(k) = exp(s0 ln(mu0) / N(k))

    `s0`: the first N. `s1`: the last N, less one. `mu0`: the first mu.
    `mu_exponent`: `paper` divides by N(k) in mu(k), as above, and `code` by N(k) - 1, as the official code does.
    """

    s0: Annotated[int, at_least(2), at_most(10**6)] = 2
    s1: Annotated[int, at_least(2), at_most(10**6)] = 150
    mu0: Annotated[float, above(0.0), below(1.0)] = 0.9
    mu_exponent: Literal["code", "paper"] = "paper"

    def check(self, where: str) -> None:
        """Raises UserError for s1 < s0."""
        _check_growth(self.s0, self.s1, where)

    def steps_at(self, step: int, total_steps: int) -> int:
        """N(k)."""
        root = math.sqrt(step / total_steps * ((self.s1 + 1) ** 2 - self.s0**2) + self.s0**2)
        return max(1, math.ceil(root - 1)) + 1

    def mu_at(self, step: int, total_steps: int) -> float:
        """mu(k)."""
        steps = self.steps_at(step, total_steps)
        return math.exp(self.s0 * math.log(self.mu0) / (steps - 1 if self.mu_exponent == "code" else steps))


@register("curriculum", "doubling")
@dataclass(frozen=True)
class Doubling:
    """N(k) doubles from s0 + 1 to s1 + 1 in stages of equal length, and mu = 0 (Song & Dhariwal 2024, Section 3.4):

        N(k) = min(s0 2^floor(k / K'), s1) + 1,   K' = floor(K / (log2 floor(s1 / s0) + 1))

    `s0`: the first N, less one. `s1`: the last N, less one.
    """

    s0: Annotated[int, at_least(1), at_most(10**6)] = 10
    s1: Annotated[int, at_least(1), at_most(10**6)] = 1280

    def check(self, where: str) -> None:
        """Raises UserError for s1 < s0."""
        _check_growth(self.s0, self.s1, where)

    def steps_at(self, step: int, total_steps: int) -> int:
        """N(k)."""
        stage_steps = max(1, math.floor(total_steps / (math.log2(self.s1 // self.s0) + 1)))
        return min(self.s0 * 2 ** (step // stage_steps), self.s1) + 1

    def mu_at(self, step: int, total_steps: int) -> float:
        """0: the target has the weights of the student."""
        return 0.0


def _check_growth(s0: int, s1: int, where: str) -> None:
    if s1 < s0:
        raise UserError(f"{where}: s1 {s1} must be at least s0 {s0}")
