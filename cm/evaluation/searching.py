"""The greedy search for the time points of multistep sampling (paper, Section 3, below Algorithm 1).

    tau_1 = argmin FID(tau_1),   tau_2 = argmin FID(tau_1, tau_2) over tau_2 < tau_1,   and so on

each by a ternary search over times of the noise grid (`cm.evaluation.ternary`). Samples are made, quantized and scored
as for the final score, from the same noise for all time points, so that the FID of the chosen points is that score. The
reference is computed once. Samples and features are mapped to files, so memory does not grow with their number.

Every FID is written to a file at once, and a search that was interrupted continues with those.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cm.config.searches import Evaluation, PointSearch, Violation, check_point
from cm.config.variants import write_value
from cm.diffusion.noise import KarrasNoise
from cm.diffusion.samplers import Search
from cm.errors import UserError
from cm.evaluation import features, imagesets, metrics, ternary, uncertainty
from cm.evaluation.features import Compute
from cm.evaluation.scoring import Target
from cm.utils import files

Times = tuple[float, ...]
Evaluate = Callable[[Times], Evaluation]


class MakeSamples(Protocol):
    """Writes samples with given time points, uint8 [N, H, W, C], to an array."""

    def __call__(self, times: Times, out: np.ndarray, /) -> object:
        """Fill `out`."""
        ...


@dataclasses.dataclass(frozen=True)
class Measurement:
    """How the FID of time points is measured.

    `make_samples`: fills an array with the samples. `shape`: [N, H, W, C] of the samples. `target`: what they are
    compared with. `folder`: where samples and features are while they are scored.
    """

    make_samples: MakeSamples
    shape: tuple[int, int, int, int]
    target: Target
    compute: Compute
    folder: Path

    def __call__(self, times: Times) -> Evaluation:
        """The FID and its interval with these time points, of which the last is the one that is searched."""
        samples, mapped = self.folder / "samples.npy", self.folder / "features.npy"
        with files.create_array(samples, self.shape) as out:
            self.make_samples(times, out)
        images = imagesets.open_images(samples)
        found = features.extract_to_file(mapped, self.target.extractor, images, self.compute)
        fid = metrics.fid(found, self.target.features)
        low, high = uncertainty.interval(found, self.target.features)
        return Evaluation(times[-1], fid, low, high)


class Record:
    """The evaluations of a search so far, in a JSON file that is written anew after each.

    `about`: what they depend on; evaluations of anything else in the file do not count.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path, self._about = path, json.loads(json.dumps(about))
        self._known = self._read()

    def keep(self, evaluate: Evaluate) -> Evaluate:
        """The function, which does not compute again what the record has, and adds what it computes."""

        def remember(times: Times) -> Evaluation:
            key = write_value(times)
            if key not in self._known:
                self._known[key] = evaluate(times)
                known = {name: dataclasses.asdict(found) for name, found in self._known.items()}
                files.write_json(self.path, {"about": self._about, "evaluations": known})
            return self._known[key]

        return remember

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Evaluation]:
        if not self.path.exists():
            return {}
        content = files.read_json(self.path)
        if not isinstance(content, dict) or content.get("about") != self._about:
            return {}
        known = content.get("evaluations")
        if not isinstance(known, dict):
            raise UserError(f"{self.path} has no evaluations: remove it")
        return {key: check_point(value, f"{self.path}, {key}") for key, value in known.items()}


def search(evaluate: Evaluate, sampler: Search, noise: KarrasNoise, done: Sequence[PointSearch]) -> list[PointSearch]:
    """The searches for all time points of a sampler, of which the first ones may be `done`.

    `evaluate`: the FID with some time points, of which the last is searched. The search ends early at the lower end of
    its interval, after which no time is left. Raises UserError, before anything is evaluated, for an empty interval.
    """
    found = list(done)
    while len(found) < sampler.steps - 1:
        fixed = tuple(one.time for one in found)
        candidates = sampler.candidates(noise, fixed)
        if not candidates:
            break
        found.append(search_point(evaluate, candidates, fixed))
    return found


def search_point(evaluate: Evaluate, candidates: Sequence[float], fixed: Times) -> PointSearch:
    """The search for the time point among `candidates`, which decrease, after the points `fixed`."""
    known: dict[int, Evaluation] = {}

    def fid(place: int) -> float:
        known[place] = evaluate((*fixed, candidates[place]))
        return known[place].fid

    best = ternary.minimize(fid, len(candidates))
    pairs = ternary.violations({place: found.fid for place, found in known.items()})
    return PointSearch(
        fixed=fixed,
        candidates=len(candidates),
        time=candidates[best],
        at_end=best in (0, len(candidates) - 1),
        evaluations=tuple(known[place] for place in sorted(known)),
        violations=tuple(_describe_violation(known[near], known[far]) for near, far in pairs),
    )


def _describe_violation(near: Evaluation, far: Evaluation) -> Violation:
    overlap = near.low <= far.high and far.low <= near.high
    return Violation(near.time, far.time, near.fid - far.fid, overlap)
