"""Frechet distances between the features, or the spatial features, of two sets of images."""

from __future__ import annotations

from cm.errors import UserError
from cm.evaluation.gaussian import frechet_distance
from cm.evaluation.metrics.base import NO_SPATIAL_FEATURES, metric
from cm.evaluation.moments import Features


@metric("fid", title="FID", general_title="FD", lower_is_better=True, fewest=2)
def fid(samples: Features, reference: Features) -> float:
    """The Frechet distance between Gaussians fitted to the features (Heusel et al. 2017), see `cm.evaluation.gaussian`.

    Raises UserError for fewer than two images of either set.
    """
    return frechet_distance(*samples.moments(), *reference.moments())


@metric("sfid", title="sFID", general_title="sFD", lower_is_better=True, fewest=2, needs="spatial moments")
def sfid(samples: Features, reference: Features) -> float:
    """The Frechet distance between Gaussians fitted to the spatial features (Nash et al. 2021).

    As ADM computes it (Dhariwal and Nichol 2021): the first 7 channels of the Inception's layer `mixed_6/conv`, which
    still say where in the image something is. Raises UserError for images without spatial features.
    """
    if samples.spatial is None or reference.spatial is None:
        raise UserError(f"sfid is unavailable: {NO_SPATIAL_FEATURES}")
    return frechet_distance(*samples.spatial, *reference.spatial)
