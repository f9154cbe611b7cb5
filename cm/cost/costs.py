"""What trainings and samples cost: images and FLOPs.

    FLOPs of a training = total steps x batch x sum over its networks of (forward passes x FLOPs of a forward pass)

A backward pass counts as two forward passes, and recomputed activations as one more. So does the derivative in forward
mode, and the backward pass through it as two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from cm.config import Cell, Experiments, Run, Suite, Weights, is_searched, parse_sampler, write_sampler
from cm.cost import backbones, counting
from cm.cost.evaluations import count_evaluations
from cm.evaluation.ternary import most_evaluations

BACKWARD = 2  # the gradients to a layer's input and to its weights each cost what its forward pass does


@dataclasses.dataclass(frozen=True)
class Part:
    """A network in a training step: its `evaluations` cost as much as `passes` forward passes, each of `flops`.

    All numbers are per image.
    """

    role: str
    evaluations: int
    passes: int
    flops: int

    @property
    def total(self) -> int:
        """FLOPs per image."""
        return self.passes * self.flops


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of `count` trainings that differ in their seed, each on `images` images."""

    name: str
    dataset: str
    count: int
    parameters: int
    images: int
    flops_per_image: int
    released: bool

    @property
    def flops(self) -> int:
        """FLOPs of all these trainings together."""
        return self.count * self.images * self.flops_per_image


@dataclasses.dataclass(frozen=True)
class Sampling:
    """The cost of `sets` of samples, `images` and `flops` of all sets together."""

    dataset: str
    sets: int
    images: int
    flops: int


def training_parts(run: Run, experiments: Experiments) -> list[Part]:
    """The networks that a training step evaluates; none for a released run, which is not trained."""
    if run.released:
        return []
    counts, teacher = count_evaluations(run), experiments.teacher(run)
    own, recomputed = counting.flops(run), int(run.training.checkpointing)
    passes = counts.student * (1 + recomputed + BACKWARD + _derivative_passes(run.objective)) + counts.frozen
    parts = [
        Part("student", counts.student + counts.frozen, passes, own),
        Part("target", counts.target, counts.target, own),
    ]
    if teacher and counts.teacher:
        parts.append(Part("teacher", counts.teacher, counts.teacher, counting.flops(teacher)))
    if perceptual := experiments.perceptual(run):
        parts.append(_distance_part(counts.distance, run, perceptual))
    return [part for part in parts if part.evaluations]


def _derivative_passes(objective: Any) -> int:
    """What the derivative in forward mode costs that is computed with an evaluation of the student."""
    return objective.differentiates_forward + objective.differentiates_derivative * BACKWARD


def _distance_part(calls: int, run: Run, network: Run | Weights) -> Part:
    """Features of two images, and the gradient to one of them; the network itself is not trained."""
    if isinstance(network, Weights):
        size = run.objective.distance.compared_size(run.network.resolution)
        flops = backbones.flops(network.name, size)
    else:
        flops = counting.maps_flops(network)
    return Part("distance", 2 * calls, 3 * calls, flops)


def distance_parameters(run: Run, experiments: Experiments) -> int:
    """The number of weights of the network of a perceptual distance, 0 for a run without one."""
    network = experiments.perceptual(run)
    if network is None:
        return 0
    return backbones.parameters(network.name) if isinstance(network, Weights) else counting.parameters(network)


def training_flops(run: Run, experiments: Experiments) -> int:
    """FLOPs of one image of a training, 0 for a released run."""
    return sum(part.total for part in training_parts(run, experiments))


def training_costs(runs: Iterable[Run], experiments: Experiments) -> list[Cost]:
    """The cost of each training, by data set and method; trainings that differ only in the seed count together."""
    groups: dict[str, list[Run]] = {}
    for run in _sort_runs(list(runs)):
        groups.setdefault(run.identity.without_seed, []).append(run)
    return [_training_cost(name, group, experiments) for name, group in groups.items()]


def _sort_runs(runs: Sequence[Run]) -> list[Run]:
    """Runs by data set, then by method, both in the order in which they first occur."""
    datasets = list(dict.fromkeys(run.dataset for run in runs))
    methods = list(dict.fromkeys(run.method for run in runs))
    return sorted(runs, key=lambda run: (datasets.index(run.dataset), methods.index(run.method)))


def _training_cost(name: str, runs: Sequence[Run], experiments: Experiments) -> Cost:
    first = runs[0]
    return Cost(
        name=name,
        dataset=first.dataset,
        count=len(runs),
        parameters=counting.parameters(first),
        images=0 if first.released else first.training.images,
        flops_per_image=training_flops(first, experiments),
        released=first.released is not None,
    )


def suite_costs(suite: Suite) -> tuple[list[Cost], list[Sampling]]:
    """The costs of every training and of every set of samples that drawing all artefacts of a suite needs."""
    experiments = suite.experiments
    return training_costs(suite.required_runs(), experiments), sampling_costs(suite.required_cells(), experiments)


def sampling_costs(cells: Iterable[Cell], experiments: Experiments) -> list[Sampling]:
    """The cost of the samples of these cells, and of the searches for their time points, by data set."""
    found: dict[str, Sampling] = {}
    for (run, _, edit), evaluations in _sets_of_samples(cells).items():
        count = run.evaluation.edited_images if edit else experiments.sample_count(run)
        images = count * len(evaluations)
        flops = count * sum(evaluations) * counting.flops(run)
        before = found.get(run.dataset, Sampling(run.dataset, 0, 0, 0))
        sets = before.sets + len(evaluations)
        found[run.dataset] = Sampling(run.dataset, sets, before.images + images, before.flops + flops)
    return list(found.values())


def _sets_of_samples(cells: Iterable[Cell]) -> dict[tuple[Run, str, str], list[int]]:
    """The NFE of each set of samples that these cells need, by run, by what the set is made for, and by its edit.

    A search makes a set for each time point that it tries, at most as many as `most_evaluations` of one minimum.
    """
    found: dict[tuple[Run, str, str], list[int]] = {}
    for cell in cells:
        found[cell.run, f"{cell.samples[1]}/{cell.sampler}", cell.edit] = [cell.evaluations]
        sampler = None if cell.edit else parse_sampler(cell.sampler)
        while sampler is not None and is_searched(sampler):
            tries = most_evaluations(sampler.points)
            found[cell.run, f"{cell.samples[1]}/{write_sampler(sampler)}, search", ""] = [sampler.evaluations] * tries
            sampler = sampler.previous
    return found
