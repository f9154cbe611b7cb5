"""What a score file must hold, and of which types and sizes its entries are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from cm import registry
from cm.config.checking import check_known
from cm.config.runs import RunName
from cm.config.settings import at_least, at_most, below
from cm.errors import UserError

Count = Annotated[int, at_least(1), at_most(10**12)]
Distance = Annotated[float, at_least(0.0), at_most(1e30)]
Object = dict[str, Any]
REQUIRED = ("metrics", "samples", "protocol", "extractor", "reference", "versions", "commit")
REQUIRED_OF_PROTOCOL = ("name", "samples", "reference", "extractor", "resizer", "quantization")


@dataclass(frozen=True)
class Content:
    """A score file; `cm.report.score_file.Score` explains the entries.

    Those from `run` on say which model the samples are of; other images do not have them.
    """

    metrics: Object
    samples: Count
    protocol: Object
    extractor: Object
    reference: Object
    versions: dict[str, str]
    commit: str
    unavailable: dict[str, str] = field(default_factory=dict)
    uncertainty: dict[str, Object] = field(default_factory=dict)
    seconds: Object = field(default_factory=dict)
    quantization: str | None = None
    nfe: Count | None = None
    blocks: tuple[Object, ...] = ()
    nearest: Object = field(default_factory=dict)
    run: str | None = None
    progress: Annotated[int, at_least(1), at_most(100)] | None = None
    ema_decay: Annotated[float, at_least(0.0), below(1.0)] | None = None
    sampler: str | None = None
    model_sha256: str | None = None
    hardware: str = ""
    trained_at: str | None = None


@dataclass(frozen=True)
class _Protocol:
    name: str
    samples: Count
    reference: str
    extractor: str
    resizer: str
    quantization: str | None
    statistics: str | None = None


@dataclass(frozen=True)
class _Nearest:
    places: tuple[Annotated[int, at_least(0), at_most(10**12)], ...]
    distances: tuple[Distance, ...]
    spacings: tuple[Distance, ...]


@dataclass(frozen=True)
class _Extractor:
    name: str


@dataclass(frozen=True)
class _Reference:
    images: Count | None = None
    split: str = ""
    split_halves: Object | None = None
    statistics: Object = field(default_factory=dict)


@dataclass(frozen=True)
class _SplitHalves:
    images: Count
    metrics: Object


@dataclass(frozen=True)
class _Statistics:
    file: str | None = None


def check_content(content: object, path: Path) -> Content:
    """The content of the score file `path`.

    Raises UserError, which names the file, for an entry that is missing or of another type, and for a number that is
    not finite or outside of the range of what it measures.
    """
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a score: expected a JSON object")
    _check_keys(path, content, REQUIRED, "it")
    found = check_known(Content, content, str(path))
    _check_keys(path, found.protocol, REQUIRED_OF_PROTOCOL, "its protocol")
    check_known(_Protocol, found.protocol, f"{path}, protocol")
    _check_extractor(path, found.extractor)
    if found.run is not None:
        _check_run(f"{path}", found.run)
    _check_reference(path, found.reference)
    check_metrics(path, found.metrics, found.unavailable)
    for block in found.blocks:
        _check_block(path, block, found)
    if found.nearest:
        _check_nearest(path, found.nearest)
    for metric, ends in found.uncertainty.items():
        _check_interval(path, metric, ends)
    check_seconds(path, found.seconds)
    return found


def check_seconds(path: Path, seconds: Mapping[str, Any]) -> None:
    """UserError unless the values are times: finite and not negative."""
    for name, value in seconds.items():
        _check_number(path, f"seconds of {name}", value, lowest=0.0)


def _check_keys(path: Path, content: Mapping[str, Any], required: Iterable[str], what: str) -> None:
    for key in required:
        if key not in content:
            raise UserError(f"{path} is not a score: {what} has no '{key}'")


def _check_extractor(path: Path, extractor: Object) -> None:
    name = check_known(_Extractor, extractor, f"{path}, extractor").name
    if "/" in name:
        _check_run(f"{path}, extractor", name)


def _check_run(where: str, name: str) -> None:
    try:
        RunName.parse(name)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _check_reference(path: Path, reference: Object) -> None:
    where = f"{path}, reference"
    found = check_known(_Reference, reference, where)
    check_known(_Statistics, found.statistics, f"{where}, statistics")
    if found.split_halves is not None:
        metrics = check_known(_SplitHalves, found.split_halves, f"{where}, split_halves").metrics
        check_metrics(path, metrics, metrics)


def check_metrics(path: Path, metrics: Object, unavailable: Iterable[str]) -> None:
    """UserError for a number that is not finite or outside of the bounds of its metric.

    `unavailable`: the metrics that may be None.
    """
    for name, value in metrics.items():
        if value is None and name in unavailable:
            continue
        known = registry.components("metric").get(name)
        lowest, highest = known.bounds if known else (-math.inf, math.inf)
        _check_number(path, name, value, lowest=lowest, highest=highest)


def _check_block(path: Path, block: Object, found: Content) -> None:
    if block.keys() != found.metrics.keys():
        raise UserError(f"{path}: a block has the metrics {', '.join(block)}, the score {', '.join(found.metrics)}")
    check_metrics(path, block, found.unavailable)


def _check_nearest(path: Path, nearest: Object) -> None:
    columns = check_known(_Nearest, nearest, f"{path}, nearest")
    if len({len(columns.places), len(columns.distances), len(columns.spacings)}) > 1:
        raise UserError(f"{path}, nearest: its places, distances and spacings are not of equally many samples")


def _check_interval(path: Path, metric: str, ends: Object) -> None:
    for end, value in ends.items():
        _check_number(path, f"{end} of {metric}", value)
    if ends.get("low", -math.inf) > ends.get("high", math.inf):
        raise UserError(f"{path}: low of {metric} is {ends['low']}, above high, {ends['high']}")


def _check_number(path: Path, name: str, value: Any, *, lowest: float = -math.inf, highest: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise UserError(f"{path}: {name} is {value}, not a finite number")
    if not lowest <= value <= highest:
        bound = f"at least {lowest:g}" if value < lowest else f"at most {highest:g}"
        raise UserError(f"{path}: {name} is {value}, but must be {bound}")


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
