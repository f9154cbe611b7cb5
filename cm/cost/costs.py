"""What a training, and the samples of a suite, cost in images and FLOPs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from cm import registry
from cm.config import Cell, Experiments, Run, Suite, Weights, parse_sampler
from cm.cost import backbones, counting
from cm.cost.evaluations import evaluations

BACKWARD = 2  # the gradients to a layer's input and to its weights each cost what its forward pass does
LPIPS_SIZE = 224  # smaller images than 256 pixels are compared at this size


@dataclasses.dataclass(frozen=True)
class Part:
    """A network in an iteration: its `evaluations`, which cost `passes` times a forward pass of `flops` an image."""

    role: str
    evaluations: int
    passes: int
    flops: int

    @property
    def total(self) -> int:
        """FLOPs an image."""
        return self.passes * self.flops


@dataclasses.dataclass(frozen=True)
class Cost:
    """`count` trainings that differ in their seed, each of so many `images` and FLOPs an image."""

    name: str
    count: int
    parameters: int
    images: int
    per_image: int
    released: bool

    @property
    def dataset(self) -> str:
        """The first part of the name."""
        return self.name.partition("/")[0]

    @property
    def flops(self) -> int:
        """Of all of them."""
        return self.count * self.images * self.per_image


@dataclasses.dataclass(frozen=True)
class Sampling:
    """`sets` of samples, of so many `images` and FLOPs in all."""

    dataset: str
    sets: int
    images: int
    flops: int


def parts(run: Run, experiments: Experiments) -> list[Part]:
    """What one image of an iteration evaluates; empty for a run that is released, and so not trained."""
    if run.released:
        return []
    counts, others = evaluations(run), experiments.inputs(run)
    own, again = counting.flops(run), int(run.training.checkpointing)
    student = counts.student * (1 + again + BACKWARD) + counts.frozen
    found = [Part("student", counts.student + counts.frozen, student, own), Part("target", *[counts.target] * 2, own)]
    if counts.teacher:
        found.append(Part("teacher", *[counts.teacher] * 2, counting.flops(others["teacher"])))
    if "perceptual" in others:
        found.append(_distance(counts.distance, run, others["perceptual"]))
    return [part for part in found if part.evaluations]


def _distance(calls: int, run: Run, network: Run | Weights) -> Part:
    """Features of two images, and the gradient to one of them: the network itself is not trained."""
    if isinstance(network, Weights):
        size = run.network.resolution
        flops = backbones.flops(network.name, LPIPS_SIZE if size < 256 else size)
    else:
        flops = counting.maps_flops(network)
    return Part("distance", 2 * calls, 3 * calls, flops)


def trainings(runs: Iterable[Run], experiments: Experiments) -> list[Cost]:
    """The cost of each training, those that differ in the seed only together; by data set and method."""
    groups: dict[str, list[Run]] = {}
    for run in _ordered(list(runs)):
        groups.setdefault(run.name.rpartition("/")[0], []).append(run)
    return [_cost(name, group, experiments) for name, group in groups.items()]


def _ordered(runs: Sequence[Run]) -> list[Run]:
    """By data set, then method, both in the order in which they first come."""
    datasets = list(dict.fromkeys(run.dataset for run in runs))
    methods = list(dict.fromkeys(run.method for run in runs))
    return sorted(runs, key=lambda run: (datasets.index(run.dataset), methods.index(run.method)))


def _cost(name: str, runs: list[Run], experiments: Experiments) -> Cost:
    training = runs[0].training
    images = 0 if runs[0].released else training.total_steps * training.batch
    per_image = sum(part.total for part in parts(runs[0], experiments))
    return Cost(name, len(runs), counting.parameters(runs[0]), images, per_image, runs[0].released is not None)


def of_suite(suite: Suite) -> tuple[list[Cost], list[Sampling]]:
    """Every training and every set of samples that drawing all artefacts of a suite needs."""
    cells = _needed(suite)
    extractors = (suite.experiments.run_or_weights(cell.protocol.extractor) for cell in cells)
    runs = [*(cell.run for cell in cells), *(one for one in extractors if isinstance(one, Run))]
    return trainings(suite.experiments.with_inputs(runs), suite.experiments), samplings(cells, suite.experiments)


def _needed(suite: Suite) -> list[Cell]:
    """The cells that artefacts read files of, each model and sampler once."""
    drawn = [one for one in suite.all_artefacts.values() if registry.get("artefact", one.kind).needs != "nothing"]
    cells = [cell for one in drawn for cell in suite.cells(one)]
    return list({cell.samples: cell for cell in cells}.values())


def samplings(cells: Iterable[Cell], experiments: Experiments) -> list[Sampling]:
    """The samples of these cells by data set."""
    found: dict[str, Sampling] = {}
    for cell in cells:
        images = experiments.sample_count(cell.run)
        flops = images * parse_sampler(cell.sampler).evaluations * counting.flops(cell.run)
        old = found.get(cell.run.dataset, Sampling(cell.run.dataset, 0, 0, 0))
        found[old.dataset] = Sampling(old.dataset, old.sets + 1, old.images + images, old.flops + flops)
    return list(found.values())
