"""Metrics that compare single images by their distances in the space of features.

Let x_1, ..., x_M be the features of the reference and y_1, ..., y_N those of the samples; NND_k(x_i) is the distance
of x_i to its k-th nearest neighbour in its own set, itself not counted, and B(x_i, r) the ball of radius r around it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cm.errors import UserError
from cm.evaluation.metrics.base import metric
from cm.evaluation.moments import Features, check_same_width

ENTRIES = 2**24  # of a block of distances, which then takes 128 MiB
PRC_NEIGHBOURS, DC_NEIGHBOURS = 3, 5  # k of precision and recall, and of density and coverage


@metric("precision", title="precision", lower_is_better=False, fewest=4, needs="single images", bounds=(0.0, 1.0))
def precision(samples: Features, reference: Features) -> float:
    """The share of the samples that lie in the manifold of the reference (Kynkaanniemi et al. 2019, k = 3)."""
    return _share_in_manifold(samples.features, reference.features)


@metric("recall", title="recall", lower_is_better=False, fewest=4, needs="single images", bounds=(0.0, 1.0))
def recall(samples: Features, reference: Features) -> float:
    """The share of the reference that lies in the manifold of the samples (Kynkaanniemi et al. 2019, k = 3)."""
    return _share_in_manifold(reference.features, samples.features)


@metric("density", title="density", lower_is_better=False, fewest=6, needs="single images")
def density(samples: Features, reference: Features) -> float:
    """1 / (k N) sum_j sum_i 1[y_j in B(x_i, NND_k(x_i))] with k = 5 (Naeem et al. 2020, Eq. 3).

    Its mean is 1 for samples of the distribution of the reference. Unlike precision it counts in how many balls a
    sample lies, so that a single outlier of the reference, whose ball is large, adds little. The value is that of the
    authors' package `prdc`, whose balls are open. Raises UserError for five reference images or fewer.
    """
    compared = _compare(samples, reference)
    return float(compared.inside / (DC_NEIGHBOURS * len(samples.features)))


@metric("coverage", title="coverage", lower_is_better=False, fewest=6, needs="single images", bounds=(0.0, 1.0))
def coverage(samples: Features, reference: Features) -> float:
    """1 / M sum_i 1[some y_j is in B(x_i, NND_k(x_i))] with k = 5 (Naeem et al. 2020, Eq. 4).

    The balls are those of `density`. Coverage grows with the number of samples, so only scores of equally many samples
    and reference images compare. Raises UserError for five reference images or fewer.
    """
    return float(_compare(samples, reference).covered.mean())


@metric("authenticity", title="authenticity", lower_is_better=False, fewest=6, needs="single images", bounds=(0.0, 1.0))
def authenticity(samples: Features, reference: Features) -> float:
    """The share of the samples that are no copies of training images (Alaa et al. 2022, Section 4).

    A sample is taken for a copy if it is closer to the training image that is nearest to it than that one is to any
    other training image: the rule of Alaa et al. as dgm-eval has it (Stein et al. 2023). Of other real images also some
    are taken for copies, so a value must be compared with that of the test split. The reference are the reference
    images of the protocol; a copy of a training image that is not among them is not found.
    """
    found = nearest(samples, reference)
    return float((found.spacings < found.distances).mean())


@dataclass(frozen=True, eq=False)
class Nearest:
    """The reference image that is nearest to each sample.

    `places` [N]: its place in the reference; `distances` [N]: of the sample to it; `spacings` [N]: its own distance to
    the nearest other reference image.
    """

    places: np.ndarray
    distances: np.ndarray
    spacings: np.ndarray


def nearest(samples: Features, reference: Features) -> Nearest:
    """The nearest reference image of each sample; UserError for five reference images or fewer."""
    compared = _compare(samples, reference)
    return Nearest(compared.places, np.sqrt(compared.distances), np.sqrt(compared.spacings[compared.places]))


@dataclass(frozen=True, eq=False)
class _Comparison:
    """What density, coverage and authenticity need, from one pass over all distances; distances are squared.

    `inside`: how many pairs of a sample and a ball there are in which the sample lies in the ball. `covered` [M]:
    whether a sample lies in the ball of a reference image. `places`, `distances` [N]: the nearest reference image of a
    sample. `spacings` [M]: NND_1 of a reference image.
    """

    inside: int
    covered: np.ndarray
    places: np.ndarray
    distances: np.ndarray
    spacings: np.ndarray


@functools.lru_cache(maxsize=1)
def _compare(samples: Features, reference: Features) -> _Comparison:
    """The comparison of two sets; that of the last two is kept, since several metrics ask for it."""
    check_same_width(samples.features.shape[1], reference.features.shape[1])
    if len(reference.features) <= DC_NEIGHBOURS:
        count = len(reference.features)
        raise UserError(f"density, coverage and authenticity need more than {DC_NEIGHBOURS} images, not {count}")
    spacings, radii = _neighbour_distances(reference.features, (1, DC_NEIGHBOURS)).T
    inside, covered = 0, np.zeros(len(radii), bool)
    places, distances = [], []
    for block in _squared_distances(samples.features, reference.features):
        in_ball = block < radii
        inside += int(in_ball.sum())
        covered |= in_ball.any(0)
        places.append(block.argmin(1))
        distances.append(block.min(1))
    return _Comparison(inside, covered, np.concatenate(places), np.concatenate(distances), spacings)


def _share_in_manifold(points: np.ndarray, manifold: np.ndarray) -> float:
    """The share of `points` that lie in a ball around a point of `manifold` which reaches to its third neighbour."""
    check_same_width(points.shape[1], manifold.shape[1])
    if len(manifold) <= PRC_NEIGHBOURS:
        raise UserError(f"precision and recall need more than {PRC_NEIGHBOURS} images, not {len(manifold)}")
    (radii,) = _neighbour_distances(manifold, (PRC_NEIGHBOURS,)).T
    distances = _squared_distances(points, manifold)
    return float(np.concatenate([(block <= radii).any(1) for block in distances]).mean())


def _neighbour_distances(points: np.ndarray, orders: tuple[int, ...]) -> np.ndarray:
    """The squared distance of each point [M, D] to its neighbours of these orders, [M, len(orders)]; 0 is itself."""
    columns = list(orders)
    return np.concatenate([np.partition(block, orders, 1)[:, columns] for block in _squared_distances(points, points)])


def _squared_distances(points: np.ndarray, others: np.ndarray) -> Iterator[np.ndarray]:
    """Squared distances [rows, M], float64, of successive blocks of points [N, D] to other points [M, D].

    The memory is that of the other points in float64, and of a few blocks of `ENTRIES` numbers.
    """
    others = others.astype(np.float64)
    norms, rows = np.square(others).sum(1), max(1, ENTRIES // max(others.shape))
    for start in range(0, len(points), rows):
        block = points[start : start + rows].astype(np.float64)
        distances = block @ others.T
        distances *= -2
        distances += norms
        distances += np.square(block).sum(1)[:, None]
        yield np.maximum(distances, 0, out=distances)
