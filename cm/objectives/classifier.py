"""A classifier of the data set's labels: feature extractor and perceptual backbone where no pretrained one fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cm.lazy import torch
from cm.objectives.base import Clock, Networks, Objective
from cm.registry import register, setting

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from cm.schedules import Karras


@register("method", "classifier")
@dataclass(frozen=True)
class Classification(Objective):
    """Cross-entropy on images with Gaussian noise of standard deviation up to `jitter`, uniform for each image."""

    preconditioning: ClassVar[None] = None
    labelled: ClassVar[bool] = True
    jitter: float = setting(0.3, low=0.0)
    label_smoothing: float = setting(0.1, low=0.0, below=1.0)

    def loss(
        self,
        nets: Networks,
        x: Tensor,
        labels: Tensor | None,
        *,
        noise: Karras,
        clock: Clock,
        generator: Generator,
    ) -> Tensor:
        level = self.jitter * torch.rand((len(x), 1, 1, 1), generator=generator, device=x.device)
        z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        logits = nets.student(x + level * z)
        cross_entropy = torch.nn.functional.cross_entropy
        return cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)
