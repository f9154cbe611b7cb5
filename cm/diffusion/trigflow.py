"""TrigFlow (Lu & Song 2024, arXiv 2410.11081, Section 3): diffusion on an arc of a circle, and its relation to EDM's.

    t = arctan(sigma / sd) in [0, pi / 2],   x_t = cos(t) x0 + sin(t) z = cos(t) x_edm,   z ~ N(0, sd^2)

with sd = `sigma_data`, EDM's noise level sigma and x_edm = x0 + sigma n for unit noise n = z / sd. A network F gives
the velocity of the probability-flow ODE, and by it both the denoiser and the consistency function have the form

    dx_t / dt = sd F(x_t / sd, c_noise(t)),   D = cos(t) x_t - sin(t) sd F(x_t / sd, c_noise(t)).

In terms of sigma, cos(t) = sd / sqrt(sigma^2 + sd^2) and sin(t) = sigma / sqrt(sigma^2 + sd^2), so that D has EDM's
coefficients but for the sign of c_out: the weights of an EDM network are those of F = -F_edm with
c_noise(t) = ln(sd tan(t)) / 4. The preconditionings are in `cm.diffusion.preconditioning`. All functions take and
return tensors; times and noise levels are float64 where they are to be exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cm.diffusion.solvers import per_image


def time_of(sigma: Tensor, sigma_data: float) -> Tensor:
    """t = arctan(sigma / sd) of noise levels [B], [B]."""
    return torch.atan2(sigma, torch.full_like(sigma, sigma_data))


def noise_level(t: Tensor, sigma_data: float) -> Tensor:
    """sigma = sd tan(t) of times [B] below pi / 2, [B]."""
    return sigma_data * t.tan()


def interpolate(x: Tensor, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """x_t = cos(t) x + sin(t) z and its velocity cos(t) z - sin(t) x, both [B, C, H, W].

    `x`: clean images, `z`: noise of standard deviation sd, both [B, C, H, W]. `t`: times [B].
    """
    cos, sin = per_image(t.cos(), x), per_image(t.sin(), x)
    return cos * x + sin * z, cos * z - sin * x


def clean_images(x_t: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
    """cos(t) x_t - sin(t) dx_t / dt: the denoiser, or the consistency function, of a velocity, all [B, C, H, W]."""
    return per_image(t.cos(), x_t) * x_t - per_image(t.sin(), x_t) * velocity
