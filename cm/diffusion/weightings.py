"""lambda(t, s), the weight of a loss between a noisier time t and a cleaner time s.

A weighting is a registered function of `t` [B], `s` [B] and `sigma_data`, returning [B]; s is 0 where the loss compares
with the clean image. 1 / t^2 is the signal-to-noise ratio of unit-variance data. EDM's weight 1 / c_out^2 is `karras`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cm.lazy import torch
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor


class Weighting(Protocol):
    """lambda(t, s)."""

    def __call__(self, t: Tensor, s: Tensor, sigma_data: float, /) -> Tensor:
        """The weight of each image, from times `t` and `s` [B], s < t, to [B]."""
        ...


@register("weighting", "uniform")
def uniform(t: Tensor, s: Tensor, sigma_data: float) -> Tensor:
    """1, the paper's choice for consistency models."""
    return torch.ones_like(t)


@register("weighting", "snr")
def snr(t: Tensor, s: Tensor, sigma_data: float) -> Tensor:
    """1 / t^2."""
    return t**-2


@register("weighting", "snr+1")
def snr_plus_one(t: Tensor, s: Tensor, sigma_data: float) -> Tensor:
    """1 / t^2 + 1 (Salimans & Ho 2022, Eq. 10)."""
    return t**-2 + 1


@register("weighting", "truncated-snr")
def truncated_snr(t: Tensor, s: Tensor, sigma_data: float) -> Tensor:
    """max(1 / t^2, 1), the choice for progressive distillation (Salimans & Ho 2022, Eq. 9)."""
    return (t**-2).clamp(min=1.0)


@register("weighting", "karras")
def karras(t: Tensor, s: Tensor, sigma_data: float) -> Tensor:
    """1 / c_out(t)^2 = (t^2 + sd^2) / (t sd)^2, sd = `sigma_data` (EDM, Table 1; ECT on ImageNet-64, `snrpk`)."""
    return t**-2 + sigma_data**-2


@register("weighting", "inverse-interval")
def inverse_interval(t: Tensor, s: Tensor, sigma_data: float) -> Tensor:
    """1 / (t - s): iCT (Song & Dhariwal 2024, Section 3.5) and ECT on CIFAR-10."""
    return 1 / (t - s)
