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

LOG_LINES = 200  # at least so many measurements of a training that has so many steps
MOST_LOG_STEPS = 100  # between two measurements


@dataclass
class Plan:
    """Everything that a training needs.

    `images`: uint8 [N, H, W, C]. `labels`: [N] or None. `keep`: the percentages of the training after which the ema
    weights are written to `out`/<percentage>.safetensors, those of other decays than the first beside it.
    `description`: stored with the weights. `save_seconds` and `save_steps`: time and steps after which the state is
    saved again, whichever is over first. `log_steps`: steps between two lines of `metrics.jsonl`, by default a 200th of
    the training, at most 100. `trackers`: names of those that have the same numbers.
    `stop_at`: the step after which the training pauses, with its state saved.
    `continue_on_sigterm`: whether it goes on after SIGTERM, when it has saved its state, until it is killed.
    `processes`: those that train together.
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
    save_steps: int | None = None
    log_steps: int | None = None
    trackers: tuple[str, ...] = ()
    stop_at: int | None = None
    continue_on_sigterm: bool = False
    processes: Processes = ALONE

    @property
    def partial(self) -> Path:
        """The folder that holds the state and the models of an unfinished training."""
        return self.out / "partial"

    def step_of(self, percentage: int) -> int:
        """The number of steps after which the model of that percentage is written."""
        return max(1, round(self.training.total_steps * percentage / 100))

    @property
    def ema_decays(self) -> list[float | None]:
        """The decays of the averages that become models: None for the first, the default, which no name states."""
        return [None, *self.training.ema_decay[1:]]

    @property
    def last_step(self) -> int:
        """The number of steps after which the training pauses or is complete."""
        return self.stop_at or self.training.total_steps

    def is_logged(self, step: int) -> bool:
        """Whether the training measures itself after `step` steps, which does not depend on where a start began."""
        total = self.training.total_steps
        interval = self.log_steps or max(1, min(MOST_LOG_STEPS, total // LOG_LINES))
        return step % interval == 0 or step == total

    def due(self, step: int) -> list[int]:
        """The percentages whose models are written after `step` steps."""
        return [percentage for percentage in self.keep if self.step_of(percentage) == step]
