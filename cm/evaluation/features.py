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

from cm.diffusion.precision import autocast, check_precision
from cm.diffusion.sampling import Network, map_on_devices
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
    """The features [N, D] of images, and what else the extractor has.

    That is the logits [N, K], in the order of the images, and the moments of the spatial features.
    """
    found, logits, spatial = [], [], RunningMoments()
    for outputs in _batches(extractor, images, compute):
        found.append(outputs.features)
        if outputs.logits is not None:
            logits.append(outputs.logits)
        if outputs.spatial is not None:
            spatial.add(outputs.spatial)
    return Features(np.concatenate(found), np.concatenate(logits) if logits else None, spatial=_result_of(spatial))


def extract_to_file(path: Path, extractor: Extractor, images: Images, compute: Compute) -> Features:
    """The features [N, D] of images, in a .npy file that is mapped instead of read; memory holds one batch of them."""
    with files.create_array(path, (len(images), extractor.width), np.float32) as features:
        done = 0
        for outputs in _batches(extractor, images, compute):
            found = outputs.features
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
    kept = npy.read_arrays(path)["features"]
    return Features(kept, places=np.concatenate(_kept_places(len(images), len(kept))))


def summarize_halves(
    extractor: Extractor, images: Images, *, keep: int, compute: Compute, state: Path | None = None
) -> tuple[Features, Features]:
    """The mean and covariance of two random halves of the images, and the features of `keep` images of both together.

    `state`: a file to which the state is saved every minute, and from which a computation continues.
    """
    half, kept = _assign(len(images), keep)
    running = _RunningHalves(npy.read_arrays(state) if state and state.is_file() else {})
    saved = time.monotonic()
    for outputs in _batches(extractor, images, compute, running.done):
        places = slice(running.done, running.done + len(outputs.features))
        running.add(outputs, half[places], kept[places])
        if state and time.monotonic() - saved > SAVE_INTERVAL:
            files.write_arrays(state, **running.state())
            saved = time.monotonic()
    return running.result(0), running.result(1)


def write(path: Path, features: Features, about: Mapping[str, Any]) -> None:
    """Write a summary as .npz, with its description, which must be representable in JSON."""
    mean, covariance = features.moments()
    arrays = {"features": features.features, "mean": mean, "covariance": covariance}
    if features.spatial is not None:
        arrays |= dict(zip(reference.SPATIAL["summary"], features.spatial, strict=True))
    if features.places is not None:
        arrays["places"] = features.places
    files.write_arrays(path, **arrays, about=np.array(json.dumps(about)))


def read(path: Path) -> tuple[Features, dict[str, Any]]:
    """A summary that `write` wrote, or published statistics, and its description; UserError for another file."""
    found = reference.read(path)
    features = np.empty((0, len(found.mean)), np.float32) if found.features is None else found.features
    moments = (found.mean, found.covariance)
    return Features(features, fitted=moments, spatial=found.spatial, places=found.places), found.about


def _cache_path(identity: Mapping[str, Any]) -> Path:
    """Where the cache has what was computed from these inputs, or would have it."""
    key = files.sha256(json.dumps({**identity, "format": FORMAT}, sort_keys=True).encode())[:32]
    return fetch.cache_folder() / "features" / f"{key}.npz"


# ---- two halves -----------------------------------------------------------------------------------------------------


@dataclass
class _Half:
    """The moments of the images of one half so far, those of the spatial features, and the features that are kept."""

    moments: RunningMoments = field(default_factory=RunningMoments)
    spatial: RunningMoments = field(default_factory=RunningMoments)
    kept: list[np.ndarray] = field(default_factory=list)


class _RunningHalves:
    """The two halves of images that arrive in order. `done`: how many images have arrived."""

    def __init__(self, state: Mapping[str, np.ndarray]) -> None:
        self.done = int(state.get("done", 0))
        self._halves = [_restore_half(state, name) for name in HALVES]

    def add(self, outputs: _Outputs, half: np.ndarray, kept: np.ndarray) -> None:
        """Add the outputs of n images, with the half (0 or 1) that each belongs to, and whether it is kept."""
        for which, own in enumerate(self._halves):
            own.moments.add(outputs.features[half == which])
            if outputs.spatial is not None:
                own.spatial.add(outputs.spatial[half == which])
            own.kept.append(outputs.features[(half == which) & kept])
        self.done += len(outputs.features)

    def state(self) -> dict[str, np.ndarray]:
        """The arrays from which another instance continues."""
        arrays = {"done": np.array(self.done)}
        for name, half in zip(HALVES, self._halves, strict=True):
            arrays[f"{name}_kept"] = np.concatenate(half.kept)
            arrays |= {f"{name}_{key}": value for key, value in half.moments.state().items()}
            arrays |= {f"{name}_spatial_{key}": value for key, value in half.spatial.state().items()}
        return arrays

    def result(self, which: int) -> Features:
        """The moments and the kept features of the half `which`, 0 or 1."""
        half = self._halves[which]
        return Features(np.concatenate(half.kept), fitted=half.moments.result(), spatial=_result_of(half.spatial))


def _restore_half(state: Mapping[str, np.ndarray], name: str) -> _Half:
    own = _below(state, f"{name}_")
    return _Half(RunningMoments(own), RunningMoments(_below(own, "spatial_")), [own["kept"]]) if own else _Half()


def _below(state: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names start with a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _result_of(running: RunningMoments) -> tuple[np.ndarray, np.ndarray] | None:
    """The mean and the covariance, None if nothing was added."""
    return None if running.is_empty else running.result()


def _compare_halves(halves: tuple[Features, Features], total: int, names: Sequence[str]) -> dict[str, Any]:
    """The entry `split_halves`: the metrics that do not need logits, as far as a half has enough images for them."""
    count = total // 2
    values = metrics.compute_metrics(*halves, metrics.select_possible(names, count))
    return {"split_halves": {"images": count, "metrics": values}}


def _join_halves(halves: Sequence[Features], total: int) -> Features:
    counts = (total // 2, total - total // 2)
    parts = [(count, *half.moments()) for count, half in zip(counts, halves, strict=True)]
    spatial = [(count, *half.spatial) for count, half in zip(counts, halves, strict=True) if half.spatial is not None]
    kept = np.concatenate([half.features for half in halves])
    return Features(
        features=kept,
        fitted=pool_moments(parts),
        spatial=pool_moments(spatial) if spatial else None,
        places=np.concatenate(_kept_places(total, len(kept))),
    )


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


@dataclass(frozen=True)
class _Outputs:
    """What an extractor returns for n images: features [n, D], logits [n, K] and spatial features [n, S]."""

    features: np.ndarray
    logits: np.ndarray | None = None
    spatial: np.ndarray | None = None


def _batches(extractor: Extractor, images: Images, compute: Compute, start: int = 0) -> Iterator[_Outputs]:
    """The outputs for each batch, from the image `start` on."""
    progress = ProgressBar("features", len(images), start=start, unit="images")
    batches = images.batches(compute.batch, compute.workers, start)
    inputs = map_in_order(extractor.preprocess, batches, compute.workers)
    for outputs in _forward(extractor, inputs, compute.devices):
        yield outputs
        progress.update(len(outputs.features))
    progress.close()


def _forward(extractor: Extractor, inputs: Iterator[Tensor], devices: Sequence[str]) -> Iterator[_Outputs]:
    """The outputs for each input, in order, without TF32, which would change the third decimal of FID.

    All threads share the switch of TF32, so it is not set in each of them. Raises UserError for a precision that a
    device does not have.
    """
    check_precision(devices, extractor.precision)
    compute = functools.partial(_outputs, extractor.precision)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield from map_on_devices(compute, extractor.network, inputs, devices)


def _outputs(precision: str, network: Network, device: torch.device, x: Tensor) -> _Outputs:
    """The outputs of the network, in float32."""
    with torch.inference_mode(), autocast(device, precision):
        features, *others = network(x.to(device))
        return _Outputs(_to_numpy(features), *(None if part is None else _to_numpy(part) for part in others))


def _to_numpy(part: Tensor) -> np.ndarray:
    return part.float().cpu().numpy()
