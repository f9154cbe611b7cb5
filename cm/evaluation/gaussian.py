"""The Frechet distance between Gaussians, which is the squared 2-Wasserstein distance between them.

For N(m1, C1) and N(m2, C2) it is (Dowson and Landau 1982)

    d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2).

With C = R R^T the last trace is the sum of the singular values of R1^T R2. In this form no matrix is squared, and
singular covariances, which fewer images than features have, need no special treatment.
"""

from __future__ import annotations

import numpy as np

from cm.errors import UserError
from cm.evaluation.moments import check_same_width


class Gaussian:
    """A Gaussian with its decomposition, which is computed once for all distances.

    `mean` [D]; `trace`: tr C; `root`: R [D, rank] with C = R R^T, without the directions that have no variance, because
    the square roots of their rounding errors would add up. Raises UserError for a mean [D] and a covariance [D, D] that
    do not fit each other, are not finite or cannot be decomposed.
    """

    def __init__(self, mean: np.ndarray, covariance: np.ndarray) -> None:
        if covariance.shape != (len(mean), len(mean)):
            raise UserError(f"a mean of {len(mean)} features does not fit a covariance of shape {covariance.shape}")
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise UserError("the mean or covariance of the features is not finite")
        try:
            values, vectors = np.linalg.eigh(covariance)
        except np.linalg.LinAlgError as error:
            raise UserError(f"the covariance of the features has no eigenvalues: {error}") from None
        positive = values > values[-1] * len(values) * np.finfo(np.float64).eps
        self.mean, self.trace = mean, np.trace(covariance)
        self.root = vectors[:, positive] * np.sqrt(values[positive])

    def distance(self, other: Gaussian) -> float:
        """The Frechet distance d^2; UserError for a Gaussian of another dimension."""
        check_same_width(len(self.mean), len(other.mean))
        cross = np.linalg.svd(self.root.T @ other.root, compute_uv=False).sum()
        distance = np.square(self.mean - other.mean).sum() + self.trace + other.trace - 2 * cross
        return float(np.maximum(distance, 0.0))  # rounding errors make that of equal Gaussians negative


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """The Frechet distance d^2 between two Gaussians with means [D] and covariances [D, D], which may be singular.

    Raises UserError for moments of different dimensions, or that are not finite.
    """
    return Gaussian(mean1, cov1).distance(Gaussian(mean2, cov2))
