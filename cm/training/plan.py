"""What a training needs: the objective, the networks, the images and the places of its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from cm.config import Training
from cm.diffusion.noise import KarrasNoise
from cm.methods.base import Objective
from cm.training.processes import ALONE, Processes


@dataclass
class Plan:
    """Everything that a training needs.

    `images`: uint8 [N, H, W, C]. `labels`: [N] or None. `keep`: the percentages of the training after which the ema
    weights are written to `out`/<percentage>.safetensors. `description`: stored with the weights. `save_seconds`: time
    between two saved states. `stop_at`: the step after which the training pauses, with its state saved. `processes`:
    those that train together.
    """

    name: str
    seed: int
    objective: Objective
    training: Training
    noise: KarrasNoise
    student: nn.Module
    images: np.ndarray
    labels: np.ndarray | None
    keep: list[int]
    out: Path
    description: dict[str, Any]
    teacher: nn.Module | None = None
    device: str = "cpu"
    save_seconds: float = 60.0
    stop_at: int | None = None
    processes: Processes = ALONE

    @property
    def partial(self) -> Path:
        """The folder that holds the state and the models of an unfinished training."""
        return self.out / "partial"

    def step_of(self, percentage: int) -> int:
        """The number of steps after which the model of that percentage is written."""
        return max(1, round(self.training.total_steps * percentage / 100))

    def due(self, step: int) -> list[int]:
        """The percentages whose models are written after `step` steps."""
        return [percentage for percentage in self.keep if self.step_of(percentage) == step]
