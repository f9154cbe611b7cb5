"""The distribution of the noise levels at which a loss is taken.

A distribution is a registered frozen dataclass with two methods, for losses between neighbours of a noise grid and for
losses at any time:

    times.on_grid(draws, grid) -> i [B]       the interval from grid[i] to grid[i + 1], of the descending noise grid
    times.continuous(draws, noise) -> t [B]   float64

`draws` is the source of randomness, one draw for each image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol

import numpy as np

from cm.config.settings import above, at_least, at_most
from cm.errors import UserError
from cm.lazy import torch
from cm.registry import register
from cm.utils.devices import send

if TYPE_CHECKING:
    from torch import Tensor

    from cm.diffusion.noise import KarrasNoise


class Draws(Protocol):
    """Random numbers, one for each image of a batch."""

    def integers(self, below: int, /) -> Tensor:
        """Uniform integers in 0..below-1, [B]."""
        ...

    def uniform(self) -> Tensor:
        """Uniform numbers in [0, 1), [B]."""
        ...

    def normal_scalar(self) -> Tensor:
        """Unit normal numbers, [B]."""
        ...


class Times(Protocol):
    """A distribution of noise levels."""

    def on_grid(self, draws: Draws, grid: np.ndarray) -> Tensor:
        """The index i [B] of an interval from grid[i] to grid[i + 1] for each image; `grid` [N] descends."""
        ...

    def continuous(self, draws: Draws, noise: KarrasNoise) -> Tensor:
        """A time for each image, [B], float64."""
        ...


@register("times", "uniform")
@dataclass(frozen=True)
class Uniform:
    """Every interval of the grid is as likely (paper, Algorithms 2 and 3); between them, t(u) with u uniform."""

    def on_grid(self, draws: Draws, grid: np.ndarray) -> Tensor:
        """i uniform in 0..N-2."""
        return draws.integers(len(grid) - 1)

    def continuous(self, draws: Draws, noise: KarrasNoise) -> Tensor:
        """t(u) of the noise grid with u uniform in [0, 1): the limit of many intervals."""
        return noise.time(draws.uniform().double())


def draw_interval(draws: Draws, probabilities: Tensor) -> Tensor:
    """i with the probability at that place of `probabilities` [N - 1], by inverting their cumulative sum; int64 [B]."""
    u = draws.uniform().double()
    sums = send(probabilities.cumsum(0), u.device)
    return torch.searchsorted(sums, u, right=True).clamp(max=len(probabilities) - 1)


@register("times", "lognormal")
@dataclass(frozen=True)
class LogNormal:
    """ln t ~ N(p_mean, p_std^2) (EDM, Table 1), or the same distribution on the intervals of a grid (iCT):

        P(i) ~ erf(z_i) - erf(z_{i+1}),   z_i = (ln grid[i] - p_mean) / (sqrt(2) p_std)

    `p_mean`: the mean of ln t. `p_std`: its standard deviation.
    """

    p_mean: Annotated[float, at_least(-100.0), at_most(100.0)] = -1.2
    p_std: Annotated[float, above(0.0), at_most(100.0)] = 1.2

    def on_grid(self, draws: Draws, grid: np.ndarray) -> Tensor:
        """i with probability P(i), by inverting its cumulative distribution (Song & Dhariwal 2024, Section 3.5)."""
        return draw_interval(draws, self.probabilities(grid))

    def continuous(self, draws: Draws, noise: KarrasNoise) -> Tensor:
        """t = exp(p_mean + p_std n) with n unit normal."""
        return (self.p_mean + self.p_std * draws.normal_scalar().double()).exp()

    def probabilities(self, grid: np.ndarray) -> Tensor:
        """P(i) of the intervals of a descending grid [N], [N - 1], float64; they add up to 1."""
        z = (torch.from_numpy(grid).log() - self.p_mean) / (math.sqrt(2) * self.p_std)
        weights = -torch.erf(z).diff()
        return weights / weights.sum()


@register("times", "student-truncated")
@dataclass(frozen=True)
class TruncatedStudent:
    """(ln t - p_mean) / p_std has Student's t distribution, with t in [low, sigma_max]: the proposal of TCM.

    `p_mean`, `p_std`: place and width of the distribution of ln t. `df`: its degrees of freedom; with TCM's 0.01, half
    of the times in [1, 80] are above 3.5. `low`: the smallest time.
    """

    p_mean: Annotated[float, at_least(-100.0), at_most(100.0)] = 0.0
    p_std: Annotated[float, above(0.0), at_most(100.0)] = 0.2
    df: Annotated[float, at_least(1e-3), at_most(1e6)] = 0.01
    low: Annotated[float, above(0.0), at_most(1e6)] = 1.0

    def on_grid(self, draws: Draws, grid: np.ndarray) -> Tensor:
        """i with the probability of its interval, of which the part below `low` does not count."""
        return draw_interval(draws, self.probabilities(grid))

    def continuous(self, draws: Draws, noise: KarrasNoise) -> Tensor:
        """t with F(t) = F(low) + u (F(sigma_max) - F(low)), u uniform and F the cumulative distribution."""
        u = draws.uniform().double()
        return torch.from_numpy(self.quantile(u.cpu().numpy(), noise.sigma_max)).to(u.device)

    def quantile(self, u: np.ndarray, high: float) -> np.ndarray:
        """The times below which lie the shares `u` in [0, 1] of the distribution in [low, high], float64.

        Raises UserError if none of the distribution lies there.
        """
        from scipy.special import stdtrit

        last, first = self._cumulative(np.array([high, self.low]))
        t = np.exp(self.p_mean + self.p_std * np.asarray(stdtrit(self.df, first + u * (last - first))))
        return t.clip(self.low, high)

    def probabilities(self, grid: np.ndarray) -> Tensor:
        """The shares of the intervals of a descending grid [N], [N - 1], float64; they add up to 1."""
        weights = torch.from_numpy(-np.diff(self._cumulative(grid.clip(min=self.low))))
        return weights / weights.sum()

    def _cumulative(self, times: np.ndarray) -> np.ndarray:
        """The shares of the distribution below descending times; UserError where none lies between them."""
        from scipy.special import stdtr

        shares = np.asarray(stdtr(self.df, (np.log(times) - self.p_mean) / self.p_std))
        if not shares[-1] < shares[0]:
            raise UserError(f"{self}: none of this distribution lies between {times[-1]:g} and {times[0]:g}")
        return shares


@register("times", "lognormal-truncated")
@dataclass(frozen=True)
class TruncatedLogNormal(LogNormal):
    """`lognormal` between the ends of the noise grid, sigma_min and sigma_max (FastGen's sCM and consistency models).

    On the intervals of a grid, which lies between these ends, it is the same as `lognormal`.
    """

    def continuous(self, draws: Draws, noise: KarrasNoise) -> Tensor:
        """t = exp(p_mean + p_std n), where the distribution of n is cut off; by inverting it."""
        ends = torch.tensor([noise.sigma_min, noise.sigma_max], dtype=torch.float64)
        low, high = torch.special.ndtr((ends.log() - self.p_mean) / self.p_std).tolist()
        n = torch.special.ndtri(low + (high - low) * draws.uniform().double())
        return (self.p_mean + self.p_std * n).exp().clamp(noise.sigma_min, noise.sigma_max)
