"""Metrics of generated images from their features: functions of arrays, without torch.

A metric is a function `(samples: Features, reference: Features) -> float`. Lower is better for FID only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cm import registry
from cm.errors import UserError
from cm.registry import register

CLASSES = {"inception_score"}  # metrics of class probabilities
BLOCK = 1024  # rows that are summed at a time


@dataclass(frozen=True)
class Features:
    """`units` [N, D] float32, what FID, precision and recall compare; `logits` [N, K], for IS, None without them.

    `fitted`: mean [D] and covariance [D, D] of more images than `units` has, of which these are a subset.
    """

    units: np.ndarray
    logits: np.ndarray | None = None
    fitted: tuple[np.ndarray, np.ndarray] | None = None

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean [D] and unbiased covariance [D, D], float64; UserError for fewer than two images."""
        if self.fitted is not None:
            return self.fitted
        running = Moments()
        running.add(self.units)
        return running.result()


class Moments:
    """Mean and covariance of features that come in parts, the same to the last bit however they are parted."""

    def __init__(self) -> None:
        self._waiting: list[np.ndarray] = []
        self.count, self._shift, self._sum, self._products = 0, 0.0, 0.0, 0.0

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


def computed(samples: Features, reference: Features) -> dict[str, float]:
    """Every registered metric by its name, but for those of classes where the extractor gives no logits."""
    known = registry.known("metric")
    return {
        name: known[name](samples, reference) for name in known if name not in CLASSES or samples.logits is not None
    }


@register("metric", "fid")
def fid(samples: Features, reference: Features) -> float:
    """Frechet distance between Gaussian fits to the features (Heusel et al. 2017)."""
    return frechet_distance(*samples.moments(), *reference.moments())


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2), which is defined for singular covariances too."""
    values, vectors = np.linalg.eigh(cov1)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ cov2 @ root)
    cross = np.sqrt(np.clip(inner, 0, None)).sum()
    return float(np.square(mean1 - mean2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross)


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
    if len(manifold) <= k:
        raise UserError(f"precision and recall need more than {k} images, not {len(manifold)}")
    chunks = range(0, len(manifold), rows)
    radii = np.concatenate([np.partition(_squared(manifold[i : i + rows], manifold), k, 1)[:, k] for i in chunks])
    inside = [(_squared(points[i : i + rows], manifold) <= radii).any(1) for i in range(0, len(points), rows)]
    return float(np.concatenate(inside).mean())


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances [N, M] between rows, in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.clip(np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T, 0, None)
