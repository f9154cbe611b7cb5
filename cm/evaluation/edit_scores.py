"""The scores of an edit: its results and those of simple baselines, compared with originals and as sets of images."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cm.config import Protocol
from cm.diffusion.operators import Operator
from cm.diffusion.perceptual import PerceptualDistance
from cm.evaluation import metrics
from cm.evaluation.editing import EditedBatch
from cm.evaluation.features import Compute
from cm.evaluation.scoring import MakeExtractor, score_images
from cm.evaluation.similarity import Similarity
from cm.utils import files

MODEL = "model"  # the name of the results of the model among those of the baselines
METRICS = ("fid",)  # of the set of results


def write_results(batches: Iterable[EditedBatch], count: int, folder: Path) -> tuple[dict[str, Path], Path]:
    """Write the results of each method, and the originals, to .npy files in a folder: from method to path, and theirs.

    `count`: the number of images.
    """
    paths: dict[str, Path] = {}
    with contextlib.ExitStack() as stack:
        arrays: dict[str, np.ndarray] = {}
        start = 0
        for batch in batches:
            methods = {MODEL: batch.edited[0], **batch.baselines, "": batch.original}
            for number, (name, images) in enumerate(methods.items()):
                if name not in arrays:
                    paths[name] = folder / f"{number}.npy"
                    shape = (count, *images.shape[1:])
                    arrays[name] = stack.enter_context(files.create_array(paths[name], shape))
                arrays[name][start : start + len(images)] = images
            start += len(batch.original)
    return {name: path for name, path in paths.items() if name}, paths[""]


@dataclasses.dataclass(frozen=True)
class Scorer:
    """How edits are scored. `distance`: the perceptual distance to originals. `reference`: real images for the FID."""

    operator: Operator
    distance: PerceptualDistance | None
    reference: Path
    protocol: Protocol
    make_extractor: MakeExtractor
    compute: Compute

    def score(self, results: dict[str, Path], originals: Path) -> dict[str, Any]:
        """The part of a score that is of images: `methods`, from method to its numbers, and what they depend on.

        `results`: from method to its images; `originals`: theirs, in the same order. UserError as of `score_images`.
        """
        methods, shared = {}, {}
        for name, path in results.items():
            found = score_images(
                path,
                self.reference,
                protocol=dataclasses.replace(self.protocol, metrics=METRICS),
                make_extractor=self.make_extractor,
                compute=self.compute,
            )
            intervals = {metric: found["uncertainty"].get(metric, {}) for metric in METRICS}
            methods[name] = {**self._compare(path, originals), **found["metrics"], "uncertainty": intervals}
            shared = {key: found[key] for key in ("extractor", "reference", "extraction", "versions", "commit")}
        return {"methods": methods, "protocol": self.protocol.settings(), **shared}

    def check(self, count: int, what: str) -> None:
        """UserError if `count` images are too few for the FID. `what`: where the images are."""
        metrics.check_enough_images(count, what, METRICS)

    def _compare(self, edited: Path, originals: Path) -> dict[str, float | None]:
        similarity = Similarity(self.operator, self.distance)
        pair = np.load(edited, mmap_mode="r"), np.load(originals, mmap_mode="r")
        for start in range(0, len(pair[0]), self.compute.batch):
            part = slice(start, start + self.compute.batch)
            similarity.add(np.array(pair[0][part]), np.array(pair[1][part]))
        return similarity.summary()
