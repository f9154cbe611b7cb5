"""What every method offers the trainer, and what the trainer hands it."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

from cm.errors import UserError
from cm.lazy import torch

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator, Tensor, nn

    from cm.diffusion.noise import KarrasNoise

    Denoiser = Callable[..., Tensor]

Needed = TypeVar("Needed")
DIFFUSION = ("edm", "trigflow")  # the preconditionings of diffusion models, which estimate the mean of the clean images


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks of a run, each `(x [B, C, H, W], t [B], labels [B] or None) -> [B, C, H, W]`; see `Denoiser`.

    `student` (theta) is trained; `target` (theta-minus) is a moving average of it; `teacher` (phi) is fixed. `own` is
    the module that the objective builds for itself (`Objective.build_own`), which is trained with the student.
    """

    student: Denoiser
    target: Denoiser | None = None
    teacher: Denoiser | None = None
    own: Callable[..., Tensor] | None = None


@dataclasses.dataclass(frozen=True)
class Batch:
    """Images `x` [B, C, H, W] in [-1, 1], their `labels` [B] or None, and what a loss needs to know of the training.

    `noise`: the noise grid. `step`, `total_steps`: the paper's k and K. `seeds`: int64 [B], one for each image, from
    which everything is drawn that the loss of that image needs, so that it does not depend on the images beside it.
    `augment_labels` [B, augment_dim] or None: how the images were augmented; the trainer passes them to the networks.
    """

    x: Tensor
    labels: Tensor | None
    noise: KarrasNoise
    step: int
    total_steps: int
    seeds: np.ndarray
    augment_labels: Tensor | None = None

    def normal(self) -> Tensor:
        """Unit Gaussian noise of the shape of the images, [B, C, H, W]."""
        noise = torch.empty(self.x.shape, device=self.x.device, dtype=self.x.dtype)
        return self._draw(noise, lambda image, generator: image.normal_(generator=generator))

    def normal_scalar(self) -> Tensor:
        """A unit Gaussian number for each image, [B]."""
        return self._draw(self.x.new_empty(len(self.x)), lambda number, generator: number.normal_(generator=generator))

    def uniform(self) -> Tensor:
        """A number uniform in [0, 1) for each image, [B]."""
        return self._draw(self.x.new_empty(len(self.x)), lambda number, generator: number.uniform_(generator=generator))

    def integers(self, below: int) -> Tensor:
        """A uniform integer in 0..below-1 for each image, int64 [B]."""
        numbers = torch.empty(len(self.x), dtype=torch.int64, device=self.x.device)
        return self._draw(numbers, lambda number, generator: number.random_(below, generator=generator))

    def _draw(self, out: Tensor, fill: Callable[[Tensor, Generator], Tensor]) -> Tensor:
        """Fill the part of `out` that belongs to each image from the generator of that image."""
        for own, generator in zip(out.unbind(), self._generators, strict=True):
            fill(own, generator)
        return out

    @functools.cached_property
    def _generators(self) -> list[Generator]:
        device = self.x.device
        return [torch.Generator(device).manual_seed(seed) for seed in self.seeds.tolist()]


class NonFinite(ArithmeticError):
    """A part of a loss is not finite. The message names it; the trainer adds the run and the step."""


def require(value: Needed | None) -> Needed:
    """A network or labels that an objective has said it needs, and that the trainer therefore passes."""
    if value is None:
        raise ValueError("an objective uses a network or labels that it does not say it needs")
    return value


@dataclasses.dataclass(frozen=True)
class Objective(abc.ABC):
    """A loss. Subclasses are final and add the settings of their YAML section as fields.

    `labelled`: whether the loss needs labels. `has_features`: whether the network has features that compare images.
    `evaluates_teacher`: whether the loss evaluates a teacher. `teacher_title`: what an error calls the teacher.
    """

    labelled: ClassVar[bool] = False
    has_features: ClassVar[bool] = False
    evaluates_teacher: ClassVar[bool] = False
    teacher_title: ClassVar[str] = "teacher"

    @property
    def preconditioning(self) -> str | None:
        """The preconditioning of the network in training, None for one that does not denoise."""
        return "edm"

    @property
    def sampling_preconditioning(self) -> str | None:
        """The preconditioning of the trained model, where it is another than in training."""
        return self.preconditioning

    @property
    def needs_teacher(self) -> bool:
        """Whether the run needs the weights of a teacher."""
        return self.evaluates_teacher or self.starts_from_teacher

    @property
    def teacher_preconditionings(self) -> Mapping[str, str]:
        """The preconditionings of models that can be the teacher, and for each that of its evaluations.

        By default the teacher is a denoiser with the preconditioning of EDM.
        """
        return {"edm": "edm"}

    def check_teacher(self, name: str, preconditioning: str | None) -> None:
        """Raises UserError unless a model of that name and preconditioning can be the teacher."""
        known = self.teacher_preconditionings
        if preconditioning not in DIFFUSION:
            raise UserError(f"{name} is not a diffusion model and cannot be a teacher")
        if preconditioning not in known:
            raise UserError(f"{name} has preconditioning '{preconditioning}', its student needs {' or '.join(known)}")

    @property
    def starts_from_teacher(self) -> bool:
        """Whether the student starts from the teacher's weights: by default if the loss evaluates the teacher."""
        return self.evaluates_teacher

    @property
    def needs_perceptual_network(self) -> bool:
        """Whether the distance compares the features of a network."""
        return False

    @property
    def has_target(self) -> bool:
        """Whether the objective has a target network theta-minus."""
        return False

    @property
    def target_uses_dropout(self) -> bool:
        """Whether the target network drops the same activations as the student, instead of none."""
        return False

    @property
    def differentiates_forward(self) -> bool:
        """Whether the loss differentiates the student in forward mode (`cm.diffusion.forward`)."""
        return False

    @property
    def differentiates_derivative(self) -> bool:
        """Whether gradients flow through that derivative too."""
        return False

    @property
    def allows_checkpointing(self) -> bool:
        """Whether the evaluation with gradients can compute its activations again: not for a derivative with it."""
        return not self.differentiates_forward

    def build_own(self) -> nn.Module | None:
        """A new module of the parameters that the loss itself owns, None for a loss without any.

        They are trained, saved and resumed with the student, by the same optimiser; no model file has them, and no
        average. The trainer hands the module to the loss as `Networks.own`.
        """
        return None

    def mu_at(self, step: int, total_steps: int) -> float:
        """The decay mu of theta-minus after a step, for an objective with a target network."""
        raise NotImplementedError

    def curriculum_at(self, step: int, total_steps: int) -> tuple[int | None, float | None]:
        """N and mu at a step; None in place of what the objective does not have."""
        return None, self.mu_at(step, total_steps) if self.has_target else None

    @abc.abstractmethod
    def loss(self, nets: Networks, batch: Batch) -> Tensor:
        """The loss of each image of a batch, [B]."""


class StartsByChoice(Objective):
    """An objective whose setting `init` says which weights the student starts from; subclasses declare it."""

    init: Literal["random", "teacher"]

    @property
    def starts_from_teacher(self) -> bool:
        return self.init == "teacher"
