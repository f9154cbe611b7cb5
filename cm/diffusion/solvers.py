"""One step of a solver of the probability-flow ODE dx/dt = (x - D(x, t)) / t (paper, Eq. 4-5; EDM, Eq. 1-3).

A solver is a function `(denoise, x, t, s) -> x_s`: `denoise(x, t)` estimates the clean images [B, C, H, W] behind `x`
[B, C, H, W] at times `t` [B]; the step goes from `t` to `s` [B], s < t. Adding one is adding a function here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    Denoise = Callable[[Tensor, Tensor], Tensor]


class Solver(Protocol):
    """One step of an ODE solver."""

    def __call__(self, denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, /) -> Tensor:
        """From `x` [B, C, H, W] at times `t` [B] to times `s` [B]."""
        ...


def per_image(t: Tensor, like: Tensor) -> Tensor:
    """`t` [B], shaped and typed to multiply `like` [B, ...]."""
    return t.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def slope(denoise: Denoise, x: Tensor, t: Tensor) -> Tensor:
    """dx/dt = (x - D(x, t)) / t."""
    return (x - denoise(x, t)) / per_image(t, x)


@register("solver", "euler")
def euler(denoise: Denoise, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x + (s - t) dx/dt: first order, one evaluation (DDIM)."""
    return x + per_image(s - t, x) * slope(denoise, x, t)


@register("solver", "heun")
def heun(denoise: Denoise, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Euler, then the mean of the slopes at both ends: second order, two evaluations (EDM, Algorithm 1)."""
    first = slope(denoise, x, t)
    guess = x + per_image(s - t, x) * first
    return x + per_image(s - t, x) * (first + slope(denoise, guess, s)) / 2
