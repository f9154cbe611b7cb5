"""Score files: samples compared with reference images by a protocol, and how certain the result is.

Samples and reference images pass through the same extractor, and the metrics of the protocol compare their features. A
score file records everything that the numbers depend on: the protocol, the digests of the extractor and the reference,
how the samples were generated, the versions of the software, and what changes the numbers by rounding: the batch size
and the number of processor threads with which the features were computed.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cm.config import Protocol, RunName
from cm.config.layout import PREVIEW_COUNT
from cm.errors import UserError
from cm.evaluation import features, imagesets, metrics, sample_file, uncertainty
from cm.evaluation import reference as reference_files
from cm.evaluation.extractors import Extractor
from cm.evaluation.features import Compute
from cm.evaluation.imagesets import Images
from cm.evaluation.moments import Features, check_same_width
from cm.utils import files, provenance

MakeExtractor = Callable[[tuple[int, int, int]], Extractor]
About = dict[str, Any]


@dataclass(frozen=True)
class _Setup:
    """What stays the same for samples and reference images."""

    protocol: Protocol
    extractor: Extractor
    compute: Compute

    @property
    def identity(self) -> About:
        """The extractor and the resizer, which must agree for features to be comparable."""
        return {"extractor": self.extractor.identity, "resizer": self.protocol.resizer}


@dataclass(frozen=True)
class Target:
    """The reference images of a protocol, which samples are compared with: their features, and what they are."""

    protocol: Protocol
    extractor: Extractor
    features: Features
    about: About

    def describe(self) -> dict[str, Any]:
        """The entries of a score file that say what samples were compared with, and how."""
        return {
            "protocol": self.protocol.settings(),
            "extractor": self.extractor.identity,
            "reference": self.about.get("reference", self.about),
        }


def open_target(
    reference: Path,
    shape: tuple[int, int, int],
    *,
    protocol: Protocol,
    make_extractor: MakeExtractor,
    compute: Compute,
    what: str = "the model",
) -> Target:
    """The reference that samples of `shape` (H, W, C) are compared with; its features are computed if need be.

    `reference`, `make_extractor`: as of `score_images`. `what`: where the samples are, for errors. Raises UserError for
    a reference or an extractor that does not fit the samples or the protocol.
    """
    real = None if reference_files.is_statistics(reference) else imagesets.open_images(reference)
    if real is not None and shape != real.shape:
        raise UserError(f"{what} has images of {list(shape)}, {reference} of {list(real.shape)}")
    setup = _Setup(protocol, make_extractor(_channels_first(shape)), compute)
    if real is None:
        found, about = _read_reference(reference, setup)
    else:
        found, about = _summarize(reference, real, setup, protocol.statistics_file)
    return Target(protocol, setup.extractor, found, about)


def score_images(
    samples: Path, reference: Path, *, protocol: Protocol, make_extractor: MakeExtractor, compute: Compute
) -> dict[str, Any]:
    """The content of the score file of samples.

    `samples`: a set of images. If `cm sample` wrote it and it has more images than the protocol asks for, the first
    `protocol.total_samples` are scored. `reference`: real images, their summary (`cm featurize`), or published
    statistics. `make_extractor`: builds the extractor for images of a shape (C, H, W). Raises UserError, before
    anything is computed, for images, a reference or an extractor that do not fit each other or the protocol.
    """
    started = time.monotonic()
    description = _read_description(samples, protocol)
    images = _open_samples(samples, protocol, sampled_here=bool(description))
    target = open_target(
        reference, images.shape, protocol=protocol, make_extractor=make_extractor, compute=compute, what=str(samples)
    )
    comparison = _score_blocks(images, target, compute)
    seconds = {**description.pop("seconds", {}), "scoring": round(time.monotonic() - started, 3)}
    return {
        **_name_run(description),
        **description,
        **comparison,
        **target.describe(),
        "extraction": describe_extraction(compute),
        "seconds": seconds,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "hardware": provenance.hardware(),
    }


def summarize_reference(
    images: Path,
    *,
    protocol: Protocol,
    make_extractor: MakeExtractor,
    statistics: Path | None = None,
    compute: Compute,
) -> tuple[Features, About]:
    """The summary of the features of real images that all scores by a protocol share, and its description.

    `statistics`: a file whose mean and covariance are taken instead of being computed; by default the protocol's, if it
    names one. Raises UserError for statistics of other images or of another extractor.
    """
    real = imagesets.open_images(images)
    setup = _Setup(protocol, make_extractor(_channels_first(real.shape)), compute)
    return _summarize(images, real, setup, statistics or protocol.statistics_file)


def describe_extraction(compute: Compute) -> dict[str, int]:
    """What changes features by rounding: images per batch, and processor threads."""
    return {"batch": compute.batch, "threads": torch.get_num_threads()}


# ---- samples --------------------------------------------------------------------------------------------------------


def _read_description(samples: Path, protocol: Protocol) -> About:
    """What `cm sample` wrote beside its samples; nothing for other images.

    Raises UserError for samples of another quantization than the protocol prescribes.
    """
    description = sample_file.read(samples)
    prescribed, actual = protocol.quantization, description.get("quantization")
    if prescribed and actual and actual != prescribed:
        raise UserError(f"{samples} has quantization '{actual}', protocol {protocol.name} prescribes '{prescribed}'")
    return description


def _open_samples(path: Path, protocol: Protocol, *, sampled_here: bool) -> Images:
    images = imagesets.open_images(path)
    if len(images) > protocol.total_samples and (sampled_here or protocol.blocks > 1):
        images = images.subset(slice(protocol.total_samples))
    metrics.check_enough_images(len(images), str(path), protocol.metrics)
    return images


def _channels_first(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    height, width, channels = shape
    return channels, height, width


def _name_run(description: Mapping[str, Any]) -> dict[str, str | None]:
    """The parts of the name of the run that was sampled; only a sampler of None for other images."""
    if "run" not in description:
        return {"sampler": None}
    run = RunName.parse(description["run"])
    return {"dataset": run.dataset, "method": run.method, "variant": run.variant, "sampler": None}


def _score_blocks(images: Images, target: Target, compute: Compute) -> About:
    """The comparison of the images with the reference, or the mean of those of the blocks that the protocol asks for.

    The features of one block at a time are in memory, and those of each image are computed once.
    """
    protocol, count = target.protocol, min(target.protocol.blocks, len(images) // target.protocol.samples)
    if count < 2:
        return _compare(features.extract(target.extractor, images, compute), target.features, protocol)
    comparisons = []
    for start in range(0, count * protocol.samples, protocol.samples):
        block = images.subset(slice(start, start + protocol.samples))
        found = features.extract(target.extractor, block, compute)
        comparisons.append(_compare(found, target.features, protocol))
    blocks = [comparison["metrics"] for comparison in comparisons]
    return {**comparisons[0], "metrics": _mean_of_blocks(blocks), "uncertainty": {}, "blocks": blocks}


def _mean_of_blocks(blocks: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean of each metric, None for one that is unavailable."""
    return {name: _mean(name, blocks) for name in blocks[0]}


def _mean(name: str, blocks: Sequence[Mapping[str, float | None]]) -> float | None:
    values = [block[name] for block in blocks]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _compare(samples: Features, reference: Features, protocol: Protocol) -> About:
    """The metrics of the protocol, why some are unavailable, the uncertainty of FID, and the nearest real images."""
    values = metrics.compute_metrics(samples, reference, protocol.metrics)
    missing = metrics.unavailable(protocol.metrics, samples, reference)
    count, uncertain = len(samples.features), {}
    if "fid" in values:
        uncertain["fid"] = uncertainty.summary(samples, reference, extrapolate=count < protocol.samples)
    found = {"metrics": values, "unavailable": missing, "uncertainty": uncertain, "samples": count}
    return found | _find_nearest(samples, reference) if values.get("authenticity") is not None else found


def _find_nearest(samples: Features, reference: Features) -> About:
    """The entry `nearest`: the real image that is nearest to each sample of the preview, where its place is known."""
    if reference.places is None:
        return {}
    found, first = metrics.nearest(samples, reference), slice(PREVIEW_COUNT)
    columns = {
        "places": reference.places[found.places[first]],
        "distances": found.distances[first],
        "spacings": found.spacings[first],
    }
    return {"nearest": {name: column.tolist() for name, column in columns.items()}}


# ---- reference ------------------------------------------------------------------------------------------------------


def _summarize(path: Path, real: Images, setup: _Setup, statistics: Path | None) -> tuple[Features, About]:
    """The summary of real images, whose mean and covariance come from the file `statistics` if there is one."""
    about: About = {**setup.identity, "reference": _describe_images(path, real)}
    keep = setup.protocol.reference_images
    if statistics is None:
        names = setup.protocol.metrics
        return features.summarize(setup.extractor, real, about=about, keep=keep, names=names, compute=setup.compute)
    given, added = _read_statistics(statistics, about)
    about = {**about, "reference": {**about["reference"], **added}}
    kept = features.extract_kept(setup.extractor, real, about=about, keep=keep, compute=setup.compute)
    return dataclasses.replace(kept, fitted=(given.mean, given.covariance), spatial=given.spatial), about


def _describe_images(path: Path, real: Images) -> About:
    """The split, the number of images and their digest. Prepared data are in a folder named after the split."""
    split = path.parent.name if path.suffix == ".npy" else path.name
    return {"split": split, "images": len(real), "sha256": real.sha256()}


def _read_statistics(path: Path, about: Mapping[str, Any]) -> tuple[reference_files.Statistics, About]:
    """The content of a file of statistics, and what the summary records about the file.

    Raises UserError if the file says that it is of another extractor or of other images.
    """
    found = reference_files.read(path)
    _check_comparable(about, found.about, path)
    theirs, ours = found.about.get("reference", {}), about["reference"]
    if theirs.get("sha256", ours["sha256"]) != ours["sha256"]:
        raise UserError(f"{path} has statistics of other images than {ours['images']} of the {ours['split']} split")
    added: About = {"statistics": {"file": path.name, "sha256": files.sha256_of(path)}}
    if "split_halves" in theirs:
        added["split_halves"] = theirs["split_halves"]
    return found, added


def _read_reference(path: Path, setup: _Setup) -> tuple[Features, About]:
    """A summary or published statistics, and their description.

    ADM's files hold some of the real images as well. The features of these are computed, for the metrics that compare
    single images.
    """
    found, about = features.read(path)
    _check_comparable(setup.identity, about, path)
    fitted = found.moments()
    check_same_width(setup.extractor.width, len(fitted[0]))
    if about.get("form") != "ADM":
        return found, about
    images, identity = imagesets.open_images(path), {**setup.identity, **about}
    keep = setup.protocol.reference_images
    kept = features.extract_kept(setup.extractor, images, about=identity, keep=keep, compute=setup.compute)
    return Features(kept.features, fitted=fitted, spatial=found.spatial), about


def _check_comparable(ours: Mapping[str, Any], theirs: Mapping[str, Any], path: Path) -> None:
    """UserError if a file has features of another extractor or resizer; published statistics do not say which."""
    for part in ("extractor", "resizer"):
        if theirs.get(part, ours[part]) != ours[part]:
            raise UserError(f"{path} has features of {part} {_words(theirs[part])}, samples of {_words(ours[part])}")


def _words(value: Any) -> str:
    return " ".join(map(str, value.values())) if isinstance(value, Mapping) else str(value)
