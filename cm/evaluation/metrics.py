"""Metrics of generated images from their features: functions of arrays, without torch.

A metric is a function `(samples: Features, reference: Features) -> float`. Lower is better for FID and KID only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cm import registry
from cm.errors import UserError
from cm.registry import register

CLASSES = {"inception_score"}  # metrics of class probabilities
SINGLE = {"kid", "precision", "recall"}  # metrics that compare image with image
FEWEST = {"fid": 2, "kid": 2, "inception_score": 10, "precision": 4, "recall": 4}  # images of either set
BLOCK = 1024  # rows that are summed at a time
CACHED = 128  # rows whose kernel with some thousand others stays in the cache


@dataclass(frozen=True)
class Features:
    """`units` [N, D] float32, what all but IS compare; `logits` [N, K], for IS, None without them.

    `fitted`: mean [D] and covariance [D, D] of more images than `units` has, of which these are a subset.
    UserError for features that are not finite.
    """

    units: np.ndarray
    logits: np.ndarray | None = None
    fitted: tuple[np.ndarray, np.ndarray] | None = None

    def __post_init__(self) -> None:
        for array in (self.units, self.logits):
            if array is not None and not np.isfinite(array).all():
                broken = np.count_nonzero(~np.isfinite(array).all(1))
                raise UserError(f"the features of {broken} of {len(array)} images are not finite")

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean [D] and unbiased covariance [D, D], float64; UserError for fewer than two images."""
        if self.fitted is not None:
            return self.fitted
        running = Moments()
        running.add(self.units)
        return running.result()


class Moments:
    """Mean and covariance of features that come in parts, the same to the last bit however they are parted.

    `state`, of an earlier one, goes on where that was.
    """

    def __init__(self, state: Mapping[str, np.ndarray] | None = None) -> None:
        given = state or {
            "waiting": np.empty((0, 0), np.float32),
            "count": 0,
            "shift": 0.0,
            "sum": 0.0,
            "products": 0.0,
        }
        self._waiting = [given["waiting"]] if len(given["waiting"]) else []
        self.count = int(given["count"])
        self._shift, self._sum, self._products = (given[name] for name in ("shift", "sum", "products"))

    def state(self) -> dict[str, np.ndarray]:
        """All there is to know, as arrays."""
        waiting = np.concatenate(self._waiting) if self._waiting else np.empty((0, 0), np.float32)
        parts = {"count": self.count, "shift": self._shift, "sum": self._sum, "products": self._products}
        return {"waiting": waiting, **{name: np.asarray(value) for name, value in parts.items()}}

    def add(self, units: np.ndarray) -> None:
        """More features, [n, D]."""
        for start in range(0, len(units), BLOCK):
            self._waiting.append(units[start : start + BLOCK])
            if sum(map(len, self._waiting)) >= BLOCK:
                rows = np.concatenate(self._waiting)
                self._take(rows[:BLOCK])
                self._waiting = [rows[BLOCK:]]

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean [D] and unbiased covariance [D, D] of all features, float64. Nothing can be added afterwards."""
        if self._waiting:
            self._take(np.concatenate(self._waiting))
        if self.count < 2:
            raise UserError(f"a covariance needs at least 2 images, not {self.count}")
        mean = self._sum / self.count
        covariance = (self._products - self.count * np.outer(mean, mean)) / (self.count - 1)
        return self._shift + mean, covariance

    def _take(self, block: np.ndarray) -> None:
        """Sums relative to the mean of the first block, which are small."""
        if not self.count and len(block):
            self._shift = block.mean(0, dtype=np.float64)
        centred = block.astype(np.float64) - self._shift
        self.count += len(block)
        self._sum = self._sum + centred.sum(0)
        self._products = self._products + centred.T @ centred


def pooled(parts: Sequence[tuple[int, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased covariance of all images, from the number, mean and covariance of each part of them."""
    counts = np.array([count for count, _, _ in parts], np.float64)
    means = np.array([mean for _, mean, _ in parts])
    mean = counts @ means / counts.sum()
    centred = (means - mean) * np.sqrt(counts)[:, None]
    products = sum((count - 1) * covariance for count, _, covariance in parts) + centred.T @ centred
    return mean, products / (counts.sum() - 1)


def computed(samples: Features, reference: Features, names: Sequence[str]) -> dict[str, float | None]:
    """The metrics of these names; None for those that `unavailable` has."""
    missing = unavailable(samples.logits is not None, len(reference.units) > 0, names)
    return {name: None if name in missing else registry.get("metric", name)(samples, reference) for name in names}


def unavailable(logits: bool, units: bool, names: Sequence[str]) -> dict[str, str]:
    """Why metrics of these names are not to be had: without `logits` of the samples, or `units` of the reference."""
    reasons = dict.fromkeys(CLASSES, "the weights of the extractor have no logits") if not logits else {}
    if not units:
        reasons |= dict.fromkeys(SINGLE, "the reference is a mean and a covariance, without features of single images")
    return {name: reasons[name] for name in names if name in reasons}


def check_enough(images: int, what: str, names: Sequence[str]) -> None:
    """UserError if these are too few images for one of the metrics of these names."""
    for name in names:
        if images < FEWEST.get(name, 1):
            raise UserError(f"{name} needs at least {FEWEST[name]} images, {what} has {images}")


@register("metric", "fid")
def fid(samples: Features, reference: Features) -> float:
    """Frechet distance between Gaussian fits to the features (Heusel et al. 2017)."""
    return frechet_distance(*samples.moments(), *reference.moments())


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2), which is defined for singular covariances too.

    UserError for moments of different sizes or that are not finite.
    """
    return Gaussian(mean1, cov1).distance(Gaussian(mean2, cov2))


class Gaussian:
    """A mean [D], the trace of a covariance C [D, D] and its root R [D, rank], C = R R^T, computed once.

    The root leaves out directions without variance: the square roots of their rounding errors would add up.
    """

    def __init__(self, mean: np.ndarray, covariance: np.ndarray) -> None:
        if covariance.shape != (len(mean), len(mean)):
            raise UserError(f"a mean of {len(mean)} features has no covariance of shape {covariance.shape}")
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise UserError("the mean or covariance of the features is not finite")
        values, vectors = np.linalg.eigh(covariance)
        self.mean, self.trace = mean, np.trace(covariance)
        kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
        self.root = vectors[:, kept] * np.sqrt(values[kept])

    def distance(self, other: Gaussian) -> float:
        """Frechet distance; tr (C1^1/2 C2 C1^1/2)^1/2 is the sum of the singular values of R1^T R2 where C = R R^T."""
        check_widths(len(self.mean), len(other.mean))
        cross = np.linalg.svd(self.root.T @ other.root, compute_uv=False).sum()
        return float(np.square(self.mean - other.mean).sum() + self.trace + other.trace - 2 * cross)


def check_widths(first: int, second: int) -> None:
    """UserError for features of different numbers an image."""
    if first != second:
        raise UserError(f"features of {first} and of {second} numbers an image come from different extractors")


@register("metric", "kid")
def kid(samples: Features, reference: Features, subsets: int = 100, size: int = 1000) -> float:
    """Unbiased squared MMD with the kernel (x.y / D + 1)^3, mean over subsets (Binkowski et al. 2018).

    Of `subsets` draws, each compares `size` samples with `size` reference images, or with as many as the smaller set
    has. The draws, and so the value, are torch-fidelity's with its default seed. All in float64: float32 is a third
    faster, but leaves five digits of a small KID. Half a minute of a core for twice 10,000 images of D = 2048.
    """
    check_widths(samples.units.shape[1], reference.units.shape[1])
    size = min(len(samples.units), len(reference.units), size)
    if size < 2:
        raise UserError(f"KID needs at least 2 images, not {size}")
    a, b = samples.units.astype(np.float64), reference.units.astype(np.float64)
    x, y = _subsets((len(a), len(b)), subsets, size)
    within, between = _within(a, x) + _within(b, y), _between(a, x, b, y)
    return float((within / (size - 1) - 2 * between / size) / (subsets * size))


def _subsets(counts: tuple[int, int], subsets: int, size: int) -> np.ndarray:
    """Rows [2, subsets, size] of either set, drawn in turn."""
    random = np.random.RandomState(2020)
    drawn = [[random.choice(count, size, replace=False) for count in counts] for _ in range(subsets)]
    return np.array(drawn).swapaxes(0, 1)


def _within(points: np.ndarray, drawn: np.ndarray) -> float:
    """Sum of the kernel over all pairs of different rows of each subset."""
    own = _cubed(np.square(points).sum(1), points.shape[1])
    return _between(points, drawn, points, drawn) - own[drawn].sum()


def _between(a: np.ndarray, drawn_a: np.ndarray, b: np.ndarray, drawn_b: np.ndarray) -> float:
    """Sum of the kernel over all pairs of each subset; of a small set, each pair once, times how often it is drawn."""
    if len(a) * len(b) < drawn_a.size * drawn_b.shape[1]:
        often_a, often_b = _indicator(drawn_a, len(a)), _indicator(drawn_b, len(b))
        blocks = [slice(start, start + CACHED) for start in range(0, len(a), CACHED)]
        return sum(np.vdot(often_a[:, i].T @ often_b, _kernel(a[i], b)) for i in blocks)
    pairs = zip(drawn_a, drawn_b, strict=True)
    return sum(_kernel(x := a[i], x if a is b else b[j]).sum() for i, j in pairs)


def _indicator(drawn: np.ndarray, count: int) -> np.ndarray:
    """1 where a subset holds an image, else 0: [subsets, count]."""
    chosen = np.zeros((len(drawn), count))
    np.put_along_axis(chosen, drawn, 1.0, 1)
    return chosen


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x.y / D + 1)^3 of all pairs of rows."""
    return _cubed(x @ y.T, x.shape[1])


def _cubed(products: np.ndarray, width: int) -> np.ndarray:
    base = products / width
    base += 1
    return base * base * base


@register("metric", "inception_score")
def inception_score(samples: Features, reference: Features, splits: int = 10) -> float:
    """exp of the mean KL(p(y|x) || p(y)), mean over splits (Salimans et al. 2016)."""
    if len(samples.logits) < splits:
        raise UserError(f"the Inception Score needs at least {splits} images, not {len(samples.logits)}")
    chunks = np.array_split(_log_softmax(samples.logits), splits)
    return float(np.mean([np.exp(_mean_divergence(chunk)) for chunk in chunks]))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def _mean_divergence(log_p: np.ndarray) -> float:
    p = np.exp(log_p)
    return (p * (log_p - np.log(p.mean(0)))).sum(1).mean()


@register("metric", "precision")
def precision(samples: Features, reference: Features) -> float:
    """Share of the samples that lie in the reference's manifold (Kynkaanniemi et al. 2019, k = 3)."""
    return _covered(samples.units, reference.units)


@register("metric", "recall")
def recall(samples: Features, reference: Features) -> float:
    """Share of the reference that lies in the samples' manifold (Kynkaanniemi et al. 2019, k = 3)."""
    return _covered(reference.units, samples.units)


def _covered(points: np.ndarray, manifold: np.ndarray, k: int = 3, rows: int = 1024) -> float:
    """Share of `points` within the distance of its k-th neighbour of some point of `manifold`."""
    check_widths(points.shape[1], manifold.shape[1])
    if len(manifold) <= k:
        raise UserError(f"precision and recall need more than {k} images, not {len(manifold)}")
    points, manifold = points.astype(np.float64), manifold.astype(np.float64)
    norms = np.square(manifold).sum(1)
    radii = np.concatenate([np.partition(near, k, 1)[:, k] for near in _distances(manifold, manifold, norms, rows)])
    return float(np.concatenate([(near <= radii).any(1) for near in _distances(points, manifold, norms, rows)]).mean())


def _distances(points: np.ndarray, manifold: np.ndarray, norms: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """Squared distances [rows, M] of some points after others to all of a manifold [M, D] with squared `norms` [M]."""
    for start in range(0, len(points), rows):
        some = points[start : start + rows]
        near = some @ manifold.T
        near *= -2
        near += norms
        near += np.square(some).sum(1)[:, None]
        yield np.maximum(near, 0, out=near)
