"""A classifier of the data set's labels: feature extractor and perceptual backbone where no pretrained one fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from cm.config.settings import at_least, at_most, below
from cm.diffusion.solvers import per_image
from cm.lazy import torch
from cm.methods.base import Batch, Networks, Objective, require
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("method", "classifier")
@dataclass(frozen=True)
class Classification(Objective):
    """Cross-entropy on images with Gaussian noise of random strength.

    `jitter`: the largest standard deviation of the noise, which is uniform from 0 for each image. `label_smoothing`:
    the share of probability that the targets spread over all classes.
    """

    labelled: ClassVar[bool] = True
    has_features: ClassVar[bool] = True
    jitter: Annotated[float, at_least(0.0), at_most(1e3)] = 0.3
    label_smoothing: Annotated[float, at_least(0.0), below(1.0)] = 0.1

    @property
    def preconditioning(self) -> None:
        return None

    def loss(self, nets: Networks, batch: Batch) -> Tensor:
        level = per_image(self.jitter * batch.uniform(), batch.x)
        logits = nets.student(batch.x + level * batch.normal())
        cross_entropy = torch.nn.functional.cross_entropy
        return cross_entropy(logits, require(batch.labels), reduction="none", label_smoothing=self.label_smoothing)
