"""What every objective offers the training loop, and the networks the loop hands it."""

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

    `student` (theta) is trained; `target` (theta-minus) follows it; `teacher` (phi) stays as it is.
    """

    student: Denoiser
    target: Denoiser | None = None
    teacher: Denoiser | None = None


@dataclasses.dataclass(frozen=True)
class Clock:
    """Iteration `k` of `total`: the paper's k and K."""

    k: int
    total: int


@dataclasses.dataclass(frozen=True)
class Batch:
    """Images `x` [B, C, H, W] in [-1, 1], their `labels` [B] or None, and what a loss needs to know of the training.

    `noise`: the time grid; `clock`: the iteration; `generator`: the source of all randomness.
    """

    x: Tensor
    labels: Tensor | None
    noise: KarrasNoise
    clock: Clock
    generator: Generator

    def normal(self) -> Tensor:
        """Unit Gaussian noise like the images."""
        return torch.randn(self.x.shape, generator=self.generator, device=self.x.device, dtype=self.x.dtype)

    def integers(self, below: int) -> Tensor:
        """A uniform integer in 0..below-1 for each image, [B]."""
        return torch.randint(below, (len(self.x),), generator=self.generator, device=self.x.device)


@dataclasses.dataclass(frozen=True)
class Objective(abc.ABC):
    """A loss. Sub-classes are final and add the settings of their YAML section as fields."""

    preconditioning: ClassVar[str | None] = "edm"
    labelled: ClassVar[bool] = False

    def wants_teacher(self) -> bool:
        """Whether the run needs the weights of a teacher."""
        return False

    def mu_at(self, clock: Clock) -> float | None:
        """The decay mu of theta-minus after iteration k, None if the objective has no target network."""
        return None

    @abc.abstractmethod
    def loss(self, nets: Networks, batch: Batch) -> Tensor:
        """The loss of each image of a batch, [B]."""
