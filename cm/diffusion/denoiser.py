"""A network made into a denoiser or a consistency function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Preconditioning = Callable[..., tuple[Tensor, Tensor, Tensor]]


class Denoiser(nn.Module):
    """c_skip(t) x + c_out(t) F(c_in(t) x, ln(t)/4), EDM Eq. 7: x [B, C, H, W], t [B], labels [B] -> [B, C, H, W].

    The scalings are computed in the precision of t, and at least in float32. `labels` are int64 class indices.
    """

    def __init__(
        self, network: nn.Module, preconditioning: Preconditioning, *, sigma_data: float = 0.5, sigma_min: float = 0.002
    ) -> None:
        super().__init__()
        self.network = network
        self.preconditioning = preconditioning
        self.sigma_data = sigma_data
        self.sigma_min = sigma_min

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        t = t.to(torch.promote_types(t.dtype, torch.float32))
        scalings = self.preconditioning(t, sigma_data=self.sigma_data, sigma_min=self.sigma_min)
        c_skip, c_out, c_in = (scaling.to(dtype)[:, None, None, None] for scaling in scalings)
        raw = self.network(c_in * x, (0.25 * t.log()).to(dtype), self._one_hot(labels, dtype))
        return (c_skip * x + c_out * raw).to(x.dtype)

    def _one_hot(self, labels: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        classes = getattr(self.network, "classes", 0)
        return None if labels is None or not classes else F.one_hot(labels, classes).to(dtype)
