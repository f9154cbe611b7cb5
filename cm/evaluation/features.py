"""Images to features, and the summary of the features of reference images.

Samples and reference images are compared only through `extract`, `summarize` and `extract_kept`. A summary of N images
is the mean and covariance of all their features, which FID needs, and the features of a fixed random choice of them,
which KID, precision and recall need. It also has the metrics of one random half of the images against the other, the
real-data baseline of the reference.

Summaries are kept in the cache, by a key that says what they were computed from, so that each is computed only once. A
computation that was interrupted continues from its last saved state.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cm.diffusion.sampling import Network, autocast, map_on_devices
from cm.errors import UserError
from cm.evaluation import metrics, reference
from cm.evaluation.imagesets import Images
from cm.evaluation.moments import Features, RunningMoments, pool_moments
from cm.utils import fetch, files, npy
from cm.utils.parallel import map_in_order
from cm.utils.progress_bar import ProgressBar

if TYPE_CHECKING:
    from torch import Tensor

    from cm.evaluation.extractors import Extractor

FORMAT = 2  # of the files in the cache: another number makes another key, so that older files are not read
FEWEST = 4  # images of a reference, so that each half has a covariance
SAVE_INTERVAL = 60.0  # seconds between two saved states of a summary
HALVES = ("first", "second")


@dataclass(frozen=True)
class Compute:
    """How features are computed, which changes them by rounding only: images per batch, threads, and devices.

    `workers`: threads that decode and resize images. `devices`: torch's names; several take the batches in turns.
    """

    batch: int = 64
    workers: int = 1
    devices: tuple[str, ...] = ("cpu",)


def extract(extractor: Extractor, images: Images, compute: Compute) -> Features:
    """The features [N, D] of images and, if the extractor has them, their logits [N, K], in the order of the images."""
    parts = list(_batches(extractor, images, compute))
    found, *logits = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Features(found, logits[0] if logits else None)


def extract_to_file(path: Path, extractor: Extractor, images: Images, compute: Compute) -> Features:
    """The features [N, D] of images, in a .npy file that is mapped instead of read; memory holds one batch of them."""
    with files.create_array(path, (len(images), extractor.width), np.float32) as features:
        done = 0
        for found, *_ in _batches(extractor, images, compute):
            features[done : done + len(found)] = found
            done += len(found)
    return Features(np.load(path, mmap_mode="r"))


def summarize(
    extractor: Extractor,
    images: Images,
    *,
    about: Mapping[str, Any],
    keep: int,
    names: Sequence[str],
    compute: Compute,
) -> tuple[Features, dict[str, Any]]:
    """The summary of images, from the cache if it is there, and its description.

    `about`: says which extractor and which images these are; the description adds `split_halves` to its `reference`,
    with the metrics `names` of one half of the images against the other. `keep`: the number of images whose own
    features are kept. Memory does not grow with the number of images. Raises UserError for fewer than four images.
    """
    path = _cache_path({**about, "keep": keep, "names": list(names)})
    if path.is_file():
        return read(path)
    if len(images) < FEWEST:
        raise UserError(f"a reference needs at least {FEWEST} images, not {len(images)}")
    state = path.with_suffix(".state.npz")
    halves = summarize_halves(extractor, images, keep=keep, compute=compute, state=state)
    baseline = _compare_halves(halves, len(images), names)
    write(path, _join_halves(halves, len(images)), {**about, "reference": {**about["reference"], **baseline}})
    state.unlink(missing_ok=True)
    return read(path)


def extract_kept(
    extractor: Extractor, images: Images, *, about: Mapping[str, Any], keep: int, compute: Compute
) -> Features:
    """The features [keep, D] that a summary keeps, without a look at the other images; from the cache if possible."""
    path = _cache_path({**about, "keep": keep, "kept only": True})
    if not path.is_file():
        places = np.concatenate(_kept_places(len(images), keep))
        files.write_arrays(path, features=extract(extractor, images.subset(places), compute).features)
    return Features(npy.read_arrays(path)["features"])


def summarize_halves(
    extractor: Extractor, images: Images, *, keep: int, compute: Compute, state: Path | None = None
) -> tuple[Features, Features]:
    """The mean and covariance of two random halves of the images, and the features of `keep` images of both together.

    `state`: a file to which the state is saved every minute, and from which a computation continues.
    """
    half, kept = _assign(len(images), keep)
    running = _RunningHalves(npy.read_arrays(state) if state and state.is_file() else {})
    saved = time.monotonic()
    for found, *_ in _batches(extractor, images, compute, running.done):
        places = slice(running.done, running.done + len(found))
        running.add(found, half[places], kept[places])
        if state and time.monotonic() - saved > SAVE_INTERVAL:
            files.write_arrays(state, **running.state())
            saved = time.monotonic()
    return running.result(0), running.result(1)


def write(path: Path, features: Features, about: Mapping[str, Any]) -> None:
    """Write a summary as .npz, with its description, which must be representable in JSON."""
    mean, covariance = features.moments()
    description = np.array(json.dumps(about))
    files.write_arrays(path, features=features.features, mean=mean, covariance=covariance, about=description)


def read(path: Path) -> tuple[Features, dict[str, Any]]:
    """A summary that `write` wrote, or published statistics, and its description; UserError for another file."""
    found = reference.read(path)
    features = np.empty((0, len(found.mean)), np.float32) if found.features is None else found.features
    return Features(features, fitted=(found.mean, found.covariance)), found.about


def _cache_path(identity: Mapping[str, Any]) -> Path:
    """Where the cache has what was computed from these inputs, or would have it."""
    key = files.sha256(json.dumps({**identity, "format": FORMAT}, sort_keys=True).encode())[:32]
    return fetch.cache_folder() / "features" / f"{key}.npz"


# ---- two halves -----------------------------------------------------------------------------------------------------


@dataclass
class _Half:
    """The moments of the images of one half so far, and the features that are kept of it."""

    moments: RunningMoments
    kept: list[np.ndarray] = field(default_factory=list)


class _RunningHalves:
    """The two halves of images that arrive in order. `done`: how many images have arrived."""

    def __init__(self, state: Mapping[str, np.ndarray]) -> None:
        self.done = int(state.get("done", 0))
        self._halves = [_restore_half(state, name) for name in HALVES]

    def add(self, features: np.ndarray, half: np.ndarray, kept: np.ndarray) -> None:
        """Add features [n, D], with the half (0 or 1) that each image belongs to, and whether it is kept."""
        for which, own in enumerate(self._halves):
            own.moments.add(features[half == which])
            own.kept.append(features[(half == which) & kept])
        self.done += len(features)

    def state(self) -> dict[str, np.ndarray]:
        """The arrays from which another instance continues."""
        arrays = {"done": np.array(self.done)}
        for name, half in zip(HALVES, self._halves, strict=True):
            arrays[f"{name}_kept"] = np.concatenate(half.kept)
            arrays |= {f"{name}_{key}": value for key, value in half.moments.state().items()}
        return arrays

    def result(self, which: int) -> Features:
        """The moments and the kept features of the half `which`, 0 or 1."""
        half = self._halves[which]
        return Features(np.concatenate(half.kept), fitted=half.moments.result())


def _restore_half(state: Mapping[str, np.ndarray], name: str) -> _Half:
    own = {key.removeprefix(f"{name}_"): value for key, value in state.items() if key.startswith(f"{name}_")}
    return _Half(RunningMoments(own), [own["kept"]]) if own else _Half(RunningMoments())


def _compare_halves(halves: tuple[Features, Features], total: int, names: Sequence[str]) -> dict[str, Any]:
    """The entry `split_halves`: the metrics that do not need logits, as far as a half has enough images for them."""
    count = total // 2
    values = metrics.compute_metrics(*halves, metrics.select_possible(names, count))
    return {"split_halves": {"images": count, "metrics": values}}


def _join_halves(halves: Sequence[Features], total: int) -> Features:
    counts = (total // 2, total - total // 2)
    parts = [(count, *half.moments()) for count, half in zip(counts, halves, strict=True)]
    return Features(np.concatenate([half.features for half in halves]), fitted=pool_moments(parts))


def _random_order(total: int) -> np.ndarray:
    """The places of all images in a random order, which is always the same: the first half of it is the first half."""
    return np.random.RandomState(0).permutation(total)


def _kept_places(total: int, keep: int) -> tuple[np.ndarray, np.ndarray]:
    """The places, rising, of the images whose features are kept, of the first and of the second half."""
    order, count = _random_order(total), min(keep, total)
    return np.sort(order[: count // 2]), np.sort(order[total - (count - count // 2) :])


def _assign(total: int, keep: int) -> tuple[np.ndarray, np.ndarray]:
    """For each image, the half (0 or 1) that it belongs to, and whether its features are kept."""
    half, kept = np.ones(total, int), np.zeros(total, bool)
    half[_random_order(total)[: total // 2]] = 0
    kept[np.concatenate(_kept_places(total, keep))] = True
    return half, kept


# ---- batches through the network ------------------------------------------------------------------------------------


def _batches(extractor: Extractor, images: Images, compute: Compute, start: int = 0) -> Iterator[list[np.ndarray]]:
    """The features, and the logits if there are any, of each batch, from the image `start` on."""
    progress = ProgressBar("features", len(images), start=start, unit="images")
    batches = images.batches(compute.batch, compute.workers, start)
    inputs = map_in_order(extractor.preprocess, batches, compute.workers)
    for outputs in _forward(extractor, inputs, compute.devices):
        yield outputs
        progress.update(len(outputs[0]))
    progress.close()


def _forward(extractor: Extractor, inputs: Iterator[Tensor], devices: Sequence[str]) -> Iterator[list[np.ndarray]]:
    """The outputs for each input, in order, without TF32, which would change the third decimal of FID.

    All threads share the switch of TF32, so it is not set in each of them.
    """
    compute = functools.partial(_outputs, extractor.precision)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield from map_on_devices(compute, extractor.network, inputs, devices)


def _outputs(precision: str, network: Network, device: torch.device, x: Tensor) -> list[np.ndarray]:
    """The outputs of the network that are not None."""
    with torch.inference_mode(), autocast(device, precision):
        return [part.float().cpu().numpy() for part in network(x.to(device)) if part is not None]
