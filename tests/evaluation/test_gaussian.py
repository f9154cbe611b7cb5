"""The Frechet distance against closed forms, the singular values of the points, and clean-fid."""

from __future__ import annotations

import numpy as np
import pytest
from feature_sets import REFERENCE, SAMPLES

from cm.errors import UserError
from cm.evaluation import gaussian


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


def test_frechet_distance_is_clean_fids():
    from cleanfid.fid import frechet_distance

    moments = *SAMPLES.moments(), *REFERENCE.moments()
    assert gaussian.frechet_distance(*moments) == pytest.approx(frechet_distance(*moments), rel=1e-6)


def test_moments_that_are_not_a_gaussian_are_refused():
    mean, cov = REFERENCE.moments()
    with pytest.raises(UserError, match="not finite"):
        gaussian.frechet_distance(mean, cov, mean, np.where(np.eye(16) > 0, np.nan, cov))
    with pytest.raises(UserError, match=r"16 features .* \(8, 8\)"):
        gaussian.frechet_distance(mean, cov[:8, :8], mean, cov)


@pytest.mark.parametrize("seed", range(8))
def test_no_rounding_makes_a_distance_negative(seed):
    random = np.random.default_rng(seed)
    features = random.normal(size=(200, 32)) * 10
    mean, covariance = features.mean(0), np.cov(features, rowvar=False)
    assert 0 <= gaussian.frechet_distance(mean, covariance, mean, covariance) < 1e-9
