"""The optimiser, its learning rate and the scaler of float16 gradients."""

from __future__ import annotations

import torch
from torch import nn

from cm.config import Training

OPTIMISERS = {"adam": torch.optim.Adam, "radam": torch.optim.RAdam}
# The fastest implementation of each.
IMPLEMENTATIONS = {"adam": {"fused": True}, "radam": {"foreach": True}}


def build_optimiser(training: Training, module: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a module's parameters, with the betas and epsilon of the official code."""
    optimiser = OPTIMISERS[training.optimiser]
    return optimiser(
        module.parameters(), lr=training.lr, betas=(0.9, 0.999), eps=1e-8, **IMPLEMENTATIONS[training.optimiser]
    )


def build_scaler(training: Training, device: str) -> torch.amp.GradScaler:
    """The gradient scaler, which does nothing unless the precision is float16."""
    return torch.amp.GradScaler(torch.device(device).type, enabled=training.precision == "float16")


def learning_rate(training: Training, step: int) -> float:
    """The learning rate of a step: lr min(1, step / warmup), times 1 - step / total_steps where it falls linearly."""
    rise = min(1.0, step / training.warmup) if training.warmup else 1.0
    fall = 1.0 - step / training.total_steps if training.lr_decay == "linear" else 1.0
    return training.lr * rise * fall


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Let the next step of an optimiser have this learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate
