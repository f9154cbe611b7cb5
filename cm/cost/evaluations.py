"""How often an iteration evaluates its networks: the objective is run once with stand-ins that count their calls."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cm.config import Run
from cm.cost import counting
from cm.diffusion.distances import l2
from cm.methods.base import Batch, Networks, Objective

SIZE = 8  # of the image in pixels; any does


@dataclasses.dataclass
class Evaluations:
    """Calls in one iteration; of the student, `student` are with a gradient and `frozen` without."""

    student: int = 0
    frozen: int = 0
    target: int = 0
    teacher: int = 0
    distance: int = 0


def evaluations(run: Run) -> Evaluations:
    """The evaluations of one iteration of a run, which its N does not change: the first iteration is looked at."""
    counts = Evaluations()
    students, targets, teachers = (_StandIn(role, counts, run) for role in ("student", "target", "teacher"))
    x, labels = torch.zeros(1, run.network.image_channels, SIZE, SIZE), torch.zeros(1, dtype=torch.int64)
    batch = Batch(x, labels, run.noise, 0, run.training.total_steps, np.zeros(1, np.int64))
    _objective(run, counts).loss(Networks(students, targets, teachers), batch)
    return counts


class _StandIn:
    """Counts its calls in place of a network, and gives zeros of the shape that the network would give."""

    def __init__(self, role: str, counts: Evaluations, run: Run) -> None:
        self._role, self._counts = role, counts
        denoises = run.objective.preconditioning is not None
        self._shape = None if denoises else counting.output_shape(run)

    def __call__(self, x: Tensor, *_: Any) -> Tensor:
        frozen = self._role == "student" and not torch.is_grad_enabled()
        _count(self._counts, "frozen" if frozen else self._role)
        return x.new_zeros(len(x), *(self._shape or x.shape[1:]))


def _objective(run: Run, counts: Evaluations) -> Objective:
    """The objective of a run with a distance that counts its calls and needs no weights."""
    if not hasattr(run.objective, "distance"):
        return run.objective

    def distance(a: Tensor, b: Tensor) -> Tensor:
        _count(counts, "distance")
        return l2(a, b)

    return dataclasses.replace(run.objective, distance=distance)


def _count(counts: Evaluations, name: str) -> None:
    setattr(counts, name, getattr(counts, name) + 1)
