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
    assert set(metrics.unavailable(known, logits=False, single_images=True)) == {"inception_score"}


def test_a_mean_and_a_covariance_are_enough_for_fid_alone():
    known = registry.names("metric")
    moments_only = Features(np.empty((0, 16), np.float32), fitted=REFERENCE.moments())
    found = metrics.compute_metrics(SAMPLES, moments_only, known)
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


@pytest.mark.parametrize("name", registry.names("metric"))
def test_titles_and_directions_stand_at_the_registration(name):
    found = registry.get("metric", name)
    assert metrics.title(name) == found.title
    assert metrics.title(name, "digits/classifier/default/seed0") == found.general_title
    assert metrics.lower_is_better(name) == (name in {"fid", "kid"})


def test_only_the_distance_between_inception_features_is_called_fid():
    assert (metrics.title("fid"), metrics.title("fid", "dinov2")) == ("FID", "FD")
    with pytest.raises(UserError, match="unknown metric 'fids'; known: fid, inception_score, kid, precision, recall"):
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
