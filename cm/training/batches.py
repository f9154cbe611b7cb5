"""The images of each step, each with a seed of its own.

The images of step k are a function of the run's seed and k alone: a new permutation of the data set in every epoch. So
is the seed of each image of the global batch, from which its flip, its augmentation, its noise, its time and its
dropout are drawn.
Neither a restart nor the size of the microbatches therefore changes what is drawn.

A thread loads the next two microbatches while a step computes: it reads the images from the disk, flips them, and moves
them to the device, a byte for each number. On a GPU it uses a stream of its own, so that nothing of this waits for the
step. The bytes become floats on the device, and are augmented there, in the step itself: in the thread, on a CPU, this
would compete with the step for the cores.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Generator, Iterator

import numpy as np
import torch
from torch import Tensor

from cm.errors import UserError
from cm.methods.base import Batch
from cm.training import augmentation
from cm.training.plan import Plan
from cm.utils.devices import send
from cm.utils.parallel import map_in_order


class Batches:
    """The batches of a training, in microbatches. `close` ends the thread that loads them."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._device = plan, torch.device(plan.device)
        self._orders: dict[int, np.ndarray] = {}
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._loaded = self._start(0)
        self._next_step: int | None = 0  # the step whose microbatches come next; None within a step

    def microbatches(self, step: int) -> Iterator[Batch]:
        """The parts of the batch of a step, in order.

        The thread goes on with the steps that follow; another step than the next one makes it start anew. Raises what
        loading raises.
        """
        if self._next_step != step:
            self.close()
            self._loaded = self._start(step)
        self._next_step = None
        for _ in self._slices:
            yield self._receive(next(self._loaded))
        self._next_step = step + 1

    def close(self) -> None:
        """Wait for the microbatch that is being loaded, and end the thread."""
        self._loaded.close()
        self._next_step = None

    def _start(self, step: int) -> Generator[tuple[Batch, Tensor | None]]:
        """The microbatches of this step and of all that follow, each loaded while an earlier one is used."""
        parts = itertools.chain.from_iterable(map(self._parts, itertools.count(step)))
        return map_in_order(lambda part: self._load(*part), parts, workers=1)

    def _parts(self, step: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """The step, and the indices and seeds of the images of each of its microbatches."""
        indices, seeds = self._indices(step), image_seeds(self._plan.seed, step, self._plan.training.batch)
        return ((step, indices[part], seeds[part]) for part in self._slices)

    @property
    def _slices(self) -> list[slice]:
        """The images of each microbatch, of those of the global batch that this process computes."""
        training = self._plan.training
        share, size = self._plan.processes.share(training.batch), training.microbatch or training.batch
        return [slice(start, min(start + size, share.stop)) for start in range(share.start, share.stop, size)]

    def _load(self, step: int, indices: np.ndarray, seeds: np.ndarray) -> tuple[Batch, Tensor | None]:
        """Images, uint8 [B, H, W, C], and labels, which are on the device when this returns, and the grid of `warp`.

        The last bit of a seed flips the image; the others seed all that it draws.
        """
        plan = self._plan
        arrays = self._transform(copy_images(plan.images, indices), seeds)
        if plan.labels is not None:
            arrays["labels"] = plan.labels[indices]
        with torch.cuda.stream(self._stream) if self._stream else contextlib.nullcontext():
            moved = {name: send(torch.from_numpy(array), self._device) for name, array in arrays.items()}
        if self._stream:
            self._stream.synchronize()
        grid, images, labels = moved.pop("grid", None), moved.pop("images"), moved.pop("labels", None)
        own = (seeds >> 1).astype(np.int64)
        return Batch(images, labels, plan.noise, step, plan.training.total_steps, own, **moved), grid

    def _transform(self, images: np.ndarray, seeds: np.ndarray) -> dict[str, np.ndarray]:
        """The `images`, flipped in place; with augmentation, also the `grid` of `warp` and the `augment_labels`."""
        training = self._plan.training
        flipped = (seeds % 2 == 1) & training.flip
        images[flipped] = images[flipped, :, ::-1]
        if not training.augment:
            return {"images": images}
        size = images.shape[1:3]
        drawn = augmentation.draw(training, seeds, flipped, size)
        images[drawn.mirrored] = images[drawn.mirrored, ::-1]
        grid = augmentation.grid_matrix(drawn.inverse, size)
        return {"images": images, "grid": grid, "augment_labels": drawn.labels}

    def _receive(self, loaded: tuple[Batch, Tensor | None]) -> Batch:
        """The batch with floats, [B, C, H, W] in [-1, 1], augmented.

        On a GPU, its memory is not used again before the current stream has done what uses it.
        """
        batch, grid = loaded
        if self._stream:
            for tensor in (batch.x, batch.labels, batch.augment_labels, grid):
                if tensor is not None:
                    tensor.record_stream(torch.cuda.current_stream(self._device))
        x = batch.x.permute(0, 3, 1, 2).float() / 127.5 - 1
        return dataclasses.replace(batch, x=x if grid is None else augmentation.warp(x, grid))

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


def copy_images(images: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return a copy of the images [N, H, W, C] at the indices [B].

    Of a file that is mapped into memory, the images are read as from any file, since a file that is truncated while it
    is mapped would end the process without a word. The needed parts are announced to the operating system, which then
    reads all of them at the same time, instead of one after another, each together with its surroundings. Raises
    UserError for a file that ends within an image.
    """
    if not isinstance(images, np.memmap) or not images.filename:
        return images[indices]
    copied = np.empty((len(indices), *images.shape[1:]), images.dtype)
    size, offsets = images[0].nbytes, (images.offset + indices.astype(np.int64) * images[0].nbytes).tolist()
    with open(images.filename, "rb") as file:
        for offset in offsets:
            os.posix_fadvise(file.fileno(), offset, size, os.POSIX_FADV_WILLNEED)
        for image, offset in zip(copied, offsets, strict=True):
            if os.preadv(file.fileno(), [image], offset) != size:
                raise UserError(f"{images.filename} was truncated while it was read: prepare the data set again")
    return copied
