"""Images to features: the one door through which samples and reference images go to be compared.

What is computed of reference images is kept in the cache under a name that says what it is of, so it is computed once;
a computation that was killed goes on from where it last stood.
"""

from __future__ import annotations

import copy
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cm.errors import UserError
from cm.evaluation import metrics, reference
from cm.evaluation.imagesets import Images
from cm.evaluation.metrics import Features, Moments
from cm.utils import fetch, files
from cm.utils.parallel import map_in_order
from cm.utils.progress_bar import ProgressBar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cm.evaluation.extractors import Extractor

FEWEST = 4  # images of a reference, of whose halves there are covariances
SAVED = 60.0  # seconds between the states that are kept of a summary


@dataclass(frozen=True)
class Compute:
    """Images at a time, threads that decode and resize, and the devices that share the batches."""

    batch: int = 64
    workers: int = 1
    devices: tuple[str, ...] = ("cpu",)


def extract(extractor: Extractor, images: Images, compute: Compute) -> Features:
    """Features [N, D] and logits [N, K], if there are any, of images."""
    parts = list(_batches(extractor, images, compute))
    units, *logits = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Features(units, logits[0] if logits else None)


def summary(
    extractor: Extractor, images: Images, about: Mapping[str, Any], *, keep: int, names: Sequence[str], compute: Compute
) -> tuple[Features, dict[str, Any]]:
    """Moments of the features of all images, and the features of `keep` of them; and `about` with what was added to it.

    `about` says which extractor and images these are, in `reference` among others: there it gets `halves`, the metrics
    of these `names` of one half of the images, a random choice, against the other. All is from the cache if it is
    there. Memory does not grow with the number of images.
    """
    path = _cached({**about, "keep": keep, "names": list(names)})
    if path.is_file():
        return read(path)
    if len(images) < FEWEST:
        raise UserError(f"a reference needs at least {FEWEST} images, not {len(images)}")
    halves = summarised(extractor, images, keep=keep, compute=compute, state=path.with_suffix(".state.npz"))
    counts = [len(images) // 2, len(images) - len(images) // 2]
    names = [name for name in names if name not in metrics.CLASSES and counts[0] >= metrics.FEWEST.get(name, 1)]
    values = metrics.computed(*halves, names)
    reference = {**about["reference"], "split_halves": {"images": counts[0], "metrics": values}}
    both = [(count, *half.moments()) for count, half in zip(counts, halves, strict=True)]
    features = Features(np.concatenate([half.units for half in halves]), fitted=metrics.pooled(both))
    write(path, features, {**about, "reference": reference})
    path.with_suffix(".state.npz").unlink(missing_ok=True)
    return read(path)


def chosen(extractor: Extractor, images: Images, about: Mapping[str, Any], *, keep: int, compute: Compute) -> Features:
    """The features that `summary` keeps, and nothing of the other images; from the cache if they are there."""
    path = _cached({**about, "keep": keep, "chosen": True})
    if not path.is_file():
        found = extract(extractor, images.only(np.concatenate(_kept(len(images), keep))), compute)
        files.write_arrays(path, units=found.units)
    return Features(files.read_arrays(path)["units"])


def summarised(
    extractor: Extractor, images: Images, *, keep: int, compute: Compute, state: Path | None = None
) -> tuple[Features, Features]:
    """Moments of two random halves of the images, and the features of some of either, together `keep`.

    `state`: a file to go on from, if it is there, and to write now and then.
    """
    half, kept = np.ones(len(images), int), np.zeros(len(images), bool)
    half[_order(len(images))[: len(images) // 2]], kept[np.concatenate(_kept(len(images), keep))] = 0, True
    running = _Running(files.read_arrays(state) if state and state.is_file() else {})
    saved = time.monotonic()
    for units, *_ in _batches(extractor, images, compute, running.done):
        place = slice(running.done, running.done + len(units))
        running.add(units, half[place], kept[place])
        if state and time.monotonic() - saved > SAVED:
            files.write_arrays(state, **running.arrays())
            saved = time.monotonic()
    return running.result(0), running.result(1)


def write(path: Path, features: Features, about: Mapping[str, Any]) -> None:
    """A summary as .npz, with a JSON-able description of what it is of."""
    mean, covariance = features.moments()
    files.write_arrays(path, units=features.units, mean=mean, covariance=covariance, about=np.array(json.dumps(about)))


def read(path: Path) -> tuple[Features, dict[str, Any]]:
    """A summary that `write` wrote, or others' statistics, and what they are of; UserError for another file."""
    found = reference.read(path)
    units = np.empty((0, len(found.mean)), np.float32) if found.units is None else found.units
    return Features(units, fitted=(found.mean, found.covariance)), found.about


def _cached(identity: Mapping[str, Any]) -> Path:
    """Where in the cache something of this identity is, or would be."""
    key = files.sha256(json.dumps(identity, sort_keys=True).encode())[:32]
    return fetch.cache_folder() / "features" / f"{key}.npz"


class _Running:
    """Moments and kept features of two halves of images that come one after the other."""

    def __init__(self, state: Mapping[str, np.ndarray]) -> None:
        self.done = int(state.get("done", 0))
        own = [{key[1:]: value for key, value in state.items() if key[0] == str(half)} for half in (0, 1)]
        self._kept = [[part["kept"]] if part else [] for part in own]
        self._moments = [Moments(part or None) for part in own]

    def add(self, units: np.ndarray, half: np.ndarray, kept: np.ndarray) -> None:
        for which in (0, 1):
            self._moments[which].add(units[half == which])
            self._kept[which].append(units[(half == which) & kept])
        self.done += len(units)

    def arrays(self) -> dict[str, np.ndarray]:
        """What a new one goes on from."""
        own = [{**moments.state(), "kept": np.concatenate(kept)} for moments, kept in self._halves()]
        named = {f"{half}{key}": value for half, part in enumerate(own) for key, value in part.items()}
        return {"done": np.array(self.done), **named}

    def result(self, half: int) -> Features:
        return Features(np.concatenate(self._kept[half]), fitted=self._moments[half].result())

    def _halves(self) -> Iterator[tuple[Moments, list[np.ndarray]]]:
        return zip(self._moments, self._kept, strict=True)


def _order(total: int) -> np.ndarray:
    """The places of all images in a random order, the same each time: the first half is one half of them."""
    return np.random.RandomState(0).permutation(total)


def _kept(total: int, keep: int) -> tuple[np.ndarray, np.ndarray]:
    """The places, rising, of the images whose features are kept, of one half and of the other, `keep` in all."""
    order, few = _order(total), min(keep, total)
    return np.sort(order[: few // 2]), np.sort(order[total - (few - few // 2) :])


def _batches(extractor: Extractor, images: Images, compute: Compute, start: int = 0) -> Iterator[list[np.ndarray]]:
    """The features, and the logits if there are any, of each batch, from an image on."""
    progress = ProgressBar("features", len(images), start=start, unit="images")
    resized = map_in_order(extractor.preprocess, images.batches(compute.batch, compute.workers, start), compute.workers)
    for parts in _forward(extractor.network, resized, compute.devices):
        yield parts
        progress.update(len(parts[0]))
    progress.close()


def _forward(network: nn.Module, inputs: Iterator[Tensor], devices: Sequence[str]) -> Iterator[list[np.ndarray]]:
    """The outputs for each input, in order; several devices take turns."""
    if len(devices) == 1:
        placed = network.to(devices[0])
        return (_outputs(placed, x, devices[0]) for x in inputs)
    networks = [copy.deepcopy(network).to(device) for device in devices]
    turns = zip(inputs, itertools.cycle(zip(networks, devices, strict=True)), strict=False)
    return map_in_order(lambda turn: _outputs(turn[1][0], turn[0], turn[1][1]), turns, len(devices))


def _outputs(network: nn.Module, x: Tensor, device: str) -> list[np.ndarray]:
    """TF32, which GPUs have for convolutions, would move FID in its third decimal."""
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return [part.float().cpu().numpy() for part in network(x.to(device)) if part is not None]
