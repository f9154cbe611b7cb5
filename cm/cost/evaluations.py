"""How often a training step evaluates its networks: its loss is computed once with stand-ins that count their calls."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cm.config import Run
from cm.cost import counting
from cm.diffusion.distances import homogeneous, l2
from cm.methods.base import Batch, Networks, Objective

SIZE = 8  # pixels of the image that the loss is computed of; the number of calls does not depend on it


@dataclasses.dataclass
class Evaluations:
    """Calls in one training step; those of the student are `student` with a gradient and `frozen` without."""

    student: int = 0
    frozen: int = 0
    target: int = 0
    teacher: int = 0
    distance: int = 0

    def add(self, name: str) -> None:
        """Count a call."""
        setattr(self, name, getattr(self, name) + 1)


def count_evaluations(run: Run) -> Evaluations:
    """The evaluations of one training step of a run. The first step is counted: N(k) does not change their number."""
    counts = Evaluations()
    student, target, teacher = (_StandIn(role, counts, run) for role in ("student", "target", "teacher"))
    x, labels = torch.zeros(1, run.network.image_channels, SIZE, SIZE), torch.zeros(1, dtype=torch.int64)
    batch = Batch(x, labels, run.noise, 0, run.training.total_steps, np.zeros(1, np.int64))
    objective = _counting_objective(run, counts)
    objective.loss(Networks(student, target, teacher, objective.build_own()), batch)
    return counts


class _StandIn:
    """Counts its calls in place of a network, and returns zeros of the shape that the network would return."""

    def __init__(self, role: str, counts: Evaluations, run: Run) -> None:
        self._role, self._counts = role, counts
        denoises = run.objective.preconditioning is not None
        self._shape = None if denoises else counting.output_shape(run)

    def __call__(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        frozen = self._role == "student" and not torch.is_grad_enabled()
        self._counts.add("frozen" if frozen else self._role)
        return x.new_zeros(len(x), *(self._shape or x.shape[1:]))


def _counting_objective(run: Run, counts: Evaluations) -> Objective:
    """The objective of a run, with a distance that counts its calls and needs no weights."""
    if not hasattr(run.objective, "distance"):
        return run.objective

    @homogeneous(2)
    def distance(a: Tensor, b: Tensor) -> Tensor:
        counts.add("distance")
        return l2(a, b)

    return dataclasses.replace(run.objective, distance=distance)
