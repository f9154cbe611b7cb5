"""One score file: read, checked, and with the words for its numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cm.errors import UserError
from cm.report import headings


@dataclass(frozen=True)
class Score:
    """A score file, and the run and sampler that it is of.

    `metrics`: None for an unavailable one, whose reason is in `unavailable`. `uncertainty`: from a metric to `low`,
    `high` and `at_infinity`, as far as they were computed. `split_halves`: the metrics of one random half of the
    reference against the other. `blocks`: the metrics of each block of samples, whose mean is in `metrics`; empty for
    one. `nearest`: for the first samples, the `places` of the nearest real images, the `distances` to them, and their
    `spacings`, the distances to their own nearest neighbours; empty if they were not looked for. `version`: of this
    package and of those that it uses. `trained_at`: the commit that trained the model. `hardware`: on which it was
    sampled and scored; both are empty where they are not known. `varied`: from setting to value, as the artefact's
    entry varies them. In a baseline, a score of real images, the fields from `method` on are empty.
    """

    path: Path
    dataset: str
    label: str
    metrics: Mapping[str, float | None]
    unavailable: Mapping[str, str]
    uncertainty: Mapping[str, Mapping[str, float]]
    samples: int
    protocol: Mapping[str, Any]
    quantization: str | None
    extractor: Mapping[str, str]
    reference: Mapping[str, Any]
    split_halves: Mapping[str, Any] | None
    seconds: Mapping[str, float]
    commit: str
    version: str
    blocks: Sequence[Mapping[str, float | None]] = ()
    nearest: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    trained_at: str = ""
    hardware: str = ""
    method: str = ""
    variant: str = ""
    varied: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0
    progress: int = 0
    sampler: str = ""
    nfe: int = 0

    def __getitem__(self, metric: str) -> float:
        """The value of a metric; UserError, with the reason, if the file does not have it."""
        if metric not in self.metrics:
            raise UserError(f"{self.path} has no {metric}, only {', '.join(self.metrics)}")
        value = self.metrics[metric]
        if value is None:
            raise UserError(f"{self.path} has no {metric}: {self.unavailable[metric]}")
        return value

    def block_values(self, metric: str) -> list[float]:
        """The value of an available metric for each block of samples."""
        return [value for block in self.blocks if (value := block[metric]) is not None]

    def title(self, metric: str) -> str:
        """`FD`, or `FID` for Inception's features."""
        return headings.metric_title(metric, self.extractor["name"])

    def heading(self, metric: str) -> str:
        """`FD, digits, classifier features`."""
        return headings.heading(metric, self.dataset, self.extractor["name"])

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Low and high end of the bootstrap interval of a metric, None if there is no interval."""
        ends = self.uncertainty.get(metric, {})
        return (ends["low"], ends["high"]) if {"low", "high"} <= set(ends) else None

    def at_infinity(self, metric: str) -> float | None:
        """The metric extrapolated to infinitely many samples, None if it was not extrapolated."""
        return self.uncertainty.get(metric, {}).get("at_infinity")

    @property
    def has_fewer_samples(self) -> bool:
        """Whether it is of fewer samples than the protocol asks for."""
        return self.samples < self.protocol["samples"]

    @property
    def split(self) -> str:
        """The real images that the samples are compared with."""
        return self.reference.get("split", "reference")


def read_score(path: Path, dataset: str, label: str) -> Score:
    """The score in a file, without the fields that say which run it is of.

    Raises UserError for a file that is missing, is not a score, or has an entry that no score has.
    """
    from cm.report.score_schema import check_content
    from cm.utils import files

    if not path.exists():
        raise UserError(f"no score {path}: run snakemake '{path}'")
    content = check_content(files.read_json(path), path)
    reference = dict(content.reference)
    halves = reference.pop("split_halves", None)
    return Score(
        path=path,
        dataset=dataset,
        label=label,
        metrics=content.metrics,
        unavailable=content.unavailable,
        uncertainty=content.uncertainty,
        samples=content.samples,
        protocol=content.protocol,
        quantization=content.quantization or content.protocol["quantization"],
        extractor=content.extractor,
        reference=reference,
        split_halves=halves,
        seconds=content.seconds,
        commit=content.commit,
        version=", ".join(f"{name} {number}" for name, number in content.versions.items()),
        nfe=content.nfe or 0,
        blocks=content.blocks,
        nearest=content.nearest,
        trained_at=content.trained_at or "",
        hardware=content.hardware,
    )
