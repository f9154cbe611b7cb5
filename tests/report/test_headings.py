"""A Frechet distance is called FID only where the features are Inception's."""

from __future__ import annotations

import pytest

from cm.report import headings


@pytest.mark.parametrize(
    ("metric", "dataset", "extractor", "expected"),
    [
        ("fid", "cifar10", "inception", "FID, CIFAR-10, Inception features"),
        ("fid", "lsun_cat", "dinov2", "FD-DINOv2, LSUN Cat 256, DINOv2 features"),
        ("fid", "digits", "digits/classifier/default/seed0", "FD, digits, classifier features"),
        ("inception_score", "imagenet64", "inception", "IS, ImageNet 64, Inception features"),
        ("recall", "folder", "dinov2", "recall, folder, DINOv2 features"),
    ],
)
def test_headings_name_metric_data_and_features(metric, dataset, extractor, expected):
    assert headings.heading(metric, dataset, extractor) == expected


@pytest.mark.parametrize(
    ("extractor", "expected"),
    [("inception", "FID"), ("dinov2", "FD-DINOv2"), ("digits/classifier/default/seed0", "FD")],
)
def test_only_inception_has_a_fid(extractor, expected):
    assert headings.metric_title("fid", extractor) == expected
    assert headings.metric_title("kid", extractor) == "KID"
