"""Metrics against closed forms and against torch-fidelity on the same features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cm import metrics, registry
from cm.errors import UserError
from cm.metrics import Features


def features(seed: int, count: int = 500, shift: float = 0.0, units: int = 16) -> Features:
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).standard_normal((units, units))
    points = rng.standard_normal((count, units)) @ mix + shift
    return Features(points.astype(np.float32), (3 * rng.standard_normal((count, 10))).astype(np.float32))


SAMPLES, REFERENCE = features(0, shift=0.5), features(1, count=400)


def test_frechet_distance_of_commuting_gaussians():
    a, b = np.diag([1.0, 4.0, 9.0]), np.diag([4.0, 1.0, 0.25])
    shift = np.array([1.0, -2.0, 0.5])
    expected = (shift**2).sum() + ((np.sqrt(np.diag(a)) - np.sqrt(np.diag(b))) ** 2).sum()
    assert metrics.frechet_distance(shift, a, np.zeros(3), b) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_singular_gaussians():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    a = basis[:, :2] @ np.diag([2.0, 3.0]) @ basis[:, :2].T
    b = basis[:, 4:] @ np.diag([5.0, 7.0]) @ basis[:, 4:].T
    assert metrics.frechet_distance(np.zeros(6), a, np.zeros(6), b) == pytest.approx(17.0, rel=1e-6)
    assert metrics.frechet_distance(np.zeros(6), a, np.zeros(6), a) == pytest.approx(0.0, abs=1e-6)


def test_fid_is_torch_fidelitys():
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    pair = [fid_features_to_statistics(torch.from_numpy(f.units).double()) for f in (SAMPLES, REFERENCE)]
    expected = fid_statistics_to_metric(*pair, verbose=False)["frechet_inception_distance"]
    assert metrics.fid(SAMPLES, REFERENCE) == pytest.approx(expected, rel=1e-6)


def test_inception_score_is_torch_fidelitys():
    from torch_fidelity.metric_isc import isc_features_to_metric

    expected = isc_features_to_metric(torch.from_numpy(SAMPLES.logits), splits=10, shuffle=False)
    got = metrics.inception_score(SAMPLES, REFERENCE)
    assert got == pytest.approx(expected["inception_score_mean"], rel=1e-6)


def test_precision_and_recall_are_torch_fidelitys():
    from torch_fidelity.metric_prc import prc_features_to_metric

    pair = [torch.from_numpy(f.units) for f in (SAMPLES, REFERENCE)]
    expected = prc_features_to_metric(*pair, prc_neighborhood=3, prc_batch_size=100, save_cpu_ram=False, verbose=False)
    assert metrics.precision(SAMPLES, REFERENCE) == pytest.approx(expected["precision"])
    assert metrics.recall(SAMPLES, REFERENCE) == pytest.approx(expected["recall"])


def test_inception_score_of_certain_and_of_clueless_classifiers():
    certain = 100 * np.eye(10, dtype=np.float32)[np.arange(1000) % 10]
    assert metrics.inception_score(Features(certain, certain), REFERENCE) == pytest.approx(10.0)
    clueless = np.zeros((1000, 10), np.float32)
    assert metrics.inception_score(Features(clueless, clueless), REFERENCE) == pytest.approx(1.0)


@pytest.mark.parametrize("sizes", [[2500], [1, 2499], [1024, 1024, 452], [700] * 3 + [400], [3000 - 500]])
def test_moments_are_numpys_and_do_not_depend_on_the_parts(sizes):
    points = features(3, count=2500, shift=40.0).units
    running, start = metrics.Moments(), 0
    for size in sizes:
        running.add(points[start : start + size])
        start += size
    mean, covariance = running.result()
    np.testing.assert_allclose(mean, points.mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(points.astype(np.float64), rowvar=False), rtol=1e-9, atol=1e-11)
    whole = Features(points).moments()
    assert np.array_equal(mean, whole[0])
    assert np.array_equal(covariance, whole[1])


def test_a_subset_with_the_moments_of_all_gives_their_fid():
    part = Features(REFERENCE.units[:100], fitted=REFERENCE.moments())
    assert metrics.fid(SAMPLES, part) == metrics.fid(SAMPLES, REFERENCE)
    assert metrics.recall(SAMPLES, part) == metrics.recall(SAMPLES, Features(REFERENCE.units[:100]))


def test_without_logits_there_is_no_inception_score():
    known = set(registry.names("metric"))
    assert set(metrics.computed(SAMPLES, REFERENCE)) == known
    assert set(metrics.computed(Features(SAMPLES.units), REFERENCE)) == known - {"inception_score"}


@pytest.mark.parametrize("name", registry.names("metric"))
def test_metrics_of_the_same_images(name):
    value = registry.get("metric", name)(REFERENCE, REFERENCE)
    ideal = {"fid": 0.0, "precision": 1.0, "recall": 1.0}.get(name, value)
    assert np.isfinite(value)
    assert value == pytest.approx(ideal, abs=1e-6)


def test_too_few_images_are_refused():
    with pytest.raises(UserError, match="at least 2"):
        metrics.fid(features(0, count=1), REFERENCE)
    with pytest.raises(UserError, match="more than 3"):
        metrics.precision(SAMPLES, features(0, count=3))
