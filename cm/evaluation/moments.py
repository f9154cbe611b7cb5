"""The features of a set of images, and their mean and covariance, computed in one pass over any number of images.

For features x_1, ..., x_N the mean and the unbiased covariance are

    m = 1/N sum_i x_i,    C = 1/(N - 1) sum_i (x_i - m)(x_i - m)^T

in float64. `RunningMoments` sums x_i - c and (x_i - c)(x_i - c)^T, where c is the mean of the first block of images, so
that the sums stay small and lose no digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cm.errors import UserError

BLOCK = 1024  # rows that are summed at a time


@dataclass(frozen=True, eq=False)
class Features:
    """What an extractor returns for a set of images.

    `features` [N, D], float32: what all metrics but the Inception Score compare. `logits` [N, K]: what the Inception
    Score is computed from; None if the extractor has none. `fitted`: the mean [D] and the covariance [D, D] of a larger
    set, of which the N images are a part. `spatial`: the mean [S] and the covariance [S, S] of the spatial features of
    the same images as the moments, None if the extractor has none or they are not wanted. `places` [N]: the places of
    the N images in the larger set, None if they are unknown. Raises UserError for features or logits that are not
    finite.
    """

    features: np.ndarray
    logits: np.ndarray | None = None
    fitted: tuple[np.ndarray, np.ndarray] | None = None
    spatial: tuple[np.ndarray, np.ndarray] | None = None
    places: np.ndarray | None = None

    def __post_init__(self) -> None:
        for array in (self.features, self.logits):
            if array is not None and not np.isfinite(array).all():
                broken = np.count_nonzero(~np.isfinite(array).all(1))
                raise UserError(f"the features of {broken} of {len(array)} images are not finite")

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean [D] and the unbiased covariance [D, D], float64; UserError for fewer than two images."""
        if self.fitted is not None:
            return self.fitted
        running = RunningMoments()
        running.add(self.features)
        return running.result()


class RunningMoments:
    """The mean and covariance of features that arrive in parts; how they are divided changes no bit of the result.

    `state`: what `state()` of an earlier instance returned, which this one continues.
    """

    def __init__(self, state: Mapping[str, np.ndarray] | None = None) -> None:
        state = state or _initial_state()
        self._waiting = [state["waiting"]] if len(state["waiting"]) else []
        self.count = int(state["count"])
        self._shift, self._sum, self._products = state["shift"], state["sum"], state["products"]

    def state(self) -> dict[str, np.ndarray]:
        """The sums and the rows that are not summed yet, from which another instance continues."""
        return {
            "waiting": np.concatenate(self._waiting) if self._waiting else np.empty((0, 0), np.float32),
            "count": np.asarray(self.count),
            "shift": self._shift,
            "sum": self._sum,
            "products": self._products,
        }

    @property
    def is_empty(self) -> bool:
        """Whether no features have been added yet."""
        return not (self.count or self._waiting)

    def add(self, features: np.ndarray) -> None:
        """Add the features [n, D] of further images."""
        for start in range(0, len(features), BLOCK):
            self._waiting.append(features[start : start + BLOCK])
            if sum(map(len, self._waiting)) >= BLOCK:
                rows = np.concatenate(self._waiting)
                self._sum_block(rows[:BLOCK])
                self._waiting = [rows[BLOCK:]]

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean [D] and the unbiased covariance [D, D] of all features, float64; nothing can be added afterwards.

        Raises UserError for fewer than two images.
        """
        if self._waiting:
            self._sum_block(np.concatenate(self._waiting))
            self._waiting = []
        if self.count < 2:
            raise UserError(f"a covariance needs at least 2 images, not {self.count}")
        mean = self._sum / self.count
        covariance = (self._products - self.count * np.outer(mean, mean)) / (self.count - 1)
        return self._shift + mean, covariance

    def _sum_block(self, block: np.ndarray) -> None:
        if not self.count and len(block):
            self._shift = block.mean(0, dtype=np.float64)
        centred = block.astype(np.float64) - self._shift
        self.count += len(block)
        self._sum = self._sum + centred.sum(0)
        self._products = self._products + centred.T @ centred


def _initial_state() -> dict[str, np.ndarray]:
    zero = np.zeros(())
    return {"waiting": np.empty((0, 0), np.float32), "count": zero, "shift": zero, "sum": zero, "products": zero}


def pool_moments(parts: Sequence[tuple[int, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The mean [D] and the unbiased covariance [D, D] of a set, from the count, mean and covariance of each part of it.

    With parts of n_j images, (N - 1) C = sum_j (n_j - 1) C_j + n_j (m_j - m)(m_j - m)^T.
    """
    counts = np.array([count for count, _, _ in parts], np.float64)
    means = np.array([mean for _, mean, _ in parts])
    mean = counts @ means / counts.sum()
    centred = (means - mean) * np.sqrt(counts)[:, None]
    products = sum((count - 1) * covariance for count, _, covariance in parts) + centred.T @ centred
    return mean, products / (counts.sum() - 1)


def check_same_width(first: int, second: int) -> None:
    """UserError for two sets of features that have not the same number of features per image."""
    if first != second:
        raise UserError(f"{first} and {second} features per image come from different extractors")
