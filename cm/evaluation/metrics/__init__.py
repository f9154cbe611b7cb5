"""Metrics that compare the features of samples with those of reference images: functions of arrays, without torch.

A metric is a function `(samples: Features, reference: Features) -> float` in any module of this package. Its
registration says everything else that the suite must know of it, so that adding a metric is adding one function:

    @metric("fid", title="FID", lower_is_better=True, fewest=2)
    def fid(samples: Features, reference: Features) -> float: ...
"""

from cm.evaluation.metrics.base import (
    Metric,
    check_enough_images,
    compute_metrics,
    lower_is_better,
    metric,
    needs_spatial_features,
    select_possible,
    title,
    unavailable,
)
from cm.evaluation.metrics.classes import inception_score
from cm.evaluation.metrics.frechet import fid, sfid
from cm.evaluation.metrics.kernel import kid
from cm.evaluation.metrics.neighbours import authenticity, coverage, density, nearest, precision, recall

__all__ = [
    "Metric",
    "authenticity",
    "check_enough_images",
    "compute_metrics",
    "coverage",
    "density",
    "fid",
    "inception_score",
    "kid",
    "lower_is_better",
    "metric",
    "nearest",
    "needs_spatial_features",
    "precision",
    "recall",
    "select_possible",
    "sfid",
    "title",
    "unavailable",
]
