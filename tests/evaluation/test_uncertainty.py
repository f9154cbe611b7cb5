"""Intervals against finite differences, closed forms, the full bootstrap and known Gaussians; extrapolated FIDs."""

from __future__ import annotations

import numpy as np
import pytest

from cm.errors import UserError
from cm.evaluation import metrics, uncertainty
from cm.evaluation.gaussian import Gaussian
from cm.evaluation.moments import Features

WIDTH, SHIFT = 8, 0.3
SCALES = np.linspace(0.5, 1.5, WIDTH)
STANDARD = Features(np.zeros((2, WIDTH), np.float32), fitted=(np.zeros(WIDTH), np.eye(WIDTH)))
TRUE = WIDTH * SHIFT**2 + ((SCALES - 1) ** 2).sum()


def samples(seed: int, count: int) -> Features:
    points = np.random.default_rng(seed).standard_normal((count, WIDTH)) * SCALES + SHIFT
    return Features(points.astype(np.float32))


def fitted(width: int) -> Features:
    """A reference N(0, diag(1 / k)), of a spectrum that falls as that of images does."""
    return Features(np.zeros((2, width), np.float32), fitted=(np.zeros(width), np.diag(1 / np.arange(1, width + 1))))


def near(seed: int, count: int, width: int, gap: float) -> Features:
    """Samples of the Gaussian of `fitted`, moved and stretched by `gap` standard deviations."""
    points = np.random.default_rng(seed).standard_normal((count, width)) * (1 + gap) + gap
    return Features((points / np.sqrt(np.arange(1, width + 1))).astype(np.float32))


def width_of(ends: tuple[float, float]) -> float:
    return ends[1] - ends[0]


def share(intervals: list[tuple[float, float]], value: float) -> float:
    return float(np.mean([low <= value <= high for low, high in intervals]))


def bootstrapped(some: Features, reference: Features, draws: int) -> float:
    """Standard deviation of the FIDs of samples of samples, each with moments of its own."""
    random, count = np.random.default_rng(0), len(some.features)
    rows = [random.integers(count, size=count) for _ in range(draws)]
    return float(np.std([metrics.fid(Features(some.features[drawn]), reference) for drawn in rows]))


def weighted(points: np.ndarray, weights: np.ndarray, reference: Gaussian) -> float:
    """FID of samples of these weights; the covariance is unbiased where they are equal."""
    mean = weights @ points
    covariance = ((points - mean).T * weights) @ (points - mean) * len(points) / (len(points) - 1)
    return reference.distance(Gaussian(mean, covariance))


@pytest.mark.parametrize(("count", "width", "rank"), [(60, 5, 5), (20, 30, 30), (60, 6, 3), (12, 30, 20)])
def test_influences_are_the_derivatives_by_the_weights(count, width, rank):
    """Of full rank; of fewer samples than features; of a reference without variance in some directions; variances of
    four orders of magnitude.
    """
    random, scales = np.random.default_rng(0), np.logspace(0, -2, width)
    points, root = random.standard_normal((count, width)) * scales, random.standard_normal((rank, width)) * scales
    reference, fit = Gaussian(random.standard_normal(width), root.T @ root), Gaussian(points.mean(0), np.cov(points.T))
    moved = [(1 - eps) / count + eps * np.eye(count) for eps in (1e-5, -1e-5)]
    up, down = (np.array([weighted(points, weights, reference) for weights in matrix]) for matrix in moved)
    found = uncertainty.influences(points, fit, reference)
    np.testing.assert_allclose(found, (up - down) / 2e-5, rtol=1e-5, atol=1e-5 * found.std())
    assert abs(found.mean()) < 1e-12 * found.std()


def test_influences_of_one_feature_have_a_closed_form():
    """FID is (m - m_R)^2 + (s - s_R)^2, so d FID / d C is 1 - s_R / s."""
    points = np.random.default_rng(0).standard_normal((50, 1)) * 2 + 1
    fit = Gaussian(points.mean(0), np.cov(points.T).reshape(1, 1))
    centred, scale = points[:, 0] - points.mean(), points.std(ddof=1)
    squares = (1 - 0.5 / scale) * np.square(centred) * 50 / 49
    expected = 2 * (points.mean() - 3) * centred + squares - squares.mean()
    found = uncertainty.influences(points, fit, Gaussian(np.array([3.0]), np.array([[0.25]])))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_influences_do_not_depend_on_the_block(monkeypatch):
    some, fixed = samples(0, 300), Gaussian(*STANDARD.moments())
    fit = Gaussian(*some.moments())
    whole = uncertainty.influences(some.features, fit, fixed)
    monkeypatch.setattr(uncertainty, "BLOCK", 64)
    np.testing.assert_allclose(uncertainty.influences(some.features, fit, fixed), whole, rtol=1e-12)


@pytest.mark.parametrize("unit", [1e-8, 1e8])
def test_influences_are_squares_of_the_unit_of_features(unit):
    points, (mean, covariance) = samples(0, 300).features.astype(np.float64), STANDARD.moments()
    found, scaled = (
        uncertainty.influences(
            points * by,
            Gaussian(points.mean(0) * by, np.cov(points.T) * by**2),
            Gaussian(mean * by, covariance * by**2),
        )
        for by in (1.0, unit)
    )
    np.testing.assert_allclose(scaled / unit**2, found, rtol=1e-9, atol=1e-9 * found.std())


@pytest.fixture(scope="module")
def scored() -> list[tuple[float, tuple[float, float]]]:
    """FID and interval of 200 sets of 100 samples each."""
    sets = [samples(seed, 100) for seed in range(200)]
    return [(metrics.fid(some, STANDARD), uncertainty.interval(some, STANDARD, draws=300)) for some in sets]


def test_intervals_cover_the_expected_fid(scored):
    fids, intervals = zip(*scored, strict=True)
    assert np.mean(fids) - TRUE > 0.2  # the interval is of N samples, whose FID is larger
    assert share(intervals, np.mean(fids)) == pytest.approx(0.95, abs=0.04)
    assert all(low < fid < high for fid, (low, high) in scored)


@pytest.mark.parametrize(
    ("count", "width", "gap"),
    [(400, 8, 0.0), (400, 8, 0.3), (1000, 32, 0.0), (1000, 32, 0.05), (1000, 32, 0.3), (40, 64, 0.0), (40, 64, 0.3)],
)
def test_intervals_are_never_too_narrow(count, width, gap):
    """Far from the reference as wide as FIDs spread; near it by up to sqrt 2 too wide; so of singular ones."""
    sets, reference = [near(seed, count, width, gap) for seed in range(100)], fitted(width)
    fids = [metrics.fid(some, reference) for some in sets]
    intervals = [uncertainty.interval(some, reference, draws=200) for some in sets]
    wide = np.sqrt(np.mean(np.square([width_of(ends) for ends in intervals]))) / (2 * 1.96 * np.std(fids))
    assert share(intervals, np.mean(fids)) >= 0.9
    assert 0.85 < wide < (1.3 if gap == 0.3 else 1.7)
    assert gap or wide > 1.15


@pytest.mark.parametrize(
    ("count", "width", "gap", "ratio"), [(400, 8, 0.3, 1.0), (2000, 64, 0.3, 1.0), (1000, 64, 0.0, 0.7)]
)
def test_the_full_bootstrap_is_as_wide_far_away_and_wider_near(count, width, gap, ratio):
    """The second order counts twice here and three times there: at the real-data baseline sqrt 2/3 and less."""
    some, reference = near(1, count, width, gap), fitted(width)
    linear = width_of(uncertainty.interval(some, reference)) / (2 * 1.96)
    assert linear / bootstrapped(some, reference, 60) == pytest.approx(ratio, rel=0.25)


def test_an_interval_holds_its_fid_and_shrinks_with_the_level_and_the_samples():
    few, many = (uncertainty.interval(samples(0, count), STANDARD) for count in (200, 3200))
    narrow = uncertainty.interval(samples(0, 200), STANDARD, level=0.5)
    assert few[0] < narrow[0] < metrics.fid(samples(0, 200), STANDARD) < narrow[1] < few[1]
    assert width_of(few) / width_of(many) == pytest.approx(4, rel=0.3)
    assert width_of(few) / width_of(narrow) == pytest.approx(1.96 / 0.674, rel=0.1)


def test_an_interval_is_of_the_samples_that_are_there_not_of_more():
    some = samples(0, 200)
    assert uncertainty.interval(Features(some.features, fitted=STANDARD.fitted), STANDARD) == uncertainty.interval(
        some, STANDARD
    )


def test_an_interval_ends_at_zero():
    """One feature of the mean and variance of the reference, almost: FID is a square, its expectation not negative."""
    some = near(4, 50, 1, 0.0)
    low, high = uncertainty.interval(some, fitted(1))
    assert low == 0.0 < metrics.fid(some, fitted(1)) < high


@pytest.mark.parametrize("others", [np.ones((5, 3)), np.array([[0, 1, 0], [0, -1, 0.0]])], ids=["alike", "apart"])
def test_images_that_share_no_direction_with_the_reference_have_an_interval(others):
    """All alike, they have no variance; apart, theirs and the reference's are in different directions."""
    reference = Features(np.array([[1, 0, 0], [-1, 0, 0]], np.float32))
    some = Features(others.astype(np.float32))
    assert uncertainty.interval(some, reference) == pytest.approx([metrics.fid(some, reference)] * 2)


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


@pytest.mark.parametrize(("count", "width"), [(200, 8), (29, 8), (30, 8), (127, 64), (128, 64)])
@pytest.mark.parametrize("extrapolate", [False, True])
def test_a_summary_has_the_limit_if_it_is_requested_and_can_be_estimated(count, width, extrapolate):
    some, reference = near(0, count, width, 0.3), fitted(width)
    found = uncertainty.summary(some, reference, extrapolate=extrapolate)
    expected = dict(zip(("low", "high"), uncertainty.interval(some, reference), strict=True))
    if extrapolate and count not in (29, 127):
        expected["at_infinity"] = uncertainty.fid_infinity(some, reference)
    assert found == expected
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize("of", [uncertainty.interval, uncertainty.fid_infinity])
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
        uncertainty.interval(samples(0, 200), STANDARD, draws=1)
    with pytest.raises(UserError, match="at least 2 images, not 1"):
        uncertainty.interval(samples(0, 1), STANDARD)
    with pytest.raises(UserError, match="different extractors"):
        uncertainty.interval(samples(0, 200), Features(np.eye(5, dtype=np.float32)))
