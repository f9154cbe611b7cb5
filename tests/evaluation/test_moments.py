"""Running and pooled moments against NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from feature_sets import REFERENCE, features

from cm.errors import UserError
from cm.evaluation.moments import Features, RunningMoments, pool_moments


@pytest.mark.parametrize("sizes", [[2500], [1, 2499], [1024, 1024, 452], [700] * 3 + [400], [3000 - 500]])
def test_moments_are_numpys_and_do_not_depend_on_the_parts(sizes):
    points = features(3, count=2500, shift=40.0).features
    running, start = RunningMoments(), 0
    for size in sizes:
        running.add(points[start : start + size])
        start += size
    mean, covariance = running.result()
    np.testing.assert_allclose(mean, points.mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(points.astype(np.float64), rowvar=False), rtol=1e-9, atol=1e-11)
    whole = Features(points).moments()
    assert np.array_equal(mean, whole[0])
    assert np.array_equal(covariance, whole[1])


@pytest.mark.parametrize("sizes", [(200, 200), (1, 399), (3, 90, 307)])
def test_moments_of_parts_pool_to_those_of_all(sizes):
    starts = np.cumsum((0, *sizes))
    parts = [Features(REFERENCE.features[a:b]) for a, b in itertools.pairwise(starts)]
    zero = np.zeros((16, 16))
    given = [
        (len(p.features), *(p.moments() if len(p.features) > 1 else (p.features[0].astype(float), zero))) for p in parts
    ]
    for got, expected in zip(pool_moments(given), REFERENCE.moments(), strict=True):
        assert np.allclose(got, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("stop", [0, 1, 1500, 2048, 2500])
def test_moments_continue_from_their_state(stop):
    points = features(3, count=3000).features
    whole, first = RunningMoments(), RunningMoments()
    whole.add(points)
    first.add(points[:stop])
    second = RunningMoments(first.state())
    second.add(points[stop:])
    for got, expected in zip(second.result(), whole.result(), strict=True):
        assert np.array_equal(got, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused(value):
    broken = REFERENCE.features.copy()
    broken[[3, 7], 5] = value
    with pytest.raises(UserError, match=r"^the features of 2 of 400 images are not finite$"):
        Features(broken)
    with pytest.raises(UserError, match=r"^the features of 2 of 400 images are not finite$"):
        Features(REFERENCE.features, broken)
