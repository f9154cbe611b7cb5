"""What every method offers the trainer, and what the trainer hands it."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from cm.lazy import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from cm.diffusion.noise import KarrasNoise

    Denoiser = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks of a run, each `(x [B, C, H, W], t [B], labels [B] or None) -> [B, C, H, W]`.

    `student` (theta) is trained; `target` (theta-minus) is a moving average of it; `teacher` (phi) is fixed.
    """

    student: Denoiser
    target: Denoiser | None = None
    teacher: Denoiser | None = None


@dataclasses.dataclass(frozen=True)
class Batch:
    """Images `x` [B, C, H, W] in [-1, 1], their `labels` [B] or None, and what a loss needs to know of the training.

    `noise`: the noise grid; `step`, `total_steps`: the paper's k and K; `generator`: the source of all randomness.
    """

    x: Tensor
    labels: Tensor | None
    noise: KarrasNoise
    step: int
    total_steps: int
    generator: Generator

    def normal(self) -> Tensor:
        """Unit Gaussian noise of the shape of the images."""
        return torch.randn(self.x.shape, generator=self.generator, device=self.x.device, dtype=self.x.dtype)

    def normal_scalar(self) -> Tensor:
        """A unit normal number for each image, [B]."""
        return torch.randn(len(self.x), generator=self.generator, device=self.x.device, dtype=self.x.dtype)

    def uniform(self) -> Tensor:
        """A uniform number in [0, 1) for each image, [B]."""
        return torch.rand(len(self.x), generator=self.generator, device=self.x.device)

    def integers(self, below: int) -> Tensor:
        """A uniform integer in 0..below-1 for each image, [B]."""
        return torch.randint(below, (len(self.x),), generator=self.generator, device=self.x.device)


@dataclasses.dataclass(frozen=True)
class Objective(abc.ABC):
    """A loss. Subclasses are final and add the settings of their YAML section as fields."""

    preconditioning: ClassVar[str | None] = "edm"
    labelled: ClassVar[bool] = False

    @property
    def needs_teacher(self) -> bool:
        """Whether the run needs the weights of a teacher."""
        return False

    @property
    def starts_from_teacher(self) -> bool:
        """Whether the student starts from the teacher's weights."""
        return self.needs_teacher

    @property
    def needs_perceptual_network(self) -> bool:
        """Whether the distance compares the features of a network."""
        return False

    @property
    def has_target(self) -> bool:
        """Whether the objective has a target network theta-minus."""
        return False

    def mu_at(self, step: int, total_steps: int) -> float:
        """The decay mu of theta-minus after a step, for an objective with a target network."""
        raise NotImplementedError

    @abc.abstractmethod
    def loss(self, nets: Networks, batch: Batch) -> Tensor:
        """The loss of each image of a batch, [B]."""
