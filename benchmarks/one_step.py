"""One optimisation step at batch 1, with everything a training holds in memory: seconds and peak memory of each run.

    python benchmarks/one_step.py [RUN ...] [--perceptual FILE] [--precision float32] [--out benchmarks/one_step.md]

Student, target, ema, teacher and optimiser are in memory at full size; activations are checkpointed. Images and the
teacher's weights are random. Without the weights of a perceptual distance, l2 replaces it, and the table says
so. By default: every method of the paper suite on every data set, in its default variant. Each run has its own
process, whose peak is measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cm import build, config
from cm.config import Run
from cm.diffusion.distances import l2
from cm.methods.base import Objective
from cm.training.plan import Plan
from cm.training.trainer import Trainer

SUITE = Path("config/suites/paper.yaml")
COLUMNS = ("run", "parameters", "networks", "distance", "loss", "s to build", "s of the step", "peak memory")


def default_runs() -> list[str]:
    """One run of each method and data set of the paper suite."""
    suite = config.load_suite(SUITE)
    cells = itertools.chain.from_iterable(suite.cells(artefact) for artefact in suite.artefacts.values())
    runs = suite.experiments.with_inputs(cell.run for cell in cells)
    return sorted(run.name for run in runs if run.variant == "default" and run.seed == suite.seeds[0])


def objective(run: Run, experiments: config.Experiments, perceptual: Path | None) -> tuple[Objective, str]:
    """The objective, and the distance that it has."""
    if not experiments.perceptual(run) or perceptual:
        eager = dataclasses.replace(run, training=dataclasses.replace(run.training, compile=False))
        return build.build_objective(eager, perceptual), run.settings.get("distance", "none")
    return dataclasses.replace(run.objective, distance=l2), f"l2 (instead of {run.settings['distance']})"


def networks(run: Run, teacher: Run | None) -> tuple[nn.Module, nn.Module | None]:
    """The student, with the weights of the teacher where it starts from them, and the teacher: each in memory once."""
    torch.manual_seed(run.seed)
    phi = build.build_model(build.run_description(teacher)) if teacher else None
    if phi is None or not run.objective.starts_from_teacher:
        return build.build_model(build.run_description(run)), phi
    with torch.device("meta"):
        student = build.build_model(build.run_description(run))
    student = student.to_empty(device="cpu")
    student.load_state_dict(phi.state_dict())
    return student, phi


def plan(run: Run, loss: Objective, teacher: Run | None, precision: str) -> Plan:
    """A training of one iteration on two random images."""
    network, draw = run.network, np.random.default_rng(run.seed)
    shape, classes = (2, network.resolution, network.resolution, network.image_channels), getattr(network, "classes", 0)
    how = {"total_steps": 1, "batch": 1, "precision": precision, "checkpointing": True, "compile": False}
    student, phi = networks(run, teacher)
    return Plan(
        name=run.name,
        seed=run.seed,
        objective=loss,
        training=dataclasses.replace(run.training, **how),
        noise=run.noise,
        student=student,
        images=draw.integers(0, 256, shape, np.uint8),
        labels=draw.integers(0, classes, 2) if classes else None,
        keep=[100],
        out=Path(tempfile.gettempdir()),
        description={},
        teacher=phi,
    )


def measure(name: str, experiments: config.Experiments, perceptual: Path | None, precision: str) -> str:
    """A row of the table."""
    began, run = time.perf_counter(), experiments.run(name)
    loss, distance = objective(run, experiments, perceptual)
    trainer = Trainer(plan(run, loss, experiments.teacher(run), precision))
    built = time.perf_counter()
    value = float(trainer.step())
    ended = time.perf_counter()
    parameters = sum(parameter.numel() for parameter in trainer.state.student.parameters())
    state = trainer.state
    roles = {"student": state.student, "ema": state.ema, "target": state.target, "teacher": trainer.teacher}
    held = ", ".join(role for role, network in roles.items() if network is not None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    cells = (name, f"{parameters:,}", held, distance, f"{value:.3g}", f"{built - began:.1f}", f"{ended - built:.1f}")
    return f"| {' | '.join(cells)} | {peak:.2f} GB |"


def in_process(name: str, options: argparse.Namespace) -> str:
    """The row of a run, measured in a process of its own; why not, if that ends badly."""
    command = [sys.executable, __file__, "--measure", name, "--precision", options.precision]
    command += ["--experiments", str(options.experiments)]
    command += ["--perceptual", str(options.perceptual)] if options.perceptual else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return done.stdout.splitlines()[-1]
    reason = (done.stderr.splitlines() or ["killed"])[-1]
    return f"| {name} | failed with status {done.returncode}: {reason} |{' |' * (len(COLUMNS) - 2)}"


def options_of() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", metavar="RUN")
    parser.add_argument("--experiments", type=Path, default=config.EXPERIMENTS)
    parser.add_argument("--perceptual", type=Path, help="model file of the perceptual distance")
    parser.add_argument("--precision", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure and print or write a Markdown table."""
    options = options_of()
    if options.measure:
        experiments = config.Experiments(options.experiments)
        print(measure(options.measure, experiments, options.perceptual, options.precision))
        return
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    print("\n".join(lines), flush=True)
    for name in options.runs or default_runs():
        lines.append(in_process(name, options))
        print(lines[-1], flush=True)
    lines.append(f"\nBatch 1, {options.precision}, checkpointed, {os.cpu_count()} cores, torch {torch.__version__}, ")
    lines[-1] += f"Python {platform.python_version()}; random images and teachers. 1 GB is 10^9 bytes."
    print(lines[-1])
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
