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


@dataclass(frozen=True)
class Features:
    """`units` [N, D] float32, what FID, precision and recall compare; `logits` [N, K], for IS, None without them."""

    units: np.ndarray
    logits: np.ndarray | None


def computed(samples: Features, reference: Features) -> dict[str, float]:
    """Every registered metric by its name, but for those of classes where the extractor gives no logits."""
    known = registry.known("metric")
    return {
        name: known[name](samples, reference) for name in known if name not in CLASSES or samples.logits is not None
    }


@register("metric", "fid")
def fid(samples: Features, reference: Features) -> float:
    """Frechet distance between Gaussian fits to the features (Heusel et al. 2017)."""
    return frechet_distance(*moments(samples.units), *moments(reference.units))


def moments(units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and unbiased covariance [D, D] of features [N, D], in float64."""
    if len(units) < 2:
        raise UserError(f"a covariance needs at least 2 images, not {len(units)}")
    return units.mean(0, dtype=np.float64), np.atleast_2d(np.cov(units.astype(np.float64), rowvar=False))


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
