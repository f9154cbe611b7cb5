"""The distribution of the two times t and r <= t, in [0, 1], between which MeanFlow learns the average velocity.

A distribution is a registered frozen dataclass; calling it draws a pair for each image:

    pairs(draws) -> t [B], r [B]     float64

Both are logit-normal, sigmoid(mean + std n) with n unit normal. Where r is not drawn, it is t: there the loss is that
of flow matching. The defaults are those of the official code on CIFAR-10.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cm.config.settings import above, at_least, at_most
from cm.lazy import torch
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from cm.diffusion.times import Draws


@dataclass(frozen=True)
class TimePairs(abc.ABC):
    """A distribution of pairs of times.

    `t_mean`, `t_std`: mean and standard deviation of the logit of t. `r_mean`, `r_std`: those of r. `ratio`: the
    probability that r is drawn, instead of being t.
    """

    t_mean: Annotated[float, at_least(-100.0), at_most(100.0)] = -2.0
    t_std: Annotated[float, above(0.0), at_most(100.0)] = 2.0
    r_mean: Annotated[float, at_least(-100.0), at_most(100.0)] = -2.0
    r_std: Annotated[float, above(0.0), at_most(100.0)] = 2.0
    ratio: Annotated[float, at_least(0.0), at_most(1.0)] = 0.75

    def __call__(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """t and r of each image, each [B], float64."""
        return self.pair(draws.normal_scalar(), draws.normal_scalar(), draws.uniform())

    def pair(self, n_t: Tensor, n_r: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """t and r from unit normal numbers `n_t`, `n_r` and numbers `u` uniform in [0, 1), each [B]; float64."""
        t = (self.t_mean + self.t_std * n_t.double()).sigmoid()
        r = (self.r_mean + self.r_std * n_r.double()).sigmoid()
        return self.order(t, r, u.double() < 1 - self.ratio)

    @abc.abstractmethod
    def order(self, t: Tensor, r: Tensor, equal: Tensor) -> tuple[Tensor, Tensor]:
        """t and r <= t from the numbers drawn for both [B]; r is t where `equal` [B] says so."""


@register("time-pairs", "sorted")
@dataclass(frozen=True)
class Sorted(TimePairs):
    """t is the larger of the two numbers (Geng et al. 2025, Section 4.3; `v0` of the official code)."""

    def order(self, t: Tensor, r: Tensor, equal: Tensor) -> tuple[Tensor, Tensor]:
        later = torch.maximum(t, r)
        return later, torch.where(equal, later, torch.minimum(t, r))


@register("time-pairs", "capped")
@dataclass(frozen=True)
class Capped(TimePairs):
    """t is what is drawn for it, and r at most t (`v1` of the official code)."""

    t_mean: Annotated[float, at_least(-100.0), at_most(100.0)] = -0.6
    t_std: Annotated[float, above(0.0), at_most(100.0)] = 1.6
    r_mean: Annotated[float, at_least(-100.0), at_most(100.0)] = -4.0
    r_std: Annotated[float, above(0.0), at_most(100.0)] = 1.6

    def order(self, t: Tensor, r: Tensor, equal: Tensor) -> tuple[Tensor, Tensor]:
        return t, torch.where(equal, t, torch.minimum(t, r))
