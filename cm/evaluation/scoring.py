"""What one score is made of: images, a reference, a protocol that says how they are compared, and how sure that is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cm import build
from cm.config import Protocol
from cm.errors import UserError
from cm.evaluation import features, imagesets, metrics, pretrained, uncertainty
from cm.evaluation import reference as statistics
from cm.evaluation.extractors import Extractor
from cm.evaluation.features import Compute
from cm.evaluation.imagesets import Images
from cm.evaluation.metrics import Features
from cm.utils import files, provenance


def featurized(
    path: Path, protocol: Protocol, extractor: Path | None, compute: Compute
) -> tuple[Features, dict[str, Any]]:
    """Summary of the features of real images, and what it is of, for all scores that compare with them.

    The mean and covariance are those of the protocol's `statistics`, if it has them.
    """
    real = imagesets.opened(path)
    judge, judged_by = _judge(protocol, extractor, real)
    return _summary(real, {**judged_by, "reference": _reference(path, real)}, judge, protocol, compute)


def _summary(
    real: Images, about: dict[str, Any], judge: Extractor, protocol: Protocol, compute: Compute
) -> tuple[Features, dict[str, Any]]:
    if protocol.statistics_file is None:
        return features.summary(
            judge, real, about, keep=protocol.reference_images, names=protocol.metrics, compute=compute
        )
    given, of = _moments(protocol.statistics_file, about)
    about = {**about, "reference": {**about["reference"], **of}}
    kept = features.chosen(judge, real, about, keep=protocol.reference_images, compute=compute)
    return Features(kept.units, fitted=given), about


def scored(path: Path, reference: Path, protocol: Protocol, extractor: Path | None, compute: Compute) -> dict[str, Any]:
    """The content of a score file of images. `reference`: real images, their summary, or somebody's statistics.

    UserError before anything is computed for images, a reference or an extractor that do not go together.
    """
    began = time.monotonic()
    sampled = imagesets.opened(path)
    about = _made(path, protocol)
    metrics.check_enough(len(sampled), str(path), protocol.metrics)
    real = None if statistics.is_statistics(reference) else imagesets.opened(reference)
    if real and sampled.shape != real.shape:
        raise UserError(f"{path} holds images of {list(sampled.shape)}, {reference} of {list(real.shape)}")
    judge, judged_by = _judge(protocol, extractor, sampled)
    if real:
        about_real = {**judged_by, "reference": _reference(reference, real)}
        target, of = _summary(real, about_real, judge, protocol, compute)
    else:
        target, of = _given(reference, judge, judged_by, protocol, compute)
    found = features.extract(judge, sampled, compute)
    values = metrics.computed(found, target, protocol.metrics)
    fewer = len(sampled) < protocol.samples
    seconds = {**about.pop("seconds", {}), "scoring": round(time.monotonic() - began, 3)}
    return {
        **_names(about),
        **about,
        "metrics": values,
        "unavailable": metrics.unavailable(found.logits is not None, len(target.units) > 0, protocol.metrics),
        "uncertainty": {"fid": uncertainty.summary(found, target, extrapolate=fewer)} if "fid" in values else {},
        "samples": len(sampled),
        "protocol": protocol.settings(),
        "extractor": judged_by["extractor"],
        "reference": of.get("reference", of),
        "seconds": seconds,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
    }


def _judge(protocol: Protocol, path: Path | None, compared: Images) -> tuple[Extractor, dict[str, Any]]:
    """The extractor of a protocol for such images, and what it is. `path`: by default pretrained weights, fetched."""
    if path is None and "/" in protocol.extractor:
        raise UserError(f"protocol {protocol.name}: its extractor is a classifier of this suite: give its model file")
    path = path or pretrained.cached(protocol.extractor)
    height, width, channels = compared.shape
    judge = build.extractor(path, (channels, height, width), protocol.resizer)
    if judge.name != protocol.extractor:
        raise UserError(f"{path} holds {judge.name}, protocol {protocol.name} compares {protocol.extractor}")
    return judge, {"extractor": {"name": judge.name, "sha256": pretrained.digest(path)}, "resizer": protocol.resizer}


def _given(
    path: Path, judge: Extractor, judged_by: Mapping[str, Any], protocol: Protocol, compute: Compute
) -> tuple[Features, dict[str, Any]]:
    """A summary or others' statistics; where these have images too, as ADM's do, the features of those as well."""
    found, of = features.read(path)
    _check_same(judged_by, of, path)
    metrics.check_widths(judge.width, len(found.moments()[0]))
    if of.get("form") != "ADM":
        return found, of
    kept = features.chosen(
        judge, imagesets.opened(path), {**judged_by, **of}, keep=protocol.reference_images, compute=compute
    )
    return Features(kept.units, fitted=found.moments()), of


def _moments(path: Path, about: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Mean and covariance in a file of statistics, and what a summary says of them; UserError if they do not fit."""
    given = statistics.read(path)
    _check_same(about, given.about, path)
    of, own = given.about.get("reference", {}), about["reference"]
    if of.get("sha256", own["sha256"]) != own["sha256"]:
        raise UserError(f"{path} has statistics of other images than {own['images']} of the {own['split']} split")
    halves = {"split_halves": of["split_halves"]} if "split_halves" in of else {}
    return (given.mean, given.covariance), {
        "statistics": {"file": path.name, "sha256": files.sha256_of(path)},
        **halves,
    }


def _check_same(judged_by: Mapping[str, Any], of: Mapping[str, Any], path: Path) -> None:
    """UserError if features are of another extractor or resizer; others' files do not say of which they are."""
    for part in ("extractor", "resizer"):
        if of.get(part, judged_by[part]) != judged_by[part]:
            raise UserError(f"{path} has features of {part} {_told(of[part])}, samples of {_told(judged_by[part])}")


def _told(what: Any) -> str:
    return " ".join(map(str, what.values())) if isinstance(what, Mapping) else str(what)


def _reference(path: Path, real: Images) -> dict[str, Any]:
    return {
        "split": path.parent.name if path.suffix == ".npy" else path.name,
        "images": len(real),
        "sha256": real.sha256(),
    }


def _made(path: Path, protocol: Protocol) -> dict[str, Any]:
    """What `sample` wrote beside its images; nothing of others' images. UserError for another quantization."""
    beside = path.with_suffix(".json")
    about = files.read_json(beside) if path.suffix == ".npy" and beside.exists() else {}
    if about.get("quantization", protocol.quantization) != protocol.quantization:
        raise UserError(
            f"{path} has eight bits by '{about['quantization']}', protocol {protocol.name} by '{protocol.quantization}'"
        )
    return about


def _names(about: Mapping[str, Any]) -> dict[str, str | None]:
    run = about["run"].split("/") if "run" in about else []
    return {**dict(zip(("dataset", "method", "variant"), run, strict=False)), "sampler": None}
