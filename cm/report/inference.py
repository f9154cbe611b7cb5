"""What the scores of a few seeds can decide: intervals and p-values by Student's t, and Holm's correction.

The scores of n seeds have a mean m and a standard deviation s (with n - 1). The standard error of m is s / sqrt(n).
That of the difference between m and the score of one further training, such as a published number, is
s sqrt(1 + 1 / n), since the further training has the same scatter as those that were measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

LEVEL = 0.95  # of intervals; 1 - LEVEL is the significance level of verdicts


def standard_error(values: Sequence[float], *, further: bool = False) -> float | None:
    """The standard error of the mean of the values; None for a single value.

    `further`: that of the difference between the mean and one further value of the same distribution.
    """
    import statistics

    if len(values) < 2:
        return None
    return statistics.stdev(values) * math.sqrt((1 if further else 0) + 1 / len(values))


def mean_interval(values: Sequence[float], *, further: bool = False) -> tuple[float, float] | None:
    """The interval m -+ t e of the mean of n values, t the quantile of Student's t with n - 1 degrees of freedom.

    None for a single value. `further`: the interval that holds one further value with probability `LEVEL`.
    """
    import statistics

    from scipy.stats import t

    error = standard_error(values, further=further)
    if error is None:
        return None
    mean, half = statistics.fmean(values), float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    return mean - half, mean + half


def upper_tail(distance: float, error: float, degrees: int) -> float:
    """P(T >= distance / error) of Student's t. Without any scatter it is 0, 1 or, for no distance, 1/2."""
    from scipy.stats import t

    if not error:
        return 0.5 if not distance else 0.0 if distance > 0 else 1.0
    return float(t.sf(distance / error, degrees))


def adjust_by_holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted by Holm (1979), "A simple sequentially rejective multiple test procedure".

    Of m sorted p-values the k-th becomes the largest of min(1, (m - j + 1) p_j) over j = 1, ..., k. Rejecting all that
    are at most a rejects a true hypothesis with a probability of at most a, however the tests depend on each other.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
