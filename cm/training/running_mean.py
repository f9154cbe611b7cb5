"""The mean of a number on a device over several steps, for which nobody waits until the mean is asked for."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class RunningMean:
    """Adds up scalars on a device."""

    def __init__(self, device: str) -> None:
        self._sum, self._count = torch.zeros((), device=device), 0

    def add(self, value: Tensor) -> None:
        """Add a scalar, a tensor without axes, whose value is not read now."""
        self._sum += value
        self._count += 1

    def take(self) -> float | None:
        """The mean, after which the next one begins; None if it is not finite, or if there is nothing to average."""
        mean = float(self._sum) / self._count if self._count else math.nan
        self._sum.zero_()
        self._count = 0
        return mean if math.isfinite(mean) else None

    def save(self) -> dict[str, Any]:
        """What `restore` needs, as plain data: the sum, None if it is not finite, and how many values it has."""
        total = float(self._sum)
        return {"sum": total if math.isfinite(total) else None, "count": self._count}

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from what `save` returned, to the bit."""
        self._sum.fill_(math.nan if saved["sum"] is None else saved["sum"])
        self._count = saved["count"]
