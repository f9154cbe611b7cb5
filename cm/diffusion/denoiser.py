"""A network and a preconditioning: a denoiser D or a consistency function f."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cm.diffusion.preconditioning import Coefficients


class Preconditioning(Protocol):
    """Noise levels t [B] to the four coefficients, each [B]; one of two times also takes `s` [B]."""

    def __call__(self, t: Tensor, *, sigma_data: float, sigma_min: float, **second: Tensor) -> Coefficients:
        """The coefficients at noise levels t [B]."""


class Denoiser(nn.Module):
    """c_skip(t) x + c_out(t) F(c_in(t) x, c_noise(t)) (EDM, Eq. 7).

    x [B, C, H, W], noise levels t [B], labels [B] or None -> [B, C, H, W]. The coefficients are computed in the
    precision of t, and at least in float32. `labels` are int64 class indices. `dropout_seeds`, int64 [B] or None,
    choose the dropout masks of the images in training. `augment_labels` [B, augment_dim] or None say how the images
    were augmented. `s` [B] or None is the second time of a preconditioning of two times.
    """

    def __init__(
        self, network: nn.Module, preconditioning: Preconditioning, *, sigma_data: float = 0.5, sigma_min: float = 0.002
    ) -> None:
        super().__init__()
        self.network = network
        self.preconditioning = preconditioning
        self.sigma_data = sigma_data
        self.sigma_min = sigma_min

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        dropout_seeds: Tensor | None = None,
        augment_labels: Tensor | None = None,
        s: Tensor | None = None,
    ) -> Tensor:
        """D(x, t) or f(x, t), or the point at time s of the trajectory, [B, C, H, W], in the precision of x."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        t = t.to(torch.promote_types(t.dtype, torch.float32))
        second = {} if s is None else {"s": s.to(t.dtype)}
        coefficients = self.preconditioning(t, sigma_data=self.sigma_data, sigma_min=self.sigma_min, **second)
        c_skip, c_out, c_in, c_noise = (coefficient.to(dtype) for coefficient in coefficients)
        scaled = c_in[:, None, None, None] * x
        classes = self._one_hot(labels, dtype)
        raw = self.network(scaled, c_noise, classes, augment_labels=augment_labels, dropout_seeds=dropout_seeds)
        return (c_skip[:, None, None, None] * x + c_out[:, None, None, None] * raw).to(x.dtype)

    def _one_hot(self, labels: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        classes = getattr(self.network, "classes", 0)
        return None if labels is None or not classes else F.one_hot(labels, classes).to(dtype)
