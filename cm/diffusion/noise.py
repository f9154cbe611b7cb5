"""The noise grid of Karras et al. (2022).

Times are noise levels, float64, and run from `sigma_max` down to `sigma_min`: index 0 is the noisiest, as in the
official code and the reverse of the paper's n = 1..N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar

import numpy as np

from cm.config.settings import at_least, at_most
from cm.errors import UserError
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor

Number = TypeVar("Number", float, np.ndarray, "Tensor")


@register("noise", "karras")
@dataclass(frozen=True)
class KarrasNoise:
    """t(u) = (smax^(1/rho) + u (smin^(1/rho) - smax^(1/rho)))^rho for u from 0 to 1 (EDM, Eq. 5; paper, Sec. 2).

    `sigma_min`: the lowest noise level. `sigma_max`: the highest noise level, the paper's T. `rho`: larger values put
    more times near `sigma_min`. `sigma_data`: the standard deviation of the data that preconditioning assumes. Images
    are in [-1, 1].
    """

    sigma_min: Annotated[float, at_least(1e-12), at_most(1e6)] = 0.002
    sigma_max: Annotated[float, at_least(1e-12), at_most(1e6)] = 80.0
    rho: Annotated[float, at_least(0.1), at_most(1e3)] = 7.0
    sigma_data: Annotated[float, at_least(1e-12), at_most(1e6)] = 0.5

    def check(self, where: str) -> None:
        """UserError unless sigma_min < sigma_max."""
        if not self.sigma_min < self.sigma_max:
            raise UserError(f"{where}: sigma_min {self.sigma_min} must be below sigma_max {self.sigma_max}")

    def time(self, u: Number) -> Number:
        """The time at `u` in [0, 1], a number or an array of any shape; float64 if `u` is."""
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (high + u * (low - high)) ** self.rho

    def speed(self, t: Number) -> Number:
        """-dt/du, how fast the times fall with u, at times `t` of any shape: 1 / (tau^-1)'(t) with the paper's tau."""
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return self.rho * (high - low) * t ** (1 - 1 / self.rho)

    def times(self, steps: int) -> np.ndarray:
        """The grid of `steps` times, [steps], from sigma_max to sigma_min, exact at both ends."""
        grid = self.time(np.linspace(0.0, 1.0, steps))
        grid[0] = self.sigma_max
        if steps > 1:
            grid[-1] = self.sigma_min
        return grid
