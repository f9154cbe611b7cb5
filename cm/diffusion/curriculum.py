"""N(k) and mu(k) of consistency training."""

from __future__ import annotations

import math


def steps_at(k: int, total: int, *, s0: int, s1: int) -> int:
    """N(k) = ceil(sqrt(k/K ((s1+1)^2 - s0^2) + s0^2) - 1) + 1 (paper, Appendix C)."""
    root = math.sqrt(k / total * ((s1 + 1) ** 2 - s0**2) + s0**2)
    return max(1, math.ceil(root - 1)) + 1


def mu_at(steps: int, *, s0: int, mu0: float, exponent: str = "paper") -> float:
    """mu(k) = exp(s0 ln(mu0) / N(k)) (paper, Appendix C); the official code divides by N(k) - 1 (`exponent="code"`)."""
    return math.exp(s0 * math.log(mu0) / (steps - 1 if exponent == "code" else steps))
