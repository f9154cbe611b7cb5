"""The uncertainty of an FID: a confidence interval from one set of samples, and the FID of infinitely many samples.

The expected FID of N samples is FID_inf + b / N + O(1 / N^2) with b > 0: the fewer samples, the larger it is (Chong and
Forsyth 2020, "Effectively Unbiased FID and Inception Score and Where to Find Them"). The reference is held fixed.

Each FID costs a covariance, O(N D^2), and three decompositions, O(D^3): 10 s on one core for 50,000 samples of
D = 2048. There `interval` takes 25 s, and `fid_infinity` as long as 15 FIDs of fewer samples. With 64 features and
1,000 samples both take a second or less.
"""

from __future__ import annotations

import numpy as np

from cm.errors import UserError
from cm.evaluation.gaussian import Gaussian
from cm.evaluation.moments import BLOCK, Features

POINTS = 15  # subsets to which the line is fitted


def interval(
    samples: Features, reference: Features, *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """The ends of an interval that holds the expected FID of N samples with probability `level`.

    The ends are percentiles of FID + the mean of N resampled `influences`, over `draws` resamplings. This is the
    bootstrap of FID to first order. It has not the bias of the full bootstrap, in which samples of samples are further
    from the reference than the samples are. The variance of FID has a first-order and a second-order part; this
    estimate has the first once and the second twice, because it takes the gradient at the samples, and the full
    bootstrap has the second three times. So the interval is right far from the reference, and by up to sqrt 2 too wide
    where the samples are as good as real images. Raises UserError for fewer than two draws or samples.
    """
    if draws < 2:
        raise UserError(f"an interval needs at least 2 draws, not {draws}")
    fit = Gaussian(*Features(samples.features).moments())
    fixed = Gaussian(*reference.moments())
    value, random = fixed.distance(fit), np.random.default_rng(seed)
    parts, count = influences(samples.features, fit, fixed), len(samples.features)
    means = [parts[random.integers(count, size=count)].mean() for _ in range(draws)]
    low, high = value + np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return max(0.0, float(low)), float(high)


def influences(features: np.ndarray, fit: Gaussian, reference: Gaussian) -> np.ndarray:
    """The derivative of FID by the weight of each sample, [N], with mean 0.

    `fit`: the Gaussian fitted to `features` [N, D]. With d = x - m, it is

        2 (m - m_R).d + N / (N - 1) d^T (I - A) d,  less the mean of this over all samples.

    Since C_R = R R^T, the derivative of tr C + tr C_R - 2 tr (R^T C R)^1/2 by C is I - A, where
    A = R (R^T C R)^-1/2 R^T transports the Gaussian of the samples to that of the reference.
    """
    shift, root = 2 * (fit.mean - reference.mean), _transport_root(fit, reference)
    unbiased = len(features) / (len(features) - 1)
    found = np.empty(len(features))
    for start in range(0, len(features), BLOCK):
        rows = slice(start, start + BLOCK)
        centred = features[rows] - fit.mean
        found[rows] = centred @ shift + unbiased * (np.square(centred).sum(1) - np.square(centred @ root).sum(1))
    return found - found.mean()


def fid_infinity(samples: Features, reference: Features, *, points: int = POINTS, seed: int = 0) -> float:
    """The FID of infinitely many samples: FID_inf of the least-squares line FID_N = FID_inf + b / N.

    The line is fitted to the FIDs of `points` random subsets. Their sizes are evenly spaced from a tenth of the samples
    to all of them (Chong and Forsyth 2020 take 15 sizes from 5,000 to 50,000), but at least 2 D, from where the line
    holds, or half of the samples. Raises UserError for too few samples.
    """
    random, fixed = np.random.default_rng(seed), Gaussian(*reference.moments())
    count, width = samples.features.shape
    sizes = _subset_sizes(count, width, points)
    fids = [_fid(fixed, samples, random.permutation(sizes[-1])[:size]) for size in sizes]
    return float(np.polynomial.Polynomial.fit(1 / sizes, fids, 1)(0.0))


def summary(samples: Features, reference: Features, *, extrapolate: bool) -> dict[str, float]:
    """The ends `low` and `high` of the interval and, with `extrapolate`, the limit `at_infinity`.

    The limit is left out for fewer than 2 D samples or two samples per subset: there the covariances of the subsets are
    singular, and the line through their FIDs may end below zero.
    """
    low, high = interval(samples, reference)
    count, width = samples.features.shape
    if not extrapolate or count < 2 * max(width, POINTS):
        return {"low": low, "high": high}
    return {"low": low, "high": high, "at_infinity": fid_infinity(samples, reference)}


def _transport_root(fit: Gaussian, reference: Gaussian) -> np.ndarray:
    """B [D, rank] with A = B B^T, in directions that both Gaussians have: R V S^-1/2, where U S V^T = R_fit^T R."""
    _, scales, right = np.linalg.svd(fit.root.T @ reference.root, full_matrices=False)
    positive = scales > scales.max(initial=0.0) * len(fit.mean) * np.finfo(np.float64).eps
    return reference.root @ right[positive].T / np.sqrt(scales[positive])


def _subset_sizes(count: int, width: int, points: int) -> np.ndarray:
    """The numbers of samples to which the line is fitted, rising."""
    smallest = max(count // 10, min(2 * width, count // 2))
    if points < 2 or count - smallest < points - 1:
        raise UserError(f"{count} images are too few for {points} subsets of different sizes, from {smallest} up")
    return np.linspace(smallest, count, points).round().astype(int)


def _fid(fixed: Gaussian, samples: Features, rows: np.ndarray) -> float:
    return fixed.distance(Gaussian(*Features(samples.features[rows]).moments()))
