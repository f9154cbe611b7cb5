"""Scalings of the network's input and output; t [B] are noise levels, and all three results have the shape of t."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("preconditioning", "edm")
def edm(t: Tensor, *, sigma_data: float, sigma_min: float) -> tuple[Tensor, Tensor, Tensor]:
    """(c_skip, c_out, c_in) of a denoiser: Karras et al. (2022), Table 1; `sigma_min` is not used.

    c_skip = sd^2 / (t^2 + sd^2), c_out = t sd / sqrt(t^2 + sd^2), c_in = 1 / sqrt(t^2 + sd^2).
    """
    variance = t**2 + sigma_data**2
    c_in = variance.rsqrt()
    return sigma_data**2 / variance, t * sigma_data * c_in, c_in


@register("preconditioning", "boundary")
def boundary(t: Tensor, *, sigma_data: float, sigma_min: float) -> tuple[Tensor, Tensor, Tensor]:
    """(c_skip, c_out, c_in) with f(x, sigma_min) = x: Song et al. (2023), Appendix C, with eps = `sigma_min`.

    c_skip = sd^2 / ((t - eps)^2 + sd^2), c_out = (t - eps) sd / sqrt(t^2 + sd^2), c_in = 1 / sqrt(t^2 + sd^2).
    """
    c_in, age = (t**2 + sigma_data**2).rsqrt(), t - sigma_min
    return sigma_data**2 / (age**2 + sigma_data**2), age * sigma_data * c_in, c_in
