"""Solvers of the probability-flow ODE: one step from time t to an earlier time s.

    dx/dt = (x - D(x, t)) / t        (paper, Eq. 4-5; EDM, Eq. 1-3)

`denoise(x, t)` is D, the estimate of the clean images [B, C, H, W] behind `x` [B, C, H, W] at times `t` [B]. A solver
is a registered function `(denoise, x, t, s) -> x_s`, with times `t` and `s` [B], s < t. It states its order of
convergence p (the error after n steps falls as n^-p) and the evaluations of D in one step. A multistep solver also
makes use of earlier steps: it takes their `history` as a fifth argument, and has no place in distillation, whose steps
stand alone. Every solver is also a sampler: `ode,solver~NAME,steps~n`.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from cm import registry
from cm.errors import UserError
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    Denoise = Callable[[Tensor, Tensor], Tensor]
    History = deque[tuple[Tensor, Tensor]]  # of each earlier step its time t [B] and its estimate D [B, C, H, W]


class Solver(Protocol):
    """One step of an ODE solver.

    `order`: its order of convergence. `evaluations`: calls of the denoiser in one step. `history`: how many earlier
    steps it makes use of. `reaches_zero`: whether s may be 0; samplers take the estimate D itself as the last step of
    a solver for which it may not.
    """

    order: int
    evaluations: int
    history: int
    reaches_zero: bool

    def __call__(self, denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, /, *history: History) -> Tensor:
        """From `x` [B, C, H, W] at times `t` [B] to times `s` [B]."""
        ...


def register_solver(
    name: str, *, order: int, evaluations: int, history: int = 0, reaches_zero: bool = False
) -> Callable[[Callable[..., Any]], Solver]:
    """A decorator that registers a function as the solver `name` and states its properties, those of `Solver`."""

    def decorate(step: Callable[..., Any]) -> Solver:
        properties = {"order": order, "evaluations": evaluations, "history": history, "reaches_zero": reaches_zero}
        vars(step).update(properties)
        return cast(Solver, register("solver", name)(step))

    return decorate


def integrate(solver: Solver, denoise: Denoise, x: Tensor, times: Sequence[Tensor]) -> Tensor:
    """From `x` [B, C, H, W] at the first of the `times` (each [B]) to the last, one step for each interval."""
    history: History = deque(maxlen=solver.history)
    for t, s in itertools.pairwise(times):
        x = solver(denoise, x, t, s, history) if solver.history else solver(denoise, x, t, s)
    return x


def check_single_step(solver: Solver, where: str) -> None:
    """Raises UserError for a solver that makes use of earlier steps, which a distillation step does not have."""
    if solver.history:
        single = [name for name, other in registry.components("solver").items() if not other.history]
        name = registry.name("solver", solver)
        raise UserError(f"{where}: solver '{name}' needs earlier steps and can only sample; known: {', '.join(single)}")


def per_image(t: Tensor, like: Tensor) -> Tensor:
    """`t` [B], shaped and typed to multiply `like` [B, ...]."""
    return t.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def slope(denoise: Denoise, x: Tensor, t: Tensor) -> Tensor:
    """dx/dt = (x - D(x, t)) / t, [B, C, H, W]."""
    return (x - denoise(x, t)) / per_image(t, x)


@register_solver("euler", order=1, evaluations=1, reaches_zero=True)
def euler(denoise: Denoise, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x_s = x + (s - t) dx/dt (DDIM; EDM's Algorithm 1 without its correction)."""
    return x + per_image(s - t, x) * slope(denoise, x, t)


@register_solver("heun", order=2, evaluations=2)
def heun(denoise: Denoise, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Euler, then again with the mean of the slopes at both ends (EDM, Algorithm 1)."""
    first = slope(denoise, x, t)
    guess = x + per_image(s - t, x) * first
    return x + per_image(s - t, x) * (first + slope(denoise, guess, s)) / 2


@register_solver("dpm2", order=2, evaluations=2)
def dpm2(denoise: Denoise, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """DPM-Solver-2: a step with the slope at the geometric mean of t and s (Lu et al. 2022a, Algorithm 1).

    In the half log-signal-to-noise ratio -ln t, that is the midpoint.
    """
    return _through(denoise, x, t, (t * s).sqrt(), s)


@register_solver("midpoint", order=2, evaluations=2, reaches_zero=True)
def midpoint(denoise: Denoise, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """A step with the slope at ((t^(1/3) + s^(1/3)) / 2)^3: the step of the sampler `dpm` of the official code."""
    return _through(denoise, x, t, ((t ** (1 / 3) + s ** (1 / 3)) / 2) ** 3, s)


def _through(denoise: Denoise, x: Tensor, t: Tensor, middle: Tensor, s: Tensor) -> Tensor:
    """A step from t to s with the slope at a time between them."""
    return x + per_image(s - t, x) * slope(denoise, euler(denoise, x, t, middle), middle)


@register_solver("dpmpp2m", order=2, evaluations=1, history=1)
def dpmpp2m(denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, history: History) -> Tensor:
    """DPM-Solver++(2M): D is extrapolated to the middle of the step in l = -ln t (Lu et al. 2022b, Algorithm 2).

        x_s = s/t x + (1 - s/t) (D + (l_s - l_t) / (2 (l_t - l_u)) (D - D_u))

    with the time u and the estimate D_u of the step before. The first step takes D as it is, which is Euler's step.
    """
    estimate = denoise(x, t)
    target = estimate
    for u, before in history:
        target = estimate + per_image((t / s).log() / (2 * (u / t).log()), x) * (estimate - before)
    history.append((t, estimate))
    ratio = per_image(s / t, x)
    return ratio * x + (1 - ratio) * target
