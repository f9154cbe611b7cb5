"""Score files: samples compared with reference images by a protocol, and how certain the result is.

Samples and reference images pass through the same extractor, and the metrics of the protocol compare their features. A
score file records everything that the numbers depend on: the protocol, the digests of the extractor and the reference,
how the samples were generated, the versions of the software, and what changes the numbers by rounding: the batch size
and the number of processor threads with which the features were computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cm.config import Protocol, RunName
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
    `protocol.samples` are scored. `reference`: real images, their summary (`cm featurize`), or published statistics.
    `make_extractor`: builds the extractor for images of a shape (C, H, W). Raises UserError, before anything is
    computed, for images, a reference or an extractor that do not fit each other or the protocol.
    """
    started = time.monotonic()
    description = _read_description(samples, protocol)
    images = _open_samples(samples, protocol, sampled_here=bool(description))
    target = open_target(
        reference, images.shape, protocol=protocol, make_extractor=make_extractor, compute=compute, what=str(samples)
    )
    comparison = _compare(features.extract(target.extractor, images, compute), target.features, protocol)
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
    if sampled_here and len(images) > protocol.samples:
        images = images.subset(slice(protocol.samples))
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


def _compare(samples: Features, reference: Features, protocol: Protocol) -> dict[str, Any]:
    """The metrics of the protocol, the reasons why some are unavailable, and the uncertainty of FID."""
    values = metrics.compute_metrics(samples, reference, protocol.metrics)
    single_images = len(reference.features) > 0
    missing = metrics.unavailable(protocol.metrics, logits=samples.logits is not None, single_images=single_images)
    count, uncertain = len(samples.features), {}
    if "fid" in values:
        uncertain["fid"] = uncertainty.summary(samples, reference, extrapolate=count < protocol.samples)
    return {"metrics": values, "unavailable": missing, "uncertainty": uncertain, "samples": count}


# ---- reference ------------------------------------------------------------------------------------------------------


def _summarize(path: Path, real: Images, setup: _Setup, statistics: Path | None) -> tuple[Features, About]:
    """The summary of real images, whose mean and covariance come from the file `statistics` if there is one."""
    about: About = {**setup.identity, "reference": _describe_images(path, real)}
    keep = setup.protocol.reference_images
    if statistics is None:
        names = setup.protocol.metrics
        return features.summarize(setup.extractor, real, about=about, keep=keep, names=names, compute=setup.compute)
    fitted, added = _read_moments(statistics, about)
    about = {**about, "reference": {**about["reference"], **added}}
    kept = features.extract_kept(setup.extractor, real, about=about, keep=keep, compute=setup.compute)
    return Features(kept.features, fitted=fitted), about


def _describe_images(path: Path, real: Images) -> About:
    """The split, the number of images and their digest. Prepared data are in a folder named after the split."""
    split = path.parent.name if path.suffix == ".npy" else path.name
    return {"split": split, "images": len(real), "sha256": real.sha256()}


def _read_moments(path: Path, about: Mapping[str, Any]) -> tuple[Any, About]:
    """The mean and covariance in a file of statistics, and what the summary records about the file.

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
    return (found.mean, found.covariance), added


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
    return Features(kept.features, fitted=fitted), about


def _check_comparable(ours: Mapping[str, Any], theirs: Mapping[str, Any], path: Path) -> None:
    """UserError if a file has features of another extractor or resizer; published statistics do not say which."""
    for part in ("extractor", "resizer"):
        if theirs.get(part, ours[part]) != ours[part]:
            raise UserError(f"{path} has features of {part} {_words(theirs[part])}, samples of {_words(ours[part])}")


def _words(value: Any) -> str:
    return " ".join(map(str, value.values())) if isinstance(value, Mapping) else str(value)
