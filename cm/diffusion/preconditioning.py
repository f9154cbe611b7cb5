"""The coefficients that precondition a network F (EDM, Eq. 7):

    D(x, t) = c_skip(t) x + c_out(t) F(c_in(t) x, c_noise(t)).

A preconditioning maps noise levels t [B] to four coefficients, each [B], in the precision of t. With sd = `sigma_data`
and eps = `sigma_min`, both of those below have c_in = 1 / sqrt(t^2 + sd^2) and c_noise = ln(t) / 4 (EDM, Table 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor


class Coefficients(NamedTuple):
    """The coefficients at noise levels t [B], each [B]."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


@register("preconditioning", "edm")
def edm(t: Tensor, *, sigma_data: float, sigma_min: float) -> Coefficients:
    """The coefficients of a denoiser: Karras et al. (2022), Table 1; `sigma_min` is not used.

    c_skip = sd^2 / (t^2 + sd^2), c_out = t sd / sqrt(t^2 + sd^2).
    """
    variance = t**2 + sigma_data**2
    c_in = variance.rsqrt()
    return Coefficients(sigma_data**2 / variance, t * sigma_data * c_in, c_in, t.log() / 4)


@register("preconditioning", "boundary")
def boundary(t: Tensor, *, sigma_data: float, sigma_min: float) -> Coefficients:
    """The coefficients of a consistency function, f(x, eps) = x: Song et al. (2023), Appendix C.

    c_skip = sd^2 / ((t - eps)^2 + sd^2), c_out = (t - eps) sd / sqrt(t^2 + sd^2).
    """
    c_in, age = (t**2 + sigma_data**2).rsqrt(), t - sigma_min
    return Coefficients(sigma_data**2 / (age**2 + sigma_data**2), age * sigma_data * c_in, c_in, t.log() / 4)


@register("preconditioning", "ect")
def ect(t: Tensor, *, sigma_data: float, sigma_min: float) -> Coefficients:
    """`boundary` with eps = 0.003, whatever `sigma_min`: models of easy consistency tuning, when they are sampled."""
    return boundary(t, sigma_data=sigma_data, sigma_min=0.003)


@register("preconditioning", "tcm")
def tcm(t: Tensor, *, sigma_data: float, sigma_min: float) -> Coefficients:
    """`edm`, for a truncated consistency model, which is no diffusion model."""
    return edm(t, sigma_data=sigma_data, sigma_min=sigma_min)
