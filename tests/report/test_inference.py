"""Intervals, p-values and Holm's correction, against SciPy's tests and a computation by hand."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from cm.report.inference import adjust_by_holm, mean_interval, standard_error, upper_tail

VALUES = [1.0, 2.5, 2.0, 4.0]


def test_the_interval_of_the_mean_is_that_of_student():
    expected = stats.t.interval(0.95, 3, loc=2.375, scale=stats.sem(VALUES))
    assert mean_interval(VALUES) == pytest.approx(expected)
    assert mean_interval(VALUES[:1]) is None and standard_error(VALUES[:1]) is None


def test_the_interval_of_a_further_value_is_wider_by_its_own_scatter():
    low, high = mean_interval(VALUES, further=True)
    half = stats.t.ppf(0.975, 3) * stats.tstd(VALUES) * math.sqrt(1 + 1 / 4)
    assert (low, high) == pytest.approx((2.375 - half, 2.375 + half))


def test_the_tail_is_the_p_value_of_a_one_sided_t_test():
    expected = stats.ttest_1samp(VALUES, 1.0, alternative="greater").pvalue
    assert upper_tail(1.375, standard_error(VALUES), 3) == pytest.approx(expected)
    assert [upper_tail(distance, 0.0, 2) for distance in (-1.0, 0.0, 1.0)] == [1.0, 0.5, 0.0]


def test_holm_by_hand():
    # Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, of which the last is raised to the one before it.
    assert adjust_by_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_by_holm([0.6, 0.9]) == [1.0, 1.0]
    assert adjust_by_holm([]) == []
