"""Truncated consistency models (Lee et al. 2025, arXiv 2410.14895): a second stage, for the noisier times only.

    f(x, t) = f_theta(x, t) for t >= t',   f_1(x, t) for t < t'

The first stage, f_1, is a run of easy consistency tuning, whose weights are frozen here and are the start of theta.
Times are drawn from t' on, so that the network need not denoise at small t, and the loss is that of the first stage in
its last part. A share p of the images has t = t', so that their targets, at s < t', come from f_1: without this
boundary the second stage could collapse to a constant. Over a batch the loss is

    mean over the other images + w mean over the images at the boundary.

In the official code exactly int(batch p) images are at the boundary; here each is with probability p, whatever the
images beside it are, and its loss has the weight w / p, that of the others 1 / (1 - p): the same in expectation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from cm.config.settings import above, at_least, at_most, below, component, default
from cm.diffusion.distances import Distance
from cm.diffusion.times import Times
from cm.errors import UserError
from cm.lazy import torch
from cm.methods.base import Batch, Networks, require
from cm.methods.ect import EasyConsistencyTuning
from cm.registry import register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@register("method", "tcm")
@dataclass(frozen=True)
class TruncatedConsistency(EasyConsistencyTuning):
    """The defaults are those of the official code on CIFAR-10.

    `transition`: t'. `boundary_share`: p. `boundary_weight`: w. `first_stage`: the stage of `ect` that the first step
    counts as, so that rho continues where the run of the first stage ended. The teacher is the run of the first stage.
    """

    evaluates_teacher: ClassVar[bool] = True
    teacher_title: ClassVar[str] = "stage 1, a run of ECT"

    times: Annotated[Times, component("times")] = default("times", "student-truncated")
    distance: Annotated[Distance, component("distance")] = default("distance", "pseudo-huber", c=1e-8, relative=False)
    ratio_limit: Annotated[float, above(0.0), at_most(1.0)] = 0.999
    s_min: Annotated[float, above(0.0), at_most(1e6)] = 1e-6
    transition: Annotated[float, above(0.0), at_most(1e6)] = 1.0
    boundary_share: Annotated[float, above(0.0), below(1.0)] = 0.25
    boundary_weight: Annotated[float, at_least(0.0), at_most(1e6)] = 0.1
    first_stage: Annotated[int, at_least(0), at_most(1000)] = 9

    def check(self, where: str) -> None:
        """Raises UserError for times that may lie below the transition."""
        low = getattr(self.times, "low", 0.0)
        if low < self.transition:
            raise UserError(
                f"{where}: times must not lie below the transition {self.transition:g}: choose "
                f"'student-truncated' with low {self.transition:g} or more"
            )

    @property
    def sampling_preconditioning(self) -> str:
        return "tcm"

    @property
    def teacher_preconditionings(self) -> Mapping[str, str]:
        """The first stage is evaluated as it was trained, with the preconditioning of EDM."""
        return {"ect": "edm"}

    def check_teacher(self, name: str, preconditioning: str | None) -> None:
        """Raises UserError for a model that is not one of easy consistency tuning."""
        if preconditioning not in self.teacher_preconditionings:
            raise UserError(f"{name} is not a model of easy consistency tuning (ect) and cannot be stage 1 of tcm")

    def ratio_at(self, step: int) -> float:
        """rho at a step of the second stage."""
        return super().ratio_at(step + self.first_stage * self.stage_steps)

    def target(self, nets: Networks, batch: Batch, x_s: Tensor, s: Tensor) -> Tensor:
        own, first = super().target(nets, batch, x_s, s), require(nets.teacher)(x_s, s, batch.labels)
        return torch.where((s >= self.transition).reshape(-1, 1, 1, 1), own, first)

    def loss(self, nets: Networks, batch: Batch) -> Tensor:
        boundary = batch.uniform() < self.boundary_share
        t = self.times.continuous(batch, batch.noise)
        return self.boundary_loss(nets, batch, z=batch.normal(), t=t, boundary=boundary)

    def boundary_loss(self, nets: Networks, batch: Batch, *, z: Tensor, t: Tensor, boundary: Tensor) -> Tensor:
        """The loss for given noise `z` [B, C, H, W] and times `t` [B], where `boundary` [B] puts images at t'; [B]."""
        t = t.masked_fill(boundary, self.transition)
        losses = self.pair_loss(nets, batch, z=z, t=t, s=self.earlier(t, batch.step))
        share = self.boundary_share
        return losses * torch.where(boundary, self.boundary_weight / share, 1 / (1 - share)).to(losses.dtype)
