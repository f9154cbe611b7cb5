"""The descriptions of a run and of a suite, as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cm.config import Experiments, Run, Suite, sampler_name, sampler_of
from cm.cost import costs, counting
from cm.cost.costs import Cost, Part, Sampling
from cm.cost.requests import Plan, describe_plan
from cm.cost.text import Row, hours, scientific, si, table

FLOAT32 = 4  # bytes
HALF = 2  # bytes of a float16 or bfloat16
OPTIMISER_BUFFERS = 2  # the two moments of Adam and RAdam
HEADER = ("run", "seeds", "parameters", "images each", "FLOPs per image", "FLOPs", "GPU hours")


def describe_run(run: Run, experiments: Experiments, *, batch: int, rate: float) -> str:
    """A network and its training: weights, memory of a step of `batch` images, cost at `rate` FLOPs per second."""
    blocks = [run.name, table(_describe_network(run), left=2)]
    if not run.released:
        parts = costs.training_parts(run, experiments)
        trainings = costs.training_costs(experiments.with_inputs([run]), experiments)
        blocks += [
            f"Memory of a training step, batch {batch:,} (the run has {run.training.batch:,})",
            table([*_list_memory(run, experiments, parts), (), *_list_activations(run, batch)]),
            "One image of training",
            table(_list_parts(parts)),
            "The whole run and those it starts from",
            _list_costs(trainings, [], rate),
        ]
    return "\n\n".join([*blocks, _notes(rate)])


def describe_suite(suite: Suite, *, rate: float, plan: Plan | None = None) -> str:
    """Every training of a suite, its sampling, and the sum, at `rate` FLOPs per second; then the requests of a plan."""
    trainings, samplings = costs.suite_costs(suite)
    trained = sum(cost.count for cost in trainings if not cost.released)
    released = sum(cost.count for cost in trainings if cost.released)
    title = f"suite {suite.name}: {trained:,} trainings, {released:,} released checkpoints"
    blocks = [title, _list_costs(trainings, samplings, rate), _notes(rate)]
    if plan:
        flops = sum(_sum_by_dataset([*trainings, *samplings]).values())
        blocks.append(describe_plan(plan, estimate=flops / rate))
    return "\n\n".join(blocks)


# ---- a run ----------------------------------------------------------------------------------------------------------


def _describe_network(run: Run) -> list[Row]:
    network, parameters, forward = run.network, counting.parameters(run), counting.flops(run)
    size, name = network.resolution, run.describe()["network"]["name"]
    rows: list[Row] = [
        ("network", f"{name}, images of {network.image_channels} x {size} x {size}"),
        ("parameters", f"{si(parameters)} ({parameters:,})"),
        ("forward pass", f"{si(forward, 'FLOPs')} per image"),
    ]
    sampler = sampler_of(run)
    if sampler and run.links.sampler:
        count, called = sampler.evaluations, sampler_name(run, run.links.sampler)
        rows.append(
            ("sampling", f"{called}: {count} x {si(forward, 'FLOPs')} = {si(count * forward, 'FLOPs')} per image")
        )
    if run.released:
        rows.append(("weights", f"released: {run.released.url}"))
    return rows


def _list_memory(run: Run, experiments: Experiments, parts: Sequence[Part]) -> list[Row]:
    """Bytes of everything that a training step holds in memory, without activations."""
    weights = FLOAT32 * counting.parameters(run)
    sizes = {"student": weights, "its gradients": weights, run.training.optimiser: OPTIMISER_BUFFERS * weights}
    sizes["averaged weights (EMA)"] = len(run.training.ema_decay) * weights
    roles = {part.role for part in parts}
    if "target" in roles:
        sizes["target"] = weights
    teacher = experiments.teacher(run)
    if teacher and "teacher" in roles:
        sizes["teacher"] = FLOAT32 * counting.parameters(teacher)
    if compared := costs.distance_parameters(run, experiments):
        sizes["network of the distance"] = (
            FLOAT32 if run.objective.distance.precision == "float32" else HALF
        ) * compared
    sizes["sum"] = sum(sizes.values())
    return [(name, si(size, "B")) for name, size in sizes.items()]


def _list_activations(run: Run, batch: int) -> Iterator[Row]:
    """Bytes of the activations of the student, in float32 and as the run computes them."""
    precision = run.training.precision
    yield "student's activations, float32", si(counting.activations(run, batch=batch), "B")
    if precision != "float32":
        size = counting.activations(run, batch=batch, precision=precision)
        yield f"student's activations, {precision}", si(size, "B")
    if run.training.checkpointing:
        size = counting.activations(run, batch=batch, precision=precision, checkpointed=True)
        yield f"student's activations, {precision}, checkpointed", si(size, "B")
    if precision != "float32":
        yield f"weights in {precision}", si(HALF * counting.parameters(run), "B")


def _list_parts(parts: Sequence[Part]) -> list[Row]:
    rows: list[Row] = [("", "evaluations", "forward passes", "of", "FLOPs")]
    for part in parts:
        counts = (str(part.evaluations), str(part.passes))
        rows.append((part.role, *counts, si(part.flops, "FLOPs"), si(part.total, "FLOPs")))
    total = sum(part.total for part in parts)
    return [*rows, ("sum", "", "", "", si(total, "FLOPs"))]


# ---- costs ----------------------------------------------------------------------------------------------------------


def _list_costs(trainings: Sequence[Cost], samplings: Sequence[Sampling], rate: float) -> str:
    """A row for each training and for the samples of each data set; then the sum of each data set, and of all."""
    rows: list[Row] = [HEADER]
    rows += [_add_flops(_training_row(cost), cost.flops, rate) for cost in trainings]
    rows += [_add_flops(_sampling_row(cost), cost.flops, rate) for cost in samplings]
    sums = _sum_by_dataset([*trainings, *samplings])
    rows.append(())
    if len(sums) > 1:
        rows += [_add_flops((f"all of {name}",), flops, rate) for name, flops in sums.items()]
    return table([*rows, _add_flops(("sum",), sum(sums.values()), rate)])


def _sum_by_dataset(found: Iterable[Cost | Sampling]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for cost in found:
        sums[cost.dataset] = sums.get(cost.dataset, 0) + cost.flops
    return sums


def _training_row(cost: Cost) -> Row:
    row = (cost.name, f"{cost.count:,}", si(cost.parameters))
    return (*row, "released") if cost.released else (*row, si(cost.images), si(cost.flops_per_image))


def _sampling_row(cost: Sampling) -> Row:
    name = f"sampling {cost.dataset}, {cost.sets:,} times"
    return name, "", "", si(cost.images / cost.sets), si(cost.flops / cost.images)


def _add_flops(row: Row, flops: int, rate: float) -> Row:
    """The row with its last two columns, FLOPs and GPU hours."""
    gap = [""] * (len(HEADER) - 2 - len(row))
    return (*row, *gap, scientific(flops), hours(flops / rate))


def _notes(rate: float) -> str:
    return (
        "A multiply-add counts as two FLOPs, a backward pass as two forward passes; only networks are counted.\n"
        f"GPU hours assume that one GPU reaches {rate / 1e12:g} TFLOPS (--teraflops): measure yours.\n"
        "Not included: preparing data, and the features and metrics of the samples."
    )
