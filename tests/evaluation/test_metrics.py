"""Metrics against closed forms and against torch-fidelity on the same features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from feature_sets import REFERENCE, SAMPLES, features

from cm import registry
from cm.errors import UserError
from cm.evaluation import metrics
from cm.evaluation.moments import Features

WITH_SPATIAL = Features(REFERENCE.features, REFERENCE.logits, spatial=SAMPLES.moments())


def test_fid_is_torch_fidelitys():
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    pair = [fid_features_to_statistics(torch.from_numpy(f.features).double()) for f in (SAMPLES, REFERENCE)]
    expected = fid_statistics_to_metric(*pair, verbose=False)["frechet_inception_distance"]
    assert metrics.fid(SAMPLES, REFERENCE) == pytest.approx(expected, rel=1e-6)


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
    assert set(metrics.unavailable(known, Features(SAMPLES.features), REFERENCE)) == {"inception_score", "sfid"}


def test_a_mean_and_a_covariance_are_enough_for_fid_alone():
    known = registry.names("metric")
    moments_only = Features(np.empty((0, 16), np.float32), fitted=REFERENCE.moments())
    found = metrics.compute_metrics(SAMPLES, moments_only, known)
    assert found["fid"] == metrics.fid(SAMPLES, REFERENCE)
    assert {name for name, value in found.items() if value is not None} == {"fid", "inception_score"}
    assert {name for name, value in found.items() if value is None} == set(
        metrics.unavailable(known, SAMPLES, moments_only)
    )
    assert metrics.unavailable(known, WITH_SPATIAL, WITH_SPATIAL) == {}


@pytest.mark.parametrize("name", registry.names("metric"))
def test_the_fewest_images_are_known_of_every_metric(name):
    """One more than is refused is enough, and the metric itself then works."""
    fewest = registry.get("metric", name).fewest
    with pytest.raises(UserError, match=f"^{name} needs at least {fewest} images, mine has {fewest - 1}$"):
        metrics.check_enough_images(fewest - 1, "mine", ["fid", name] if fewest > 2 else [name])
    metrics.check_enough_images(fewest, "mine", [name])
    few = Features(SAMPLES.features[:fewest], SAMPLES.logits[:fewest], spatial=SAMPLES.moments())
    assert np.isfinite(registry.get("metric", name)(few, few))


@pytest.mark.parametrize("name", registry.names("metric"))
def test_metrics_of_the_same_images(name):
    value = registry.get("metric", name)(WITH_SPATIAL, WITH_SPATIAL)
    known = {"fid": 0.0, "sfid": 0.0, "precision": 1.0, "recall": 1.0, "density": 1.0, "coverage": 1.0}
    ideal = {**known, "authenticity": 0.0}.get(name, value)
    assert np.isfinite(value)
    assert value == pytest.approx(ideal, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("fid", 1, "at least 2"),
        ("fid", 0, "at least 2"),
        ("kid", 1, "at least 2"),
        ("precision", 3, "more than 3"),
        ("density", 5, "more than 5"),
        ("coverage", 5, "more than 5"),
        ("authenticity", 5, "more than 5"),
    ],
)
def test_too_few_images_are_refused(name, count, message):
    few = Features(REFERENCE.features[:count])
    pair = (few, REFERENCE) if name in ("fid", "kid") else (SAMPLES, few)
    with pytest.raises(UserError, match=message):
        registry.get("metric", name)(*pair)


@pytest.mark.parametrize("name", ["fid", "kid", "precision", "recall", "density", "coverage", "authenticity"])
def test_features_of_different_extractors_are_refused(name):
    with pytest.raises(UserError, match=r"^(16 and 8|8 and 16) features per image come from different extractors$"):
        registry.get("metric", name)(SAMPLES, features(1, width=8))


@pytest.mark.parametrize("name", registry.names("metric"))
def test_titles_and_directions_stand_at_the_registration(name):
    found = registry.get("metric", name)
    assert metrics.title(name) == found.title
    assert metrics.title(name, "digits/classifier/default/seed0") == found.general_title
    assert metrics.lower_is_better(name) == (name in {"fid", "sfid", "kid"})


def test_only_the_distance_between_inception_features_is_called_fid():
    assert (metrics.title("fid"), metrics.title("fid", "dinov2")) == ("FID", "FD")
    with pytest.raises(UserError, match="unknown metric 'fids'; known: authenticity, coverage, density, fid, inc"):
        metrics.title("fids")


def test_samples_without_logits_have_no_inception_score():
    with pytest.raises(UserError, match="the extractor have no logits"):
        metrics.inception_score(Features(SAMPLES.features), REFERENCE)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("scale", [1e160, 1e300])
def test_an_infinite_metric_is_refused(scale):
    fitted = Features(REFERENCE.features, fitted=(np.full(8, scale), np.eye(8)))
    samples = features(0, 50, width=8)
    with pytest.raises(UserError, match="the fid of these images is inf: their features or the statistics are too"):
        metrics.compute_metrics(samples, fitted, ["fid"])


# ---- spatial features and neighbours --------------------------------------------------------------------------------


def test_sfid_compares_the_spatial_features():
    pair = [Features(np.zeros((4, 2), np.float32), spatial=other.moments()) for other in (SAMPLES, REFERENCE)]
    assert metrics.sfid(*pair) == metrics.fid(SAMPLES, REFERENCE)
    with pytest.raises(UserError, match="sfid is unavailable: the extractor, or the statistics of the reference, have"):
        metrics.sfid(pair[0], REFERENCE)


def brute_force(samples: Features, reference: Features, k: int = 5) -> dict[str, float]:
    """Density, coverage and authenticity, word by word."""
    y, x = samples.features.astype(np.float64), reference.features.astype(np.float64)
    real = np.linalg.norm(x[:, None] - x[None], axis=2)
    radius = [sorted(np.delete(row, i))[k - 1] for i, row in enumerate(real)]
    spacing = [min(np.delete(row, i)) for i, row in enumerate(real)]
    between = np.linalg.norm(y[:, None] - x[None], axis=2)
    inside = between < radius
    places = between.argmin(1)
    authentic = [spacing[place] < between[j, place] for j, place in enumerate(places)]
    return {
        "density": sum(inside.sum(1)) / (k * len(y)),
        "coverage": inside.any(0).mean(),
        "authenticity": np.mean(authentic),
    }


@pytest.mark.parametrize("name", ["density", "coverage", "authenticity"])
@pytest.mark.parametrize("counts", [(60, 40), (40, 60)])
def test_density_coverage_and_authenticity_by_their_definitions(name, counts, monkeypatch):
    monkeypatch.setattr("cm.evaluation.metrics.neighbours.ENTRIES", 700)  # several blocks
    samples, reference = features(0, counts[0], shift=0.4, width=4), features(1, counts[1], width=4)
    expected = brute_force(samples, reference)[name]
    assert 0 < expected < 1.5
    assert registry.get("metric", name)(samples, reference) == pytest.approx(expected, rel=1e-12)


def test_density_and_coverage_on_a_line():
    """Real images at 0, 1, ..., 5: with k = 5 the radius of i is max(i, 5 - i)."""
    reference = Features(np.arange(6, dtype=np.float32)[:, None])
    samples = Features(np.array([[0.5], [5.25], [100.0]], np.float32))
    assert metrics.density(samples, reference) == pytest.approx((6 + 3) / (5 * 3))
    assert metrics.coverage(samples, reference) == 1.0
    assert metrics.coverage(Features(samples.features[1:]), reference) == pytest.approx(3 / 6)


def test_copies_of_training_images_are_not_authentic():
    own = features(0, 200, width=4).features
    copies = Features(own[:50] + np.float32(1e-3))
    assert metrics.authenticity(copies, Features(own)) == 0.0
    mixed = Features(np.concatenate([copies.features, own[:50] + 100]))
    assert metrics.authenticity(mixed, Features(own)) == 0.5
    found = metrics.nearest(copies, Features(own))
    assert found.places.tolist() == list(range(50))
    assert (found.distances < found.spacings).all()


def test_distances_take_no_more_memory_than_a_few_blocks():
    import tracemalloc

    samples, reference = features(0, 20_000, width=64), features(1, 2_000, width=64)
    tracemalloc.start()
    metrics.density(samples, reference)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000 * 2_000 * 8  # a matrix of all distances
