"""What every objective offers the training loop, and the networks the loop hands it."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from cm.schedules import Karras

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
        """The loss of each image of a batch: `x` [B, C, H, W] in [-1, 1] to [B]. `generator` gives all randomness."""
