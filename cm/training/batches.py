"""The images of each step, each with a seed of its own.

The images of step k are a function of the run's seed and k alone: a new permutation of the data set in every epoch. So
is the seed of each image of the global batch, from which its flip, its noise, its time and its dropout are drawn.
Neither a restart nor the size of the microbatches therefore changes what is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from cm.methods.base import Batch
from cm.training.plan import Plan


class Batches:
    """The batches of a training, in microbatches."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._orders: dict[int, np.ndarray] = {}

    def microbatches(self, step: int) -> Iterator[Batch]:
        """The parts of the batch of a step, in order."""
        training = self._plan.training
        indices, seeds = self._indices(step), image_seeds(self._plan.seed, step, training.batch)
        size = training.microbatch or training.batch
        for start in range(0, training.batch, size):
            part = slice(start, start + size)
            yield self._load(step, indices[part], seeds[part])

    def _load(self, step: int, indices: np.ndarray, seeds: np.ndarray) -> Batch:
        """Images and labels on the device.

        The last bit of a seed flips the image; the others seed all that it draws.
        """
        plan = self._plan
        x = torch.from_numpy(plan.images[indices]).to(plan.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        if plan.training.flip:
            x = _flip(x, seeds % 2 == 1)
        labels = None if plan.labels is None else torch.from_numpy(plan.labels[indices]).to(plan.device)
        return Batch(x, labels, plan.noise, step, plan.training.total_steps, (seeds >> 1).astype(np.int64))

    def _indices(self, step: int) -> np.ndarray:
        """Indices of the images of a step, [batch]."""
        count, size = len(self._plan.images), self._plan.training.batch
        epochs, offsets = np.divmod(np.arange(step * size, (step + 1) * size), count)
        return np.concatenate([self._order(int(epoch))[offsets[epochs == epoch]] for epoch in np.unique(epochs)])

    def _order(self, epoch: int) -> np.ndarray:
        """The permutation of the images in an epoch; the last two are remembered."""
        if epoch not in self._orders:
            order = np.random.default_rng([self._plan.seed, epoch]).permutation(len(self._plan.images))
            self._orders = {old: kept for old, kept in self._orders.items() if old >= epoch - 1} | {epoch: order}
        return self._orders[epoch]


def image_seeds(seed: int, step: int, batch: int) -> np.ndarray:
    """One seed for each image of the global batch of a step, uint64 [batch]."""
    return np.random.SeedSequence([seed, step]).generate_state(batch, np.uint64)


def _flip(x: Tensor, flipped: np.ndarray) -> Tensor:
    """`x` [B, C, H, W] with the images mirrored for which `flipped` [B] is true."""
    return torch.where(torch.from_numpy(flipped).to(x.device)[:, None, None, None], x.flip(3), x)
