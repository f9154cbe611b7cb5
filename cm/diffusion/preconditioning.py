"""The coefficients that precondition a network F (EDM, Eq. 7):

    D(x, t) = c_skip(t) x + c_out(t) F(c_in(t) x, c_noise(t)).

A preconditioning maps noise levels t [B] to four coefficients, each [B], in the precision of t. With sd = `sigma_data`
and eps = `sigma_min`, those of one time have c_in = 1 / sqrt(t^2 + sd^2) and c_noise = ln(t) / 4 (EDM, Table 1) unless
they say otherwise. `velocity` and `velocity-edm` take times of TrigFlow (`cm.diffusion.trigflow`).

Those of two times, t and s <= t, are for networks with `two_times: true`; their c_noise is [B, 2].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from cm.lazy import torch
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


class Coefficients(NamedTuple):
    """The coefficients at noise levels t [B], each [B]; c_noise is [B, 2] for two times."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def of_two_times(function: Function) -> Function:
    """A decorator that states of a preconditioning that it takes a second time `s` [B]."""
    vars(function)["two_times"] = True
    return function


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


@register("preconditioning", "trigflow")
def trigflow(t: Tensor, *, sigma_data: float, sigma_min: float) -> Coefficients:
    """The coefficients of a denoiser in TrigFlow: those of `edm` with -c_out, and c_noise = arctan(t / sd).

    Lu & Song (2024), Section 3 (`cm.diffusion.trigflow`); `sigma_min` is not used.
    """
    c_skip, c_out, c_in, _ = edm(t, sigma_data=sigma_data, sigma_min=sigma_min)
    return Coefficients(c_skip, -c_out, c_in, (t / sigma_data).atan())


@register("preconditioning", "scm")
def scm(t: Tensor, *, sigma_data: float, sigma_min: float) -> Coefficients:
    """`trigflow`, whose coefficients are those of a consistency function too: f(x, 0) = x (Lu & Song 2024, Eq. 5)."""
    return trigflow(t, sigma_data=sigma_data, sigma_min=sigma_min)


@register("preconditioning", "scm-edm")
def scm_edm(t: Tensor, *, sigma_data: float, sigma_min: float) -> Coefficients:
    """`edm`, for a consistency function that started from the weights of an EDM network."""
    return edm(t, sigma_data=sigma_data, sigma_min=sigma_min)


@register("preconditioning", "velocity")
def velocity(t: Tensor, *, sigma_data: float, sigma_min: float) -> Coefficients:
    """F(x / sd, t) itself, the velocity dx / dt over sd, at times t of TrigFlow: how sCM evaluates its networks."""
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    return Coefficients(zero, one, one / sigma_data, t)


@register("preconditioning", "velocity-edm")
def velocity_edm(t: Tensor, *, sigma_data: float, sigma_min: float) -> Coefficients:
    """`velocity` of an EDM network: -F(x / sd, ln(sd tan(t)) / 4), at times t of TrigFlow."""
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    return Coefficients(zero, -one, one / sigma_data, (sigma_data * t.tan()).log() / 4)


@register("preconditioning", "average-velocity")
@of_two_times
def average_velocity(t: Tensor, *, sigma_data: float, sigma_min: float, s: Tensor | None = None) -> Coefficients:
    """The network itself, u(z, t, t - s), at times of the flow: MeanFlow in training (Geng et al. 2025, Section 4).

    The noise labels are t and t - s, with s = 0 by default; `sigma_data` and `sigma_min` are not used.
    """
    s = torch.zeros_like(t) if s is None else s
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    return Coefficients(zero, one, one, torch.stack([t, t - s], dim=1))


@register("preconditioning", "meanflow")
@of_two_times
def meanflow(t: Tensor, *, sigma_data: float, sigma_min: float, s: Tensor | None = None) -> Coefficients:
    """The way from noise level t to s, by default to 0, in one step of an average velocity u (`cm.methods.meanflow`).

    With tau = t / (1 + t), rho = s / (1 + s) and z = x / (1 + t), which are times and point of the flow,

        x_s = (1 + s) (z - (tau - rho) u(z, tau, tau - rho)),   tau - rho = (t - s) / ((1 + t) (1 + s)).

    For s = 0 this is a consistency function. `sigma_data` and `sigma_min` are not used.
    """
    s = torch.zeros_like(t) if s is None else s
    c_in, interval = 1 / (1 + t), (t - s) / ((1 + t) * (1 + s))
    return Coefficients((1 + s) * c_in, -(t - s) * c_in, c_in, torch.stack([t * c_in, interval], dim=1))
