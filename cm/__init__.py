"""The open reproducibility suite for consistency models (Song et al., ICML 2023, arXiv 2303.01469).

import cm

model = cm.load("cifar10/cd/released~cd-lpips/seed0")                # a run, or the path of a model file
images = model.sample("multistep,times~0.8", count=64, seed=0)       # uint8 [64, 32, 32, 3]
score = cm.score(images, "results/data/cifar10/train/images.npy", "cifar10")["metrics"]
table = cm.results("results")                                        # all scores, and cm.published(): pandas
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cm.api import Model, SamplingSettings, load, published, results, score

__version__ = "0.1.0"
__all__ = ["Model", "SamplingSettings", "__version__", "load", "published", "results", "score"]


def __getattr__(name: str) -> Any:
    """The Python interface of `cm.api`, imported when it is first used: `import cm` itself imports nothing."""
    if name in __all__:
        from cm import api

        return getattr(api, name)
    raise AttributeError(f"module 'cm' has no attribute '{name}'")
