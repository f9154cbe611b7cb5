"""Training steps: images and TFLOP per second, how much of the machine's peak that is, and where the time goes.

    python benchmarks/training.py [RUN ...] [--perceptual FILE] [--batch N] [--steps N] [--precision bfloat16]
                                  [--compile] [--cuda-graphs] [--no-checkpointing] [--device cuda] [--out FILE]

By default: EDM, CD, CT and PD on Fashion-MNIST, on CIFAR-10 with the small and with the paper's network, and on
ImageNet-64, each with the settings of its experiment file; on a CPU with a small batch, and not compiled.
`--perceptual` is the file that `cm weights --name lpips-vgg16` writes; without it l2 replaces LPIPS, and the table says
so. Images, teachers and classifiers are random: the time does not depend on them.

Everything that a training holds is in memory, and each run has its own process, whose peak is measured. The FLOPs are
those of cm.cost. The machine's peak is that of a matrix product in the same process and precision, computed as in a
training (see cm.diffusion.precision). On a GPU, the parts are timed in steps of their own, since waiting for each part
costs time. With `--threads 1` on a CPU, seconds are those of the processor, which other processes disturb less.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from cm import api, build, config
from cm.checkpoints import native
from cm.config import Run, Training, Weights
from cm.cost.costs import training_parts
from cm.diffusion.distances import l2
from cm.diffusion.precision import multiply_in_float32
from cm.errors import UserError
from cm.methods.base import Batch, Networks, Objective
from cm.training import update
from cm.training.optimisers import is_update_compiled
from cm.training.plan import Plan
from cm.training.trainer import Trainer

CPU_BATCH = {"fashion_mnist": 16, "cifar10_reduced": 2, "cifar10": 1, "imagenet64": 1}
RUNS = [f"{dataset}/{method}/default/seed0" for dataset in CPU_BATCH for method in ("edm", "cd", "ct", "pd")]
PARTS = ("data", "forward", "backward", "distance", "teacher", "target", "optimiser", "EMA")
COLUMNS = ("run", "parameters", "networks", "d", "precision", "batch", "loss", "s to build")
COLUMNS += ("images/s", "TFLOP/s", "of the peak", "ms per step", *PARTS, "rest", "peak memory")


class Timers:
    """Seconds of each part of a step. Nothing is timed, and a GPU is not waited for, while `on` is false."""

    def __init__(self, device: str) -> None:
        self.cuda, self.on = torch.device(device).type == "cuda", False
        self._clock = time.perf_counter if self.cuda or torch.get_num_threads() > 1 else time.process_time
        self.seconds = dict.fromkeys(PARTS, 0.0)

    def now(self) -> float:
        """Seconds on a clock, after the device has done what it was asked to do."""
        if self.cuda:
            torch.cuda.synchronize()
        return self._clock()

    def time(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time is added to a part."""

        @functools.wraps(function)
        def timed(*arguments: Any, **settings: Any) -> Any:
            if not self.on:
                return function(*arguments, **settings)
            began = self.now()
            result = function(*arguments, **settings)
            self.seconds[part] += self.now() - began
            return result

        return timed


@contextlib.contextmanager
def time_parts(trainer: Trainer, timers: Timers) -> Iterator[None]:
    """Within this context, the parts of a step are timed. A compiled update is one part, `optimiser`."""
    networks, batches, following = trainer._networks, trainer._batches.microbatches, timers.time("data", next)

    def timed_batches(step: int) -> Iterator[Batch]:
        iterator = iter(batches(step))
        while (batch := following(iterator, None)) is not None:
            yield batch

    def timed_networks(batch: Batch) -> Networks:
        found = networks(batch)
        parts = {"student": "forward", "target": "target", "teacher": "teacher"}
        return dataclasses.replace(found, **{role: timed(part, getattr(found, role)) for role, part in parts.items()})

    def timed(part: str, network: Any) -> Any:
        return network and timers.time(part, network)

    move = update.move_towards if is_update_compiled(trainer.plan.training) else timers.time("EMA", update.move_towards)
    with (
        mock.patch.object(trainer._batches, "microbatches", timed_batches),
        mock.patch.object(trainer, "_networks", timed_networks),
        mock.patch.object(trainer, "_update", timers.time("optimiser", trainer._update)),
        mock.patch.object(update, "move_towards", move),
        mock.patch.object(Tensor, "backward", timers.time("backward", Tensor.backward)),
    ):
        yield


def random_classifier(run: Run) -> Path:
    """The file of a classifier with random weights."""
    path, description = Path(tempfile.mkdtemp()) / "100.safetensors", build.run_description(run)
    native.save(path, build.build_model(description).state_dict(), description | {"progress": 100})
    return path


def objective(run: Run, network: Run | Weights | None, options: argparse.Namespace) -> tuple[Objective, str]:
    """The objective, and the distance that it has."""
    if isinstance(network, Weights) and options.perceptual is None:
        return dataclasses.replace(run.objective, distance=l2), f"l2 (instead of {run.settings['distance']})"
    file = random_classifier(network) if isinstance(network, Run) else options.perceptual
    return build.build_objective(run, file, options.device), run.settings.get("distance", "none")


def networks(run: Run, teacher: Run | None) -> tuple[nn.Module, nn.Module | None]:
    """The student, with the weights of the teacher where it starts from them, and the teacher if it is evaluated."""
    torch.manual_seed(run.seed)
    own = build.run_description(run) | {"preconditioning": run.objective.preconditioning}
    phi = build.build_model(describe_teacher(run, teacher)) if teacher else None
    if phi is None or not run.objective.starts_from_teacher:
        return build.build_model(own), phi
    with torch.device("meta"):
        student = build.build_model(own)
    student = student.to_empty(device="cpu")
    student.load_state_dict(phi.state_dict())
    return student, phi if run.objective.evaluates_teacher else None


def describe_teacher(run: Run, teacher: Run) -> dict[str, Any]:
    """The description of a teacher with the preconditioning with which the loss of a run evaluates it."""
    description = build.run_description(teacher)
    evaluated = run.objective.teacher_preconditionings[description["preconditioning"]]
    return description | {"preconditioning": evaluated}


def settings(run: Run, options: argparse.Namespace) -> Training:
    """The settings of the training of a run, with those of the command line."""
    training = run.training
    cpu = torch.device(options.device).type == "cpu"
    usual = CPU_BATCH.get(run.dataset, 1) if cpu else training.microbatch or training.batch
    given = {"precision": options.precision, "compile": options.compile, "checkpointing": options.checkpointing}
    given = {name: value for name, value in given.items() if value is not None}
    batch, graphs = options.batch or usual, options.cuda_graphs
    return dataclasses.replace(training, batch=batch, microbatch=None, cuda_graphs=graphs, **given)


def plan(run: Run, loss: Objective, teacher: Run | None, device: str) -> Plan:
    """A training on random images."""
    network, draw, batch = run.network, np.random.default_rng(run.seed), run.training.batch
    shape = (4 * batch, network.resolution, network.resolution, network.image_channels)
    classes = getattr(network, "classes", 0)
    student, phi = networks(run, teacher)
    return Plan(
        name=run.name,
        seed=run.seed,
        objective=loss,
        training=run.training,
        noise=run.noise,
        student=student,
        images=draw.integers(0, 256, shape, np.uint8),
        labels=draw.integers(0, classes, len(shape) * batch) if classes else None,
        keep=[100],
        out=Path(tempfile.gettempdir()),
        description={},
        teacher=phi,
        device=device,
    )


def peak(device: str, precision: str) -> float:
    """FLOP per second of the fastest of ten products of two square matrices, in TF32 where convolutions are."""
    cuda = torch.device(device).type == "cuda"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    size, timers = 8192 if cuda else 2048, Timers(device)
    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, precision)) for _ in range(2))
    seconds = []
    with multiply_in_float32(torch.device(device), precision):
        for _ in range(10):
            began = timers.now()
            a @ b
            seconds.append(timers.now() - began)
    return 2 * size**3 / min(seconds)


def time_steps(trainer: Trainer, timers: Timers, count: int) -> tuple[list[float], float]:
    """The seconds of some steps, and the loss of the last."""
    seconds, loss = [], torch.zeros(())
    for _ in range(count):
        began = timers.now()
        loss, *_ = trainer.step()
        seconds.append(timers.now() - began)
    return seconds, float(loss)


def measure(name: str, experiments: config.Experiments, options: argparse.Namespace) -> dict[str, str]:
    """The cells of a row of the table, by column."""
    began, run = time.perf_counter(), experiments.run(name)
    network = experiments.perceptual(run)
    run = dataclasses.replace(run, training=settings(run, options))
    loss, distance = objective(run, network, options)
    timers = Timers(options.device)
    if hasattr(loss, "distance"):
        loss = dataclasses.replace(loss, distance=timers.time("distance", loss.distance))
    trainer = Trainer(plan(run, loss, experiments.teacher(run), options.device))
    built = time.perf_counter() - began
    with time_parts(trainer, timers):
        time_steps(trainer, timers, options.warm_up)
        timers.on = not timers.cuda
        seconds, value = time_steps(trainer, timers, options.steps)
        timers.on = True
        timed = time_steps(trainer, timers, options.steps)[0] if timers.cuda else seconds
    used = memory(options.device)  # before the products of matrices of `peak`
    cells = describe(trainer, distance) | {"loss": f"{value:.3g}", "s to build": f"{built:.1f}"}
    flops = run.training.batch * flops_per_image(run, experiments, distance)
    cells |= speeds(run.training, flops, statistics.median(seconds), peak(options.device, run.training.precision))
    return cells | part_cells(timers, timed) | {"peak memory": f"{used / 1e9:.2f} GB"}


def flops_per_image(run: Run, experiments: config.Experiments, distance: str) -> int:
    """FLOPs of a step for one image, without those of a perceptual network that l2 replaces."""
    parts = training_parts(run, experiments)
    return sum(part.total for part in parts if part.role != "distance" or "instead" not in distance)


def describe(trainer: Trainer, distance: str) -> dict[str, str]:
    """What is trained."""
    state, training = trainer.state, trainer.plan.training
    roles = {"student": state.student, "ema": state.ema, "target": state.target, "teacher": trainer.teacher}
    return {
        "run": trainer.plan.name,
        "parameters": f"{sum(parameter.numel() for parameter in state.student.parameters()):,}",
        "networks": ", ".join(role for role, network in roles.items() if network is not None),
        "d": distance,
        "precision": training.precision + ", checkpointed" * training.checkpointing + ", compiled" * training.compile,
        "batch": str(training.batch),
    }


def speeds(training: Training, flops: int, seconds: float, limit: float) -> dict[str, str]:
    """Images per second, and FLOP per second, also as a fraction of their peak."""
    rate = flops / seconds
    return {
        "images/s": f"{training.batch / seconds:.3g}",
        "TFLOP/s": f"{rate / 1e12:.3g}",
        "of the peak": f"{100 * rate / limit:.0f} % of {limit / 1e12:.3g}",
        "ms per step": f"{1e3 * seconds:.4g}",
    }


def part_cells(timers: Timers, seconds: list[float]) -> dict[str, str]:
    """Milliseconds of each part of a step, and of what is left: drawing noise, and the arithmetic of the loss."""
    parts = {name: total / len(seconds) for name, total in timers.seconds.items()}
    parts["optimiser"] -= parts["EMA"]
    parts["rest"] = max(0.0, statistics.mean(seconds) - sum(parts.values()))
    return {name: f"{1e3 * value:.3g}" for name, value in parts.items()}


def memory(device: str) -> float:
    """The most bytes that this process has held on the device."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_process(name: str) -> str:
    """The row of a run, measured in a process of its own; why not, if that ends badly."""
    done = subprocess.run([sys.executable, *sys.argv, "--measure", name], capture_output=True, text=True)
    if done.returncode == 0:
        return done.stdout.splitlines()[-1]
    reason = (done.stderr.splitlines() or ["killed"])[-1]
    return f"| {name} | skipped: {reason} |{' |' * (len(COLUMNS) - 2)}"


def parse_options() -> argparse.Namespace:
    """The command line, with the defaults of the device."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", metavar="RUN")
    parser.add_argument("--experiments", type=Path, default=config.EXPERIMENTS)
    parser.add_argument("--perceptual", type=Path, help="model file of the pretrained perceptual network")
    parser.add_argument("--batch", type=int, help="images of a step")
    parser.add_argument("--steps", type=int, help="measured steps (3, on a GPU 20)")
    parser.add_argument("--warm-up", type=int, help="steps before (1, on a GPU 5)")
    parser.add_argument("--precision", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction)
    parser.add_argument("--cuda-graphs", action="store_true")
    parser.add_argument("--checkpointing", action=argparse.BooleanOptionalAction)
    parser.add_argument("--device", help="by default a GPU if there is one")
    parser.add_argument("--threads", type=int, help="processor threads that torch may use")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.device = api.select_device(options.device)
    cuda = torch.device(options.device).type == "cuda"
    options.compile = False if options.compile is None and not cuda else options.compile
    options.steps = options.steps or (20 if cuda else 3)
    options.warm_up = (5 if cuda else 1) if options.warm_up is None else options.warm_up
    torch.set_num_threads(options.threads or torch.get_num_threads())
    return options


def main() -> None:
    """Measure and print or write a Markdown table."""
    options = parse_options()
    if options.measure:
        cells = measure(options.measure, config.Experiments(options.experiments), options)
        print(f"| {' | '.join(cells[column] for column in COLUMNS)} |")
        return
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    print("\n".join(lines), flush=True)
    for name in options.runs or RUNS:
        lines.append(in_process(name))
        print(lines[-1], flush=True)
    cuda = torch.device(options.device).type == "cuda"
    machine = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    lines.append(f"\nMedian of {options.steps} steps after {options.warm_up}; parts in ms. {machine}, ")
    lines[-1] += f"torch {torch.__version__}, Python {platform.python_version()}. 1 GB is 10^9 bytes."
    print(lines[-1])
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
