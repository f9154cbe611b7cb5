"""sCM, continuous-time consistency models in TrigFlow (Lu & Song 2024, arXiv 2410.11081, Algorithm 1).

With the times and the network F of TrigFlow (`cm.diffusion.trigflow`), F- = sg F, sd = `sigma_data` and D values in an
image, the tangent of the consistency function f = cos(t) x_t - sin(t) sd F, times cos(t), is

    g = -cos^2(t) (sd F- - dx_t/dt) - r cos(t) sin(t) (x_t + sd dF-/dt),   r = min(1, step / tangent_warmup),

where dF/dt is the derivative along the trajectory. It is normalised, g <- g / (||g|| + c), and the loss is

    e^w(t) / D ||F(x_t / sd, t) - F- - g||^2 - w(t)

with a learned w(t), which the loss owns. Distillation (sCD) has dx_t/dt = sd F_teacher; training (sCT) has
dx_t/dt = cos(t) z - sin(t) x. cos(t) sin(t) dF/dt is the derivative along (cos(t) sin(t) dx_t/dt, cos(t) sin(t)), which
stays small at both ends. It is computed without gradients, beside the evaluation that has them, so that this one may
use fused attention, autocast, a compiled network and checkpointing.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from cm.config.settings import above, at_least, at_most, component, default
from cm.diffusion.solvers import per_image
from cm.diffusion.times import Times
from cm.diffusion.weightings import Weighting
from cm.lazy import torch
from cm.methods.base import Batch, Networks, NonFinite, StartsByChoice, require
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn

VELOCITIES = {"trigflow": "velocity", "edm": "velocity-edm"}


@dataclass(frozen=True)
class ContinuousTrigFlow(StartsByChoice):
    """What sCT and sCD share. The defaults are those of the paper on CIFAR-10.

    `times`: the distribution of the noise levels sigma, t = arctan(sigma / sd). `parametrization`: what the network is
    told of the time, t itself (`trigflow`) or ln(sigma) / 4 (`edm`), for which the weights of an EDM teacher serve.
    `init`: the weights that the student starts from. `tangent_warmup`: the steps until the whole tangent counts; 0 for
    no warm-up. `c`: the constant of the normalisation. `tangent_norm`: ||g||, the root of the sum of the squares (`l2`)
    or of their mean (`rms`, FastGen). `weighting`: a factor of the squared error, beside e^w; FastGen has 1 / sigma
    (`inverse-interval`, in which s is 0). `extra_mean`: whether the squared error is divided by D once more (FastGen).
    """

    times: Annotated[Times, component("times")] = default("times", "lognormal", p_mean=-1.0, p_std=1.4)
    parametrization: Literal["trigflow", "edm"] = "trigflow"
    init: Literal["random", "teacher"] = "teacher"
    tangent_warmup: Annotated[int, at_least(0), at_most(10**9)] = 10_000
    c: Annotated[float, above(0.0), at_most(1e6)] = 0.1
    tangent_norm: Literal["l2", "rms"] = "l2"
    weighting: Annotated[Weighting, component("weighting")] = default("weighting", "uniform")
    extra_mean: bool = False

    @property
    def preconditioning(self) -> str:
        return VELOCITIES[self.parametrization]

    @property
    def sampling_preconditioning(self) -> str:
        return {"trigflow": "scm", "edm": "scm-edm"}[self.parametrization]

    @property
    def teacher_preconditionings(self) -> Mapping[str, str]:
        if not self.starts_from_teacher:
            return VELOCITIES
        return {self.parametrization: VELOCITIES[self.parametrization]}

    @property
    def differentiates_forward(self) -> bool:
        return True

    @property
    def allows_checkpointing(self) -> bool:
        return True

    def build_own(self) -> nn.Module:
        from cm.diffusion.log_weight import LogWeight

        return LogWeight()

    @abc.abstractmethod
    def velocity(self, nets: Networks, batch: Batch, x_t: Tensor, t: Tensor, estimate: Tensor) -> Tensor:
        """dx_t/dt [B, C, H, W] at times `t` [B]; `estimate`: cos(t) z - sin(t) x, whose mean given x_t it is."""

    def loss(self, nets: Networks, batch: Batch) -> Tensor:
        """Draw sigma and the noise, then `loss_at`."""
        from cm.diffusion.trigflow import time_of

        sigma_data = batch.noise.sigma_data
        t = time_of(self.times.continuous(batch, batch.noise), sigma_data)
        return self.loss_at(nets, batch, z=sigma_data * batch.normal(), t=t)

    def loss_at(self, nets: Networks, batch: Batch, *, z: Tensor, t: Tensor) -> Tensor:
        """The loss for noise `z` [B, C, H, W] of standard deviation sd and times `t` [B] of TrigFlow; returns [B].

        Raises NonFinite for a tangent that is not finite.
        """
        from cm.diffusion.trigflow import interpolate

        x_t, estimate = interpolate(batch.x, z, t)
        with torch.no_grad():
            dx_dt = self.velocity(nets, batch, x_t, t, estimate)
            g = self.normalize(self.tangent(nets, batch, x_t, t, dx_dt), t)
        output = nets.student(x_t, t, batch.labels)
        w = require(nets.own)(t).to(output.dtype)
        return self._weight(batch, t).to(output.dtype) * w.exp() * _mean_square(output - output.detach() - g) - w

    def tangent(self, nets: Networks, batch: Batch, x_t: Tensor, t: Tensor, dx_dt: Tensor) -> Tensor:
        """g before its normalisation, [B, C, H, W], at the step of the batch."""
        from cm.diffusion.forward import jvp

        sigma_data, speed = batch.noise.sigma_data, t.cos() * t.sin()
        output, derivative = jvp(
            lambda x, time: nets.student(x, time, batch.labels), (x_t, t), (per_image(speed, x_t) * dx_dt, speed)
        )
        departure = per_image(t.cos() ** 2, x_t) * (sigma_data * output - dx_dt)
        change = per_image(speed, x_t) * x_t + sigma_data * derivative
        return -departure - self.warmup_at(batch.step) * change

    def warmup_at(self, step: int) -> float:
        """r, the part of the second term of the tangent that counts."""
        return min(1.0, step / self.tangent_warmup) if self.tangent_warmup else 1.0

    def normalize(self, g: Tensor, t: Tensor) -> Tensor:
        """g / (||g|| + c), for each image of [B, C, H, W]. Raises NonFinite, with the number of images."""
        norms = g.flatten(1).norm(dim=1)
        bad = ~norms.isfinite()
        if bad.any():
            angles = ", ".join(f"{angle:.4g}" for angle in t[bad][:3].tolist())
            raise NonFinite(f"the tangent of {int(bad.sum())} of {len(g)} images is not finite (t = {angles})")
        scale = g[0].numel() ** 0.5 if self.tangent_norm == "rms" else 1.0
        return g / per_image(norms / scale + self.c, g)

    def _weight(self, batch: Batch, t: Tensor) -> Tensor:
        """The factor of the squared error beside e^w, [B]."""
        from cm.diffusion.trigflow import noise_level

        weight = self.weighting(noise_level(t, batch.noise.sigma_data), torch.zeros_like(t), batch.noise.sigma_data)
        return weight / batch.x[0].numel() if self.extra_mean else weight


def _mean_square(x: Tensor) -> Tensor:
    """The mean over the values of each image of [B, C, H, W], [B]."""
    return x.square().flatten(1).mean(1)


@register("method", "sct")
@dataclass(frozen=True)
class ContinuousTrigFlowTraining(ContinuousTrigFlow):
    """sCT, consistency training: no teacher in the loss."""

    def velocity(self, nets: Networks, batch: Batch, x_t: Tensor, t: Tensor, estimate: Tensor) -> Tensor:
        return estimate


@register("method", "scd")
@dataclass(frozen=True)
class ContinuousTrigFlowDistillation(ContinuousTrigFlow):
    """sCD, consistency distillation of a diffusion model in TrigFlow's or, with `parametrization: edm`, EDM's form."""

    evaluates_teacher: ClassVar[bool] = True

    def velocity(self, nets: Networks, batch: Batch, x_t: Tensor, t: Tensor, estimate: Tensor) -> Tensor:
        return batch.noise.sigma_data * require(nets.teacher)(x_t, t, batch.labels)
