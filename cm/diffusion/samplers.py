"""Samplers: noise to images.

A sampler is a frozen dataclass; its fields are its settings, and its name states those that are not at their default,
sorted: `multistep,times~2.0+0.8`, `ode,solver~heun,steps~18`. Calling it runs one algorithm:

    sampler(denoise, z, noise, draw) -> x [B, C, H, W]

`denoise(x, t)` estimates the clean images at times t [B]; of a model of two times, `denoise(x, t, s)` leads to times s
[B], which a sampler with `two_times` needs. z [B, C, H, W] is unit Gaussian; `noise` is the noise grid,
from T = sigma_max to eps = sigma_min; `draw()` returns further unit noise of the shape of z (each image has its own
random stream, so an image does not depend on its batch). `evaluations` is the number of calls of the network (NFE).
Nothing is clamped: that is done where images are written.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Protocol

from cm.config.settings import at_least, at_most, component, default
from cm.diffusion.solvers import Solver, euler, integrate
from cm.errors import UserError
from cm.lazy import torch
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from cm.diffusion.noise import KarrasNoise
    from cm.diffusion.solvers import Denoise

    Draw = Callable[[], Tensor]


class Sampler(Protocol):
    """An algorithm that turns noise into images."""

    @property
    def evaluations(self) -> int:
        """How many times the network is called for one image (NFE)."""
        ...

    def __call__(self, denoise: Denoise, z: Tensor, noise: KarrasNoise, draw: Draw) -> Tensor:
        """Images [B, C, H, W] from unit noise `z` [B, C, H, W]."""
        ...


@register("sampler", "onestep")
@dataclass(frozen=True)
class OneStep:
    """x = f(T z, T)."""

    @property
    def evaluations(self) -> int:
        """How many times the network is called for one image (NFE)."""
        return 1

    def __call__(self, denoise: Denoise, z: Tensor, noise: KarrasNoise, draw: Draw) -> Tensor:
        return denoise(noise.sigma_max * z, _times(noise.sigma_max, z))


@register("sampler", "multistep")
@dataclass(frozen=True)
class Multistep:
    """Multistep consistency sampling (paper, Algorithm 1).

        x <- f(T z, T);   for tau in `times`:  x <- f(x + sqrt(tau^2 - eps^2) z', tau)

    `times`: tau_1 > tau_2 > ..., after the first step from T; a time outside of [eps, T] is clipped to it.
    """

    times: tuple[Annotated[float, at_least(0.0), at_most(1e6)], ...]

    def check(self, where: str) -> None:
        """Raises UserError unless the times decrease and are positive."""
        if any(not t > 0 for t in self.times) or sorted(set(self.times), reverse=True) != list(self.times):
            raise UserError(f"{where}: times must be positive and decrease, not {list(self.times)}")

    @property
    def evaluations(self) -> int:
        """How many times the network is called for one image (NFE)."""
        return 1 + len(self.times)

    def __call__(self, denoise: Denoise, z: Tensor, noise: KarrasNoise, draw: Draw) -> Tensor:
        x = denoise(noise.sigma_max * z, _times(noise.sigma_max, z))
        for tau in self.times:
            tau = min(max(tau, noise.sigma_min), noise.sigma_max)
            x = x + (tau**2 - noise.sigma_min**2) ** 0.5 * draw()
            x = denoise(x, _times(tau, z))
        return x


@register("sampler", "search")
@dataclass(frozen=True)
class Search:
    """Multistep consistency sampling at time points that a greedy search finds for the model (paper, Section 3).

    `cm search` finds one point after the other: each is the time with the lowest FID, below the points before it, which
    stay as they are. `steps`: the number of evaluations of the network, one more than there are time points; fewer if
    the search reaches its lower end before. `points`: the number of times of the noise grid from T to eps, which are
    the candidates; the official code takes the N of the training. `low`, `high`: candidates outside of this interval
    are left out.
    """

    steps: Annotated[int, at_least(2), at_most(1000)]
    points: Annotated[int, at_least(3), at_most(10**4)] = 40
    low: Annotated[float, at_least(0.0), at_most(1e6)] = 0.0
    high: Annotated[float, at_least(0.0), at_most(1e6)] = 1e6

    def check(self, where: str) -> None:
        """Raises UserError for an empty interval."""
        if not self.low < self.high:
            raise UserError(f"{where}: the search interval is empty: low {self.low:g} must be below high {self.high:g}")

    @property
    def evaluations(self) -> int:
        """How many times the network is called for one image (NFE)."""
        return self.steps

    @property
    def previous(self) -> Search | None:
        """The search that finds all points but the last; None if there is only one point."""
        return dataclasses.replace(self, steps=self.steps - 1) if self.steps > 2 else None

    def candidates(self, noise: KarrasNoise, fixed: Sequence[float] = ()) -> list[float]:
        """The times among which the point after the points `fixed` is searched, decreasing, with six digits.

        Both ends of the noise grid are among them; none are left after its lower end. Raises UserError if there are
        none for the first point.
        """
        grid = [float(f"{time:.6g}") for time in noise.times(self.points)]
        inside = [time for time in grid if self.low <= time <= self.high]
        if not inside:
            raise UserError(
                f"the search interval is empty: none of the {self.points} times from {grid[0]:g} to {grid[-1]:g} lies "
                f"in [{self.low:g}, {self.high:g}]"
            )
        return [time for time in inside if not fixed or time < fixed[-1]]

    def __call__(self, denoise: Denoise, z: Tensor, noise: KarrasNoise, draw: Draw) -> Tensor:
        raise UserError("the time points of the sampler 'search' are not known yet: `cm search` finds them")


@register("sampler", "ode")
@dataclass(frozen=True)
class ODE:
    """The probability-flow ODE from T to eps along the noise grid.

    `steps`: the number of steps. `solver`: what takes one step. `denoise_last`: whether the last of the steps goes from
    eps to 0, where Euler's step is the estimate D(x, eps); otherwise all steps are between T and eps. The sampler of
    EDM (Algorithm 1) is `ode,solver~heun,steps~18` (35 evaluations), that of progressive distillation
    `ode,denoise_last~false,solver~euler,steps~n`.
    """

    steps: Annotated[int, at_least(1), at_most(10**5)]
    solver: Annotated[Solver, component("solver")]
    denoise_last: bool = True

    def check(self, where: str) -> None:
        """Raises UserError for a single step that would denoise at T, which is the sampler `onestep`."""
        if self.denoise_last and self.steps < 2:
            raise UserError(f"{where}: steps must be at least 2, not {self.steps}: a single step is 'onestep'")

    @property
    def evaluations(self) -> int:
        """How many times the network is called for one image (NFE)."""
        return _evaluations(self.solver, self.steps - 1 if self.denoise_last else self.steps, self.denoise_last)

    def __call__(self, denoise: Denoise, z: Tensor, noise: KarrasNoise, draw: Draw) -> Tensor:
        grid = noise.times(self.steps if self.denoise_last else self.steps + 1)
        times = [_times(t, z) for t in grid]
        x = integrate(self.solver, denoise, float(grid[0]) * z, times)
        return _to_zero(self.solver, denoise, x, times[-1]) if self.denoise_last else x


@register("sampler", "flowmap")
@dataclass(frozen=True)
class FlowMap:
    """Steps of a model of two times along its trajectories, such as MeanFlow's (Geng et al. 2025, Eq. 12).

        x_s = X(x_t, t, s) for the times from T to 0

    that are uniform in t / (1 + t), the time of the flow. `steps`: the number of steps.
    """

    two_times: ClassVar[bool] = True

    steps: Annotated[int, at_least(2), at_most(10**5)]

    @property
    def evaluations(self) -> int:
        """How many times the network is called for one image (NFE)."""
        return self.steps

    def __call__(self, denoise: Callable[..., Tensor], z: Tensor, noise: KarrasNoise, draw: Draw) -> Tensor:
        flow = [noise.sigma_max / (1 + noise.sigma_max) * (1 - i / self.steps) for i in range(1, self.steps)]
        grid = [noise.sigma_max, *(time / (1 - time) for time in flow)]
        x = grid[0] * z
        for t, s in itertools.pairwise(grid):
            x = denoise(x, _times(t, z), _times(s, z))
        return denoise(x, _times(grid[-1], z))


@register("sampler", "stochastic")
@dataclass(frozen=True)
class Stochastic:
    """The stochastic sampler of EDM (Algorithm 2): noise is added before each step, where t is in [low, high].

        t' = t + gamma t,  gamma = min(churn / steps, sqrt(2) - 1)
        x <- x + sqrt(t'^2 - t^2) inflation z',   then a step of `solver` from t' to the next time

    `steps`: the number of times of the grid. `churn` is S_churn, `low` and `high` S_tmin and S_tmax, `inflation`
    S_noise. EDM's ImageNet-64 results have `steps~256`, `churn~40.0`, `low~0.05`, `high~50.0`, `inflation~1.003` (511
    evaluations). With the solver `midpoint` it is the sampler `dpm` of the official code.
    """

    steps: Annotated[int, at_least(2), at_most(10**5)]
    churn: Annotated[float, at_least(0.0), at_most(1e6)]
    low: Annotated[float, at_least(0.0), at_most(1e6)]
    high: Annotated[float, at_least(0.0), at_most(1e6)]
    inflation: Annotated[float, at_least(0.0), at_most(1e6)]
    solver: Annotated[Solver, component("solver")] = default("solver", "heun")

    def check(self, where: str) -> None:
        """Raises UserError for a solver with a history: the added noise leaves the trajectory of the earlier steps."""
        if self.solver.history:
            raise UserError(f"{where}: the solver makes use of earlier steps, which added noise makes worthless")

    @property
    def evaluations(self) -> int:
        """How many times the network is called for one image (NFE)."""
        return _evaluations(self.solver, self.steps - 1, to_zero=True)

    def __call__(self, denoise: Denoise, z: Tensor, noise: KarrasNoise, draw: Draw) -> Tensor:
        grid = [*noise.times(self.steps), 0.0]
        x = grid[0] * z
        for t, s in itertools.pairwise(grid):
            gamma = min(self.churn / self.steps, 2**0.5 - 1) if self.low <= t <= self.high else 0.0
            noisier = t + gamma * t
            x = x + (noisier**2 - t**2) ** 0.5 * self.inflation * draw()
            time = _times(noisier, z)
            x = self.solver(denoise, x, time, _times(s, z)) if s else _to_zero(self.solver, denoise, x, time)
        return x


@register("sampler", "ancestral")
@dataclass(frozen=True)
class Ancestral:
    """The sampler `ancestral` of the official code: Euler steps past the next time, and noise back to it.

        up = s sqrt(1 - s^2 / t^2),  down = sqrt(s^2 - up^2) = s^2 / t;   x <- euler(x, t -> down) + up z'

    along the noise grid from T to eps and then to 0. `steps`: the number of steps.
    """

    steps: Annotated[int, at_least(2), at_most(10**5)]

    @property
    def evaluations(self) -> int:
        """How many times the network is called for one image (NFE)."""
        return self.steps

    def __call__(self, denoise: Denoise, z: Tensor, noise: KarrasNoise, draw: Draw) -> Tensor:
        grid = [*noise.times(self.steps), 0.0]
        x = grid[0] * z
        for t, s in itertools.pairwise(grid):
            x = euler(denoise, x, _times(t, z), _times(s**2 / t, z)) + s * (1 - (s / t) ** 2) ** 0.5 * draw()
        return x


def _evaluations(solver: Solver, steps: int, to_zero: bool) -> int:
    """Calls of the network in `steps` steps, and one more from eps to 0."""
    last = solver.evaluations if solver.reaches_zero else 1
    return steps * solver.evaluations + (last if to_zero else 0)


def _to_zero(solver: Solver, denoise: Denoise, x: Tensor, t: Tensor) -> Tensor:
    """The last step, from times `t` [B] to 0: the solver's, or the estimate D where the solver cannot end at 0."""
    return solver(denoise, x, t, torch.zeros_like(t)) if solver.reaches_zero else denoise(x, t)


def _times(t: float, z: Tensor) -> Tensor:
    """The time `t` for each image of `z`, [B], float64 so that solvers subtract exactly."""
    return z.new_full((len(z),), float(t), dtype=torch.float64)
