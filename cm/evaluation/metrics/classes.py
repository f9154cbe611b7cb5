"""The Inception Score, which is computed from the logits of the samples alone."""

from __future__ import annotations

import numpy as np

from cm.errors import UserError
from cm.evaluation.metrics.base import NO_LOGITS, metric
from cm.evaluation.moments import Features


@metric("inception_score", title="IS", lower_is_better=False, fewest=10, needs="logits")
def inception_score(samples: Features, reference: Features, splits: int = 10) -> float:
    """exp(E_x KL(p(y|x) || p(y))), mean over `splits` parts of the samples in their order (Salimans et al. 2016).

    Raises UserError for fewer samples than parts, and for samples without logits.
    """
    if samples.logits is None:
        raise UserError(f"the Inception Score is unavailable: {NO_LOGITS}")
    if len(samples.logits) < splits:
        raise UserError(f"the Inception Score needs at least {splits} images, not {len(samples.logits)}")
    parts = np.array_split(_log_softmax(samples.logits), splits)
    return float(np.mean([np.exp(_mean_divergence(log_p)) for log_p in parts]))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def _mean_divergence(log_p: np.ndarray) -> float:
    """The mean over images of KL(p(y|x) || p(y)), from log p(y|x) [N, K]."""
    p = np.exp(log_p)
    return (p * (log_p - np.log(p.mean(0)))).sum(1).mean()
