"""Consistency distillation and training in continuous time (paper, Appendix B): the limit of many grid times.

With t = tau(u) for u uniform in [0, 1], the derivative of f along the trajectory and lambda(t) = (tau^-1)'(t),

    g = d f / dt + (d f / dx) dx_t / dt,   dx_t / dt = (x_t - D(x_t, t)) / t,

the times of the noise grid have tau' = 1 / (tau^-1)' = `noise.speed`. With the teacher as D this is distillation; with
D = x it is training (Theorems 3 to 6 and their remarks). Let p be the degree of the distance and d'(f; g) its limit
(`cm.diffusion.distances`). Without stop-gradient the loss is the limit of (N - 1)^p d(f(x_t, t), f(x_s, s)),

    lambda (tau')^p d'(f; g) = (tau')^(p - 1) d'(f; g).

With stop-gradient (sg) it is a number whose gradient is the limit of (N - 1)^(p - 1) times the gradient of the discrete
loss with theta-minus = theta; it may be negative. For p = 2 it is the paper's f^T H(f) g, with the Hessian H of d:

    lambda (tau')^(p - 1) < f, sg(grad_v d'(f; v) at v = g) > = (tau')^(p - 2) < f, sg(grad_v d'(f; v) at v = g) >.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from cm import registry
from cm.diffusion.distances import degree_of, limit
from cm.diffusion.solvers import per_image
from cm.errors import UserError
from cm.lazy import torch
from cm.methods.base import Batch, Networks, require
from cm.methods.consistency import Consistency
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ContinuousConsistency(Consistency):
    """Both methods have the same settings and start from the weights of EDM, as in the paper's Figure 7.

    `stop_gradient`: whether no gradient flows through the derivative g.
    """

    init: Literal["random", "teacher"] = "teacher"
    stop_gradient: bool = True

    def check(self, where: str) -> None:
        """Raises UserError for a distance without a forward derivative."""
        if degree_of(self.distance) is None:
            components = registry.components("distance")
            known = ", ".join(name for name, found in sorted(components.items()) if degree_of(found) is not None)
            name = registry.name("distance", self.distance)
            raise UserError(
                f"{where}: distance '{name}' has no forward derivative, which the loss needs; known: {known}"
            )

    @property
    def differentiates_forward(self) -> bool:
        return True

    @property
    def differentiates_derivative(self) -> bool:
        return not self.stop_gradient

    @abc.abstractmethod
    def denoise(self, nets: Networks, batch: Batch, x_t: Tensor, t: Tensor) -> Tensor:
        """D(x_t, t), [B, C, H, W]."""

    def loss(self, nets: Networks, batch: Batch) -> Tensor:
        """Draw t and z, then `loss_at`."""
        t = self.times.continuous(batch, batch.noise)
        return self.loss_at(nets, batch, z=batch.normal(), t=t)

    def loss_at(self, nets: Networks, batch: Batch, *, z: Tensor, t: Tensor) -> Tensor:
        """The loss for given noise `z` [B, C, H, W] and times `t` [B]; returns [B]."""
        from cm.diffusion.forward import jvp

        level = per_image(t, batch.x)
        x_t = batch.x + level * z
        with torch.no_grad():
            direction = (x_t - self.denoise(nets, batch, x_t, t)) / level
        f, g = jvp(lambda x, time: nets.student(x, time, batch.labels), (x_t, t), (direction, torch.ones_like(t)))
        return self._weight(batch, t).to(batch.x.dtype) * self._compare(f, g)

    def _weight(self, batch: Batch, t: Tensor) -> Tensor:
        """The power of tau' that is left with lambda, [B]."""
        return batch.noise.speed(t) ** (require(degree_of(self.distance)) - (2 if self.stop_gradient else 1))

    def _compare(self, f: Tensor, g: Tensor) -> Tensor:
        if not self.stop_gradient:
            return limit(self.distance, f, g)
        v = g.detach().requires_grad_()
        with torch.enable_grad():
            (pull,) = torch.autograd.grad(limit(self.distance, f.detach(), v).sum(), v)
        return (f * pull).flatten(1).sum(1)


@register("method", "cd-inf")
@dataclass(frozen=True)
class ContinuousDistillation(ContinuousConsistency):
    """Continuous-time consistency distillation, CD with N to infinity."""

    evaluates_teacher: ClassVar[bool] = True

    def denoise(self, nets: Networks, batch: Batch, x_t: Tensor, t: Tensor) -> Tensor:
        return require(nets.teacher)(x_t, t, batch.labels)


@register("method", "ct-inf")
@dataclass(frozen=True)
class ContinuousTraining(ContinuousConsistency):
    """Continuous-time consistency training, CT with N to infinity: dx_t / dt is the noise z."""

    def denoise(self, nets: Networks, batch: Batch, x_t: Tensor, t: Tensor) -> Tensor:
        return batch.x
