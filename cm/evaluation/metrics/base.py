"""What the suite must know of a metric, and the values of several metrics of the same images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cm import registry
from cm.errors import UserError
from cm.evaluation.moments import Features

Function = Callable[[Features, Features], float]
# Means and covariances, those of the spatial features, features of single images, or logits of the samples.
Need = Literal["moments", "spatial moments", "single images", "logits"]
NO_LOGITS = "the weights of the extractor have no logits"
NO_SPATIAL_FEATURES = "the extractor, or the statistics of the reference, have no spatial features"
NO_SINGLE_IMAGES = "the reference is a mean and a covariance, without features of single images"


@dataclass(frozen=True)
class Metric:
    """A metric and what the suite must know of it.

    `title`: its name in tables and figures. `general_title`: its name for features of another network than the
    Inception, where `title` belongs to the Inception. `lower_is_better`: its direction. `fewest`: the smallest number
    of images that either set must have. `needs`: what it is computed from, see `Need`. `bounds`: the lowest and the
    highest of its values.
    """

    function: Function
    title: str
    general_title: str
    lower_is_better: bool
    fewest: int
    needs: Need
    bounds: tuple[float, float]

    def __call__(self, samples: Features, reference: Features) -> float:
        return self.function(samples, reference)


def metric(
    name: str,
    *,
    title: str,
    lower_is_better: bool,
    fewest: int,
    needs: Need = "moments",
    general_title: str | None = None,
    bounds: tuple[float, float] = (0.0, math.inf),
) -> Callable[[Function], Function]:
    """A decorator that registers a function as the metric `name`, with the properties that `Metric` explains."""

    def decorate(function: Function) -> Function:
        names = title, general_title or title
        registered = Metric(function, *names, lower_is_better, fewest, needs, bounds)
        registry.register("metric", name)(registered)
        return function

    return decorate


def title(name: str, extractor: str = "inception") -> str:
    """The title of a metric, for headings and axes. `extractor`: the name of the network whose features it compares.

    Raises UserError for an unknown metric.
    """
    found: Metric = registry.get("metric", name)
    return found.title if extractor == "inception" else found.general_title


def lower_is_better(name: str) -> bool:
    """The direction of a metric; UserError for an unknown one."""
    found: Metric = registry.get("metric", name)
    return found.lower_is_better


def compute_metrics(samples: Features, reference: Features, names: Sequence[str]) -> dict[str, float | None]:
    """The values of the metrics of these names; None for those that `unavailable` lists.

    Raises UserError for a value that is not finite, because features or statistics are too large.
    """
    missing = unavailable(names, samples, reference)
    return {name: None if name in missing else _compute(name, samples, reference) for name in names}


def _compute(name: str, samples: Features, reference: Features) -> float:
    value: float = registry.get("metric", name)(samples, reference)
    if not math.isfinite(value):
        raise UserError(f"the {name} of these images is {value}: their features or the statistics are too large")
    return value


def unavailable(names: Sequence[str], samples: Features, reference: Features) -> dict[str, str]:
    """The reason why a metric cannot be computed, for each of these metrics that cannot."""
    lacking: dict[Need, str] = {}
    if samples.logits is None:
        lacking["logits"] = NO_LOGITS
    if not len(reference.features):
        lacking["single images"] = NO_SINGLE_IMAGES
    if samples.spatial is None or reference.spatial is None:
        lacking["spatial moments"] = NO_SPATIAL_FEATURES
    found: dict[str, Metric] = {name: registry.get("metric", name) for name in names}
    return {name: lacking[own.needs] for name, own in found.items() if own.needs in lacking}


def needs_spatial_features(names: Sequence[str]) -> bool:
    """Whether one of the metrics of these names compares spatial features."""
    return any(registry.get("metric", name).needs == "spatial moments" for name in names)


def select_possible(names: Sequence[str], count: int) -> list[str]:
    """The metrics of these names that `count` images are enough for, and that need no logits."""
    found: dict[str, Metric] = {name: registry.get("metric", name) for name in names}
    return [name for name in names if found[name].fewest <= count and found[name].needs != "logits"]


def check_enough_images(count: int, what: str, names: Sequence[str]) -> None:
    """UserError if `count` images are too few for one of the metrics of these names. `what`: where the images are."""
    for name in names:
        found: Metric = registry.get("metric", name)
        if count < found.fewest:
            raise UserError(f"{name} needs at least {found.fewest} images, {what} has {count}")
