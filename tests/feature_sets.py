"""Random features of two sets of images, for the tests of metrics."""

from __future__ import annotations

import numpy as np

from cm.evaluation.moments import Features


def features(seed: int, count: int = 500, shift: float = 0.0, width: int = 16) -> Features:
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).standard_normal((width, width))
    points = rng.standard_normal((count, width)) @ mix + shift
    return Features(points.astype(np.float32), (3 * rng.standard_normal((count, 10))).astype(np.float32))


SAMPLES, REFERENCE = features(0, shift=0.5), features(1, count=400)
