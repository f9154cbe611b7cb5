"""Metrics against closed forms and against torch-fidelity on the same features."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from cm import registry
from cm.errors import UserError
from cm.evaluation import gaussian, metrics
from cm.evaluation.moments import Features, RunningMoments, pool_moments


def features(seed: int, count: int = 500, shift: float = 0.0, width: int = 16) -> Features:
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).standard_normal((width, width))
    points = rng.standard_normal((count, width)) @ mix + shift
    return Features(points.astype(np.float32), (3 * rng.standard_normal((count, 10))).astype(np.float32))


SAMPLES, REFERENCE = features(0, shift=0.5), features(1, count=400)


def test_frechet_distance_of_commuting_gaussians():
    a, b = np.diag([1.0, 4.0, 9.0]), np.diag([4.0, 1.0, 0.25])
    shift = np.array([1.0, -2.0, 0.5])
    expected = (shift**2).sum() + ((np.sqrt(np.diag(a)) - np.sqrt(np.diag(b))) ** 2).sum()
    assert gaussian.frechet_distance(shift, a, np.zeros(3), b) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_singular_gaussians():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    a = basis[:, :2] @ np.diag([2.0, 3.0]) @ basis[:, :2].T
    b = basis[:, 4:] @ np.diag([5.0, 7.0]) @ basis[:, 4:].T
    assert gaussian.frechet_distance(np.zeros(6), a, np.zeros(6), b) == pytest.approx(17.0, rel=1e-6)
    assert gaussian.frechet_distance(np.zeros(6), a, np.zeros(6), a) == pytest.approx(0.0, abs=1e-6)


def test_fid_is_torch_fidelitys():
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    pair = [fid_features_to_statistics(torch.from_numpy(f.features).double()) for f in (SAMPLES, REFERENCE)]
    expected = fid_statistics_to_metric(*pair, verbose=False)["frechet_inception_distance"]
    assert metrics.fid(SAMPLES, REFERENCE) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_is_clean_fids():
    from cleanfid.fid import frechet_distance

    moments = *SAMPLES.moments(), *REFERENCE.moments()
    assert gaussian.frechet_distance(*moments) == pytest.approx(frechet_distance(*moments), rel=1e-6)


def decaying(seed: int, count: int, *, width: int = 300, power: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Points [count, width] whose variance falls as that of Inception's features does, and their covariance."""
    rng = np.random.default_rng(seed)
    mix = np.linalg.qr(np.random.default_rng(9).standard_normal((width, width)))[0]
    points = (1 + seed / 10) * rng.standard_normal((count, width)) * np.arange(1, width + 1) ** (-power / 2) @ mix
    return points - points.mean(0), np.cov(points, rowvar=False)


@pytest.mark.parametrize(("first", "second"), [(900, 900), (100, 100), (100, 250), (301, 299), (299, 80)])
@pytest.mark.parametrize("power", [0.0, 1.0, 3.0])
def test_frechet_distance_of_fewer_images_than_features(first, second, power):
    """Against the singular values of the points themselves, which no covariance has squared."""
    (a, cov_a), (b, cov_b) = decaying(0, first, power=power), decaying(1, second, power=power)
    zero = np.zeros(300)
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum() / np.sqrt((first - 1) * (second - 1))
    got = gaussian.frechet_distance(zero, cov_a, zero, cov_b)
    assert got == pytest.approx(np.trace(cov_a) + np.trace(cov_b) - 2 * cross, rel=1e-8)
    assert got == pytest.approx(gaussian.frechet_distance(zero, cov_b, zero, cov_a), rel=1e-11)
    assert abs(gaussian.frechet_distance(zero, cov_a, zero, cov_a)) < 1e-10 * np.trace(cov_a)


def kid_draws(samples: Features, reference: Features, size: int) -> float:
    from torch_fidelity.metric_kid import kid_features_to_metric

    how = {"kid_subsets": 100, "kid_subset_size": size, "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None}
    pair = [torch.from_numpy(f.features).double() for f in (samples, reference)]
    found = kid_features_to_metric(*pair, **how, kid_kernel_poly_coef0=1, rng_seed=2020, verbose=False)
    return found["kernel_inception_distance_mean"]


@pytest.mark.parametrize("counts", [(900, 150), (150, 900), (150, 150), (2300, 2200)])
def test_kid_is_torch_fidelitys_and_clean_fids(counts):
    """The last has so many images that subsets are compared one by one."""
    from cleanfid.fid import kernel_distance

    size = min(*counts, 200 if min(counts) > 1000 else 1000)
    samples, reference = features(0, counts[0], shift=0.1, width=8), features(1, counts[1], width=8)
    got = metrics.kid(samples, reference, size=size)
    assert got == pytest.approx(kid_draws(samples, reference, size), rel=1e-9)
    np.random.seed(2020)
    pair = (reference.features.astype(np.float64), samples.features.astype(np.float64))
    assert got == pytest.approx(kernel_distance(*pair, max_subset_size=size), rel=1e-9)


def test_kid_of_whole_sets_is_the_unbiased_estimate():
    a, b = (f.features.astype(np.float64) for f in (features(0, 30, shift=0.3), features(1, 30)))
    same, other = ((lambda x, y: (x @ y.T / 16 + 1) ** 3)(x, y) for x, y in ((a, a), (a, b)))
    off = 1 - np.eye(30)
    expected = (same * off).sum() / 870 + ((b @ b.T / 16 + 1) ** 3 * off).sum() / 870 - 2 * other.mean()
    assert metrics.kid(features(0, 30, shift=0.3), features(1, 30)) == pytest.approx(expected, rel=1e-9)


def test_kid_reads_the_kept_images():
    part = Features(REFERENCE.features[:300], fitted=REFERENCE.moments())
    assert metrics.kid(SAMPLES, part) == metrics.kid(SAMPLES, Features(REFERENCE.features[:300]))


def test_inception_score_is_torch_fidelitys():
    from torch_fidelity.metric_isc import isc_features_to_metric

    expected = isc_features_to_metric(torch.from_numpy(SAMPLES.logits), splits=10, shuffle=False)
    got = metrics.inception_score(SAMPLES, REFERENCE)
    assert got == pytest.approx(expected["inception_score_mean"], rel=1e-6)


def test_precision_and_recall_are_torch_fidelitys():
    from torch_fidelity.metric_prc import prc_features_to_metric

    pair = [torch.from_numpy(f.features) for f in (SAMPLES, REFERENCE)]
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


def test_a_subset_with_the_moments_of_all_gives_their_fid():
    part = Features(REFERENCE.features[:100], fitted=REFERENCE.moments())
    assert metrics.fid(SAMPLES, part) == metrics.fid(SAMPLES, REFERENCE)
    assert metrics.recall(SAMPLES, part) == metrics.recall(SAMPLES, Features(REFERENCE.features[:100]))


def test_without_logits_there_is_no_inception_score():
    known = registry.names("metric")
    full, without = (
        metrics.compute_metrics(samples, REFERENCE, known) for samples in (SAMPLES, Features(SAMPLES.features))
    )
    assert list(full) == list(without) == known
    assert without == full | {"inception_score": None}
    assert set(metrics.unavailable(known, logits=False, single_images=True)) == {"inception_score"}


def test_a_mean_and_a_covariance_give_fid_alone():
    known = registry.names("metric")
    given = Features(np.empty((0, 16), np.float32), fitted=REFERENCE.moments())
    found = metrics.compute_metrics(SAMPLES, given, known)
    assert found["fid"] == metrics.fid(SAMPLES, REFERENCE)
    assert {name for name, value in found.items() if value is None} == {"kid", "precision", "recall"}
    assert set(metrics.unavailable(known, logits=True, single_images=False)) == {"kid", "precision", "recall"}
    assert metrics.unavailable(known, logits=True, single_images=True) == {}


@pytest.mark.parametrize("name", registry.names("metric"))
def test_the_fewest_images_are_known_of_every_metric(name):
    """One more than is refused is enough, and the metric itself then works."""
    fewest = registry.get("metric", name).fewest
    with pytest.raises(UserError, match=f"^{name} needs at least {fewest} images, mine has {fewest - 1}$"):
        metrics.check_enough_images(fewest - 1, "mine", ["fid", name] if fewest > 2 else [name])
    metrics.check_enough_images(fewest, "mine", [name])
    few = Features(SAMPLES.features[:fewest], SAMPLES.logits[:fewest])
    assert np.isfinite(registry.get("metric", name)(few, few))


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
def test_moments_go_on_from_their_state(stop):
    points = features(3, count=3000).features
    whole, first = RunningMoments(), RunningMoments()
    whole.add(points)
    first.add(points[:stop])
    second = RunningMoments(first.state())
    second.add(points[stop:])
    for got, expected in zip(second.result(), whole.result(), strict=True):
        assert np.array_equal(got, expected)


@pytest.mark.parametrize("name", registry.names("metric"))
def test_metrics_of_the_same_images(name):
    value = registry.get("metric", name)(REFERENCE, REFERENCE)
    ideal = {"fid": 0.0, "precision": 1.0, "recall": 1.0}.get(name, value)
    assert np.isfinite(value)
    assert value == pytest.approx(ideal, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [("fid", 1, "at least 2"), ("fid", 0, "at least 2"), ("kid", 1, "at least 2"), ("precision", 3, "more than 3")],
)
def test_too_few_images_are_refused(name, count, message):
    few = Features(REFERENCE.features[:count])
    with pytest.raises(UserError, match=message):
        registry.get("metric", name)(few if name != "precision" else SAMPLES, few if name == "precision" else REFERENCE)


@pytest.mark.parametrize("name", ["fid", "kid", "precision", "recall"])
def test_features_of_different_extractors_are_refused(name):
    with pytest.raises(UserError, match=r"^(16 and 8|8 and 16) features per image come from different extractors$"):
        registry.get("metric", name)(SAMPLES, features(1, width=8))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused(value):
    broken = REFERENCE.features.copy()
    broken[[3, 7], 5] = value
    with pytest.raises(UserError, match=r"^the features of 2 of 400 images are not finite$"):
        Features(broken)
    with pytest.raises(UserError, match=r"^the features of 2 of 400 images are not finite$"):
        Features(REFERENCE.features, broken)


def test_moments_that_are_no_gaussians_are_refused():
    mean, cov = REFERENCE.moments()
    with pytest.raises(UserError, match="not finite"):
        gaussian.frechet_distance(mean, cov, mean, np.where(np.eye(16) > 0, np.nan, cov))
    with pytest.raises(UserError, match=r"16 features .* \(8, 8\)"):
        gaussian.frechet_distance(mean, cov[:8, :8], mean, cov)
