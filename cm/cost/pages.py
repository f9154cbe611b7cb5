"""The descriptions of a run and of a suite, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cm.config import Experiments, Run, Suite, sampler_name, sampler_of
from cm.cost import costs, counting
from cm.cost.costs import Cost, Part, Sampling
from cm.cost.text import hours, scientific, si, table

OPTIMISER_BUFFERS = 2  # the two moments of Adam and RAdam
HEADER = ("run", "seeds", "parameters", "images each", "FLOPs an image", "FLOPs", "GPU hours")


def of_run(run: Run, experiments: Experiments, *, batch: int, rate: float) -> str:
    """A network and its training: weights, memory of a step of `batch` images, and cost at `rate` FLOPs a second."""
    blocks = [run.name, table(_network(run), left=2)]
    if not run.released:
        others = experiments.with_inputs([run])
        parts = costs.parts(run, experiments)
        blocks += [f"Memory of a training step, batch {batch:,} (the run has {run.training.batch:,})"]
        blocks += [table(_memory(run, experiments, parts, batch))]
        blocks += ["One image of training", table(_image(parts))]
        blocks += ["The whole run and those it starts from", _costs(costs.trainings(others, experiments), [], rate)]
    return "\n\n".join([*blocks, _notes(rate)])


def of_suite(suite: Suite, *, rate: float) -> str:
    """Every training of a suite, its sampling, and the sum, at `rate` FLOPs a second."""
    trainings, samplings = costs.of_suite(suite)
    trained = sum(cost.count for cost in trainings if not cost.released)
    released = sum(cost.count for cost in trainings if cost.released)
    title = f"suite {suite.name}: {trained:,} trainings, {released:,} released checkpoints"
    return "\n\n".join([title, _costs(trainings, samplings, rate), _notes(rate)])


def _network(run: Run) -> list[tuple[str, ...]]:
    network, count, one = run.network, counting.parameters(run), counting.flops(run)
    size, name = network.resolution, run.describe()["network"]["name"]
    rows = [("network", f"{name}, images of {network.image_channels} x {size} x {size}")]
    rows += [("parameters", f"{si(count)} ({count:,})"), ("forward pass", f"{si(one, 'FLOPs')} an image")]
    if sampler := sampler_of(run):
        what = f"{sampler_name(run, run.links.sampler)}: {sampler.evaluations} x {si(one, 'FLOPs')}"
        rows.append(("sampling", f"{what} = {si(sampler.evaluations * one, 'FLOPs')} an image"))
    return [*rows, ("weights", f"released: {run.released.url}")] if run.released else rows


def _memory(run: Run, experiments: Experiments, parts: Sequence[Part], batch: int) -> list[tuple[str, str]]:
    training, weights = run.training, 4 * counting.parameters(run)
    sizes = {"student": weights, "its gradients": weights, training.optimiser: OPTIMISER_BUFFERS * weights}
    sizes["average (ema)"] = weights
    if any(part.role == "target" for part in parts):
        sizes["target"] = weights
    if teacher := experiments.teacher(run):
        sizes["teacher"] = 4 * counting.parameters(teacher)
    sizes["sum"] = sum(sizes.values())
    return [(name, si(size, "B")) for name, size in sizes.items()] + [(), *_activations(run, batch)]


def _activations(run: Run, batch: int) -> Iterator[tuple[str, str]]:
    """What the student's forward pass keeps, in float32 and as the run has it."""
    training = run.training
    kept = {"float32": {}}
    if training.precision != "float32":
        kept[training.precision] = {"precision": training.precision}
    if training.checkpointing:
        kept[f"{training.precision}, checkpointed"] = {"precision": training.precision, "checkpointed": True}
    for name, how in kept.items():
        yield f"student's activations, {name}", si(counting.activations(run, batch=batch, **how), "B")
    if training.precision != "float32":
        yield f"weights in {training.precision}", si(2 * counting.parameters(run), "B")


def _image(parts: Sequence[Part]) -> list[tuple[str, ...]]:
    rows = [
        (part.role, str(part.evaluations), str(part.passes), si(part.flops, "FLOPs"), si(part.total, "FLOPs"))
        for part in parts
    ]
    total = sum(part.total for part in parts)
    return [("", "evaluations", "forward passes", "of", "FLOPs"), *rows, ("sum", "", "", "", si(total, "FLOPs"))]


def _costs(trainings: Sequence[Cost], samplings: Sequence[Sampling], rate: float) -> str:
    """A row for each training and for the samples of each data set; then the sum of each data set, and of all."""
    trained = [(cost, _training_row(cost)) for cost in trainings]
    sampled = [(cost, _sampling_row(cost)) for cost in samplings]
    rows = [HEADER, *(_with_flops(row, cost.flops, rate) for cost, row in (*trained, *sampled))]
    sums: dict[str, int] = {}
    for cost in (*trainings, *samplings):
        sums[cost.dataset] = sums.get(cost.dataset, 0) + cost.flops
    rows += [(), *(_with_flops((f"all of {name}",), flops, rate) for name, flops in sums.items() if len(sums) > 1)]
    return table([*rows, _with_flops(("sum",), sum(sums.values()), rate)])


def _training_row(cost: Cost) -> tuple[str, ...]:
    about = cost.name, f"{cost.count:,}", si(cost.parameters)
    return (*about, "released") if cost.released else (*about, si(cost.images), si(cost.per_image))


def _sampling_row(cost: Sampling) -> tuple[str, ...]:
    name = f"sampling {cost.dataset}, {cost.sets:,} times"
    return name, "", "", si(cost.images / cost.sets), si(cost.flops / cost.images)


def _with_flops(row: Sequence[str], flops: int, rate: float) -> tuple[str, ...]:
    gap = [""] * (len(HEADER) - 2 - len(row))
    return (*row, *gap, scientific(flops), hours(flops / rate))


def _notes(rate: float) -> str:
    return (
        "A multiply-add counts as two FLOPs, a backward pass as two forward passes; only networks are counted.\n"
        f"GPU hours assume that one GPU reaches {rate / 1e12:g} TFLOPS (--teraflops): measure yours.\n"
        "Left out: preparing data, and features and metrics of the samples."
    )
