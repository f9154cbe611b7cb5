"""lambda(t), the weight of a loss at its noisier time: functions of t [B] and sigma_data (`get_weightings`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cm.lazy import torch
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor


class Weighting(Protocol):
    """lambda(t)."""

    def __call__(self, t: Tensor, sigma_data: float, /) -> Tensor:
        """The weight at each time, [B] to [B]."""
        ...


@register("weighting", "uniform")
def uniform(t: Tensor, sigma_data: float) -> Tensor:
    """1, the paper's choice for consistency models."""
    return torch.ones_like(t)


@register("weighting", "snr")
def snr(t: Tensor, sigma_data: float) -> Tensor:
    """1 / t^2."""
    return t**-2


@register("weighting", "snr+1")
def snr_plus_one(t: Tensor, sigma_data: float) -> Tensor:
    """1 / t^2 + 1 (Salimans & Ho 2022, Eq. 10)."""
    return t**-2 + 1


@register("weighting", "truncated-snr")
def truncated_snr(t: Tensor, sigma_data: float) -> Tensor:
    """max(1 / t^2, 1) (Salimans & Ho 2022, Eq. 9), the choice for progressive distillation."""
    return (t**-2).clamp(min=1.0)


@register("weighting", "karras")
def karras(t: Tensor, sigma_data: float) -> Tensor:
    """(t^2 + sigma_data^2) / (t sigma_data)^2 (EDM, Table 1)."""
    return t**-2 + sigma_data**-2
