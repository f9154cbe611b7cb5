"""Intervals and extrapolated FIDs of Gaussians whose true distance is known."""

from __future__ import annotations

import numpy as np
import pytest

from cm import metrics, uncertainty
from cm.errors import UserError
from cm.metrics import Features

WIDTH, SHIFT = 8, 0.3
SCALES = np.linspace(0.5, 1.5, WIDTH)
STANDARD = Features(np.zeros((2, WIDTH), np.float32), fitted=(np.zeros(WIDTH), np.eye(WIDTH)))
TRUE = WIDTH * SHIFT**2 + ((SCALES - 1) ** 2).sum()


def samples(seed: int, count: int) -> Features:
    points = np.random.default_rng(seed).standard_normal((count, WIDTH)) * SCALES + SHIFT
    return Features(points.astype(np.float32))


@pytest.fixture(scope="module")
def intervals() -> list[uncertainty.Interval]:
    """Of 200 sets of 100 samples each."""
    return [uncertainty.bootstrap(samples(seed, 100), STANDARD) for seed in range(200)]


def share(intervals: list[tuple[float, float]], value: float) -> float:
    return float(np.mean([low <= value <= high for low, high in intervals]))


def test_intervals_cover_the_expected_fid_and_that_of_infinitely_many(intervals):
    expected = np.mean([interval.value for interval in intervals])
    assert expected - TRUE > 0.2  # what makes the two differ
    assert share([(i.low, i.high) for i in intervals], expected) == pytest.approx(0.94, abs=0.04)
    assert share([i.at_infinity() for i in intervals], TRUE) == pytest.approx(0.94, abs=0.04)


def test_plain_percentiles_would_not_cover(intervals):
    plain = [(i.low + i.bias, i.high + i.bias) for i in intervals]
    assert share(plain, TRUE) < 0.6
    assert np.mean([i.low + i.bias > i.value for i in intervals]) < 0.5


def test_the_bias_of_resampling_is_that_of_sampling(intervals):
    bias = np.mean([i.value for i in intervals]) - TRUE
    assert np.mean([i.bias for i in intervals]) == pytest.approx(bias, rel=0.15)


def test_an_interval_holds_its_fid_and_shrinks_with_the_level_and_the_samples():
    few, many = (uncertainty.bootstrap(samples(0, count), STANDARD) for count in (200, 3200))
    narrow = uncertainty.bootstrap(samples(0, 200), STANDARD, level=0.5)
    assert few.value == pytest.approx(metrics.fid(samples(0, 200), STANDARD), rel=1e-12)
    assert few.low < narrow.low < few.value < narrow.high < few.high
    assert 2.5 < (few.high - few.low) / (many.high - many.low) < 6.5


def test_fid_infinity_is_that_of_the_gaussians():
    found = [uncertainty.fid_infinity(samples(seed, 1000), STANDARD) for seed in range(60)]
    plain = [metrics.fid(samples(seed, 1000), STANDARD) for seed in range(60)]
    assert np.mean(found) == pytest.approx(TRUE, abs=3 * np.std(found) / np.sqrt(60))
    assert np.mean(plain) - TRUE > 3 * abs(np.mean(found) - TRUE)


def test_fid_infinity_reads_the_line_at_zero(monkeypatch):
    monkeypatch.setattr(uncertainty, "_fid", lambda fixed, samples, rows: 3.0 + 50.0 / len(set(rows)))
    assert uncertainty.fid_infinity(samples(0, 1000), STANDARD) == pytest.approx(3.0, rel=1e-9)


@pytest.mark.parametrize(("count", "smallest"), [(50_000, 5000), (1000, 100), (100, 16), (20, 10)])
def test_subsets_rise_from_where_the_line_holds_to_all(count, smallest, monkeypatch):
    sizes = []
    monkeypatch.setattr(uncertainty, "_fid", lambda fixed, samples, rows: sizes.append(len(rows)) or 1.0)
    uncertainty.fid_infinity(samples(0, count), STANDARD, points=5)
    assert (sizes[0], sizes[-1], len(set(sizes))) == (smallest, count, 5)
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("of", [uncertainty.bootstrap, uncertainty.fid_infinity])
def test_results_depend_on_the_seed_alone(of):
    some = samples(0, 300)
    assert of(some, STANDARD) == of(some, STANDARD)
    assert of(some, STANDARD, seed=1) != of(some, STANDARD)


def test_what_cannot_be_estimated_is_refused():
    with pytest.raises(UserError, match="20 images are too few for 15 subsets"):
        uncertainty.fid_infinity(samples(0, 20), STANDARD)
    with pytest.raises(UserError, match="for 1 subsets"):
        uncertainty.fid_infinity(samples(0, 200), STANDARD, points=1)
    with pytest.raises(UserError, match="at least 2 draws, not 1"):
        uncertainty.bootstrap(samples(0, 200), STANDARD, draws=1)
    with pytest.raises(UserError, match="at least 2 images, not 1"):
        uncertainty.bootstrap(samples(0, 1), STANDARD)
    with pytest.raises(UserError, match="different extractors"):
        uncertainty.bootstrap(samples(0, 200), Features(np.eye(5, dtype=np.float32)))
