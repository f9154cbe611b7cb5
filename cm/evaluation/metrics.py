"""Metrics that compare the features of samples with those of reference images: functions of arrays, without torch.

A metric is a function `(samples: Features, reference: Features) -> float`. Its registration says everything else that
the suite must know of it, so that adding a metric is adding one function:

    @metric("fid", title="FID", lower_is_better=True, fewest=2)
    def fid(samples: Features, reference: Features) -> float: ...
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cm import registry
from cm.errors import UserError
from cm.evaluation.gaussian import frechet_distance
from cm.evaluation.moments import Features, check_same_width

Function = Callable[[Features, Features], float]
# The mean and covariance of both sets, features of single images of both sets, or logits of the samples.
Need = Literal["moments", "single images", "logits"]
CACHED = 128  # rows whose kernel values with a thousand others stay in the processor's cache
NO_LOGITS = "the weights of the extractor have no logits"
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
    missing = unavailable(names, logits=samples.logits is not None, single_images=len(reference.features) > 0)
    return {name: None if name in missing else _compute(name, samples, reference) for name in names}


def _compute(name: str, samples: Features, reference: Features) -> float:
    value: float = registry.get("metric", name)(samples, reference)
    if not math.isfinite(value):
        raise UserError(f"the {name} of these images is {value}: their features or the statistics are too large")
    return value


def unavailable(names: Sequence[str], *, logits: bool, single_images: bool) -> dict[str, str]:
    """The reason why a metric cannot be computed, for each of these metrics that cannot.

    `logits`: whether the samples have logits. `single_images`: whether the reference has features of single images.
    """
    reasons = {}
    for name in names:
        found: Metric = registry.get("metric", name)
        if found.needs == "logits" and not logits:
            reasons[name] = NO_LOGITS
        if found.needs == "single images" and not single_images:
            reasons[name] = NO_SINGLE_IMAGES
    return reasons


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


# ---- Frechet Inception distance -------------------------------------------------------------------------------------


@metric("fid", title="FID", general_title="FD", lower_is_better=True, fewest=2)
def fid(samples: Features, reference: Features) -> float:
    """The Frechet distance between Gaussians fitted to the features (Heusel et al. 2017), see `cm.evaluation.gaussian`.

    Raises UserError for fewer than two images of either set.
    """
    return frechet_distance(*samples.moments(), *reference.moments())


# ---- kernel Inception distance --------------------------------------------------------------------------------------


@metric("kid", title="KID", lower_is_better=True, fewest=2, needs="single images", bounds=(-math.inf, math.inf))
def kid(samples: Features, reference: Features, subsets: int = 100, size: int = 1000) -> float:
    """The unbiased squared MMD with the kernel k(x, y) = (x.y / D + 1)^3, mean over subsets (Binkowski et al. 2018).

    Each of `subsets` draws compares `size` samples with `size` reference images, or as many as the smaller set has.
    The draws, and so the value, are those of torch-fidelity with its default seed. Everything is float64: float32 would
    be a third faster, but keeps only five digits of a small KID. 10,000 images of D = 2048 on either side take half a
    minute on one core. Raises UserError for fewer than two images.
    """
    check_same_width(samples.features.shape[1], reference.features.shape[1])
    size = min(len(samples.features), len(reference.features), size)
    if size < 2:
        raise UserError(f"KID needs at least 2 images, not {size}")
    a, b = samples.features.astype(np.float64), reference.features.astype(np.float64)
    x, y = _draw_subsets((len(a), len(b)), subsets, size)
    within = _kernel_sum_within(a, x) + _kernel_sum_within(b, y)
    between = _kernel_sum_between(a, x, b, y)
    return float((within / (size - 1) - 2 * between / size) / (subsets * size))


def _draw_subsets(counts: tuple[int, int], subsets: int, size: int) -> np.ndarray:
    """Rows of either set [2, subsets, size], drawn in turn as torch-fidelity does."""
    random = np.random.RandomState(2020)
    drawn = np.empty((2, subsets, size), int)
    for index in range(subsets):
        for which, count in enumerate(counts):
            drawn[which, index] = random.choice(count, size, replace=False)
    return drawn


def _kernel_sum_within(points: np.ndarray, drawn: np.ndarray) -> float:
    """The sum of the kernel over all pairs of different rows of each subset."""
    own = _cube(np.square(points).sum(1), points.shape[1])
    return _kernel_sum_between(points, drawn, points, drawn) - own[drawn].sum()


def _kernel_sum_between(a: np.ndarray, drawn_a: np.ndarray, b: np.ndarray, drawn_b: np.ndarray) -> float:
    """The sum of the kernel over all pairs of each subset.

    Small sets are drawn from many times: then it is cheaper to compute each pair of images once, and to multiply it by
    the number of subsets that hold both.
    """
    if len(a) * len(b) < drawn_a.size * drawn_b.shape[1]:
        return _kernel_sum_counted(a, drawn_a, b, drawn_b)
    total = 0.0
    for i, j in zip(drawn_a, drawn_b, strict=True):
        x = a[i]
        total += _kernel(x, x if a is b else b[j]).sum()
    return total


def _kernel_sum_counted(a: np.ndarray, drawn_a: np.ndarray, b: np.ndarray, drawn_b: np.ndarray) -> float:
    in_subset_a, in_subset_b = _membership(drawn_a, len(a)), _membership(drawn_b, len(b))
    total = 0.0
    for start in range(0, len(a), CACHED):
        rows = slice(start, start + CACHED)
        total += np.vdot(in_subset_a[:, rows].T @ in_subset_b, _kernel(a[rows], b))
    return total


def _membership(drawn: np.ndarray, count: int) -> np.ndarray:
    """1 where a subset holds an image, else 0: [subsets, count]."""
    members = np.zeros((len(drawn), count))
    np.put_along_axis(members, drawn, 1.0, 1)
    return members


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """k(x, y) of all pairs of rows, [len(x), len(y)]."""
    return _cube(x @ y.T, x.shape[1])


def _cube(products: np.ndarray, width: int) -> np.ndarray:
    base = products / width
    base += 1
    return base * base * base


# ---- Inception Score ------------------------------------------------------------------------------------------------


@metric("inception_score", title="IS", lower_is_better=False, fewest=10, needs="logits")
def inception_score(samples: Features, reference: Features, splits: int = 10) -> float:
    """exp(E_x KL(p(y|x) || p(y))), mean over `splits` parts of the samples in their order (Salimans et al. 2016).

    Raises UserError for fewer samples than parts, and for samples without logits.
    """
    if samples.logits is None:
        raise UserError(f"the Inception Score is unavailable: {NO_LOGITS}")
    if len(samples.logits) < splits:
        raise UserError(f"the Inception Score needs at least {splits} images, not {len(samples.logits)}")
    parts = np.array_split(_log_softmax(samples.logits), splits)
    return float(np.mean([np.exp(_mean_divergence(log_p)) for log_p in parts]))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def _mean_divergence(log_p: np.ndarray) -> float:
    """The mean over images of KL(p(y|x) || p(y)), from log p(y|x) [N, K]."""
    p = np.exp(log_p)
    return (p * (log_p - np.log(p.mean(0)))).sum(1).mean()


# ---- precision and recall -------------------------------------------------------------------------------------------


@metric("precision", title="precision", lower_is_better=False, fewest=4, needs="single images", bounds=(0.0, 1.0))
def precision(samples: Features, reference: Features) -> float:
    """The share of the samples that lie in the manifold of the reference (Kynkaanniemi et al. 2019, k = 3)."""
    return _share_in_manifold(samples.features, reference.features)


@metric("recall", title="recall", lower_is_better=False, fewest=4, needs="single images", bounds=(0.0, 1.0))
def recall(samples: Features, reference: Features) -> float:
    """The share of the reference that lies in the manifold of the samples (Kynkaanniemi et al. 2019, k = 3)."""
    return _share_in_manifold(reference.features, samples.features)


def _share_in_manifold(points: np.ndarray, manifold: np.ndarray, k: int = 3, rows: int = 1024) -> float:
    """The share of `points` that lie in a ball around a point of `manifold` which reaches to its k-th neighbour."""
    check_same_width(points.shape[1], manifold.shape[1])
    if len(manifold) <= k:
        raise UserError(f"precision and recall need more than {k} images, not {len(manifold)}")
    points, manifold = points.astype(np.float64), manifold.astype(np.float64)
    norms = np.square(manifold).sum(1)
    neighbours = _squared_distances(manifold, manifold, norms, rows)
    radii = np.concatenate([np.partition(block, k, 1)[:, k] for block in neighbours])
    distances = _squared_distances(points, manifold, norms, rows)
    return float(np.concatenate([(block <= radii).any(1) for block in distances]).mean())


def _squared_distances(points: np.ndarray, manifold: np.ndarray, norms: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """Squared distances [rows, M] of successive blocks of points to a manifold [M, D] with squared norms [M]."""
    for start in range(0, len(points), rows):
        block = points[start : start + rows]
        distances = block @ manifold.T
        distances *= -2
        distances += norms
        distances += np.square(block).sum(1)[:, None]
        yield np.maximum(distances, 0, out=distances)
