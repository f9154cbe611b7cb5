"""A place with everything small: experiment files, prepared digits, and models trained for a moment."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
import yaml

from cm import build, data
from cm.config import Experiments
from cm.training.plan import Plan
from cm.training.trainer import train

torch.set_num_threads(1)  # networks in tests are so small that a second thread only gets in the way

NETWORK = {"name": "ncsnpp", "resolution": 8, "image_channels": 1, "channels": 8, "multipliers": [1, 2], "blocks": 1}
TRAINING = {"total_steps": 12, "batch": 16, "lr": 1.0e-3, "ema_decay": 0.9}
FILES = {
    "base": {
        "network": NETWORK | {"attention": [4], "dropout": 0.1},
        "noise": {"name": "karras"},
        "perceptual": "digits/classifier/default/seed1",
        "evaluation": {"protocol": "offline", "samples": 40},
    },
    "edm": {"training": TRAINING | {"optimiser": "adam", "flip": True}, "sampler": "ode,solver~heun,steps~4"},
    "cd": {"training": TRAINING, "objective": {"distance": "lpips"}, "teacher": "edm", "sampler": "onestep"},
    "ct": {
        "training": TRAINING,
        "objective": {"distance": "l1", "curriculum": {"name": "adaptive", "s1": 10}},
        "sampler": "onestep",
    },
    "ict": {
        "training": TRAINING,
        "objective": {"curriculum": {"name": "doubling", "s0": 2, "s1": 8}},
        "sampler": "onestep",
    },
    "cd-inf": {"training": TRAINING, "teacher": "edm", "sampler": "onestep"},
    "ct-inf": {"training": TRAINING, "objective": {"distance": "l2"}, "teacher": "edm", "sampler": "onestep"},
    "ect": {"training": TRAINING, "objective": {"stage_steps": 4}, "teacher": "edm", "sampler": "onestep"},
    "tcm": {"training": TRAINING, "objective": {"first_stage": 2}, "teacher": "ect", "sampler": "onestep"},
    "sct": {
        "training": TRAINING,
        "objective": {"parametrization": "edm", "tangent_warmup": 6},
        "teacher": "edm",
        "sampler": "onestep",
    },
    "scd": {
        "training": TRAINING,
        "objective": {"parametrization": "edm", "tangent_warmup": 6},
        "teacher": "edm",
        "sampler": "onestep",
    },
    "meanflow": {
        "network": {"two_times": True, "augment_dim": 6},
        "training": TRAINING | {"flip": True, "augment": ["scale", "aniso", "translate"]},
        "noise": {"sigma_max": 1.0e6},
        "sampler": "flowmap,steps~2",
    },
    "pd": {
        "training": TRAINING | {"clip": 1.0},
        "teacher": "edm",
        "chain": 2,
        "sampler": "ode,denoise_last~false,solver~euler,steps~{steps}",
    },
    "classifier": {
        "network": {"name": "classifier", "resolution": 8, "image_channels": 1, "channels": 8, "features": 8},
        "training": TRAINING | {"optimiser": "adam"},
    },
}


# The files that take minutes come first, so that no process ends long after the others.
SLOW_FIRST = ("workflow/test_slurm.py", "jobs/", "training/", "workflow/")


def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores, since the tests of Slurm wait most of the time."""
    return min((os.cpu_count() or 1) + 1, 8)


def pytest_collection_modifyitems(items):
    """Sort by `SLOW_FIRST`; the order is otherwise that of the folders."""
    tests = Path(__file__).parent

    def place(item) -> int:
        name = item.path.relative_to(tests).as_posix()
        return next((index for index, start in enumerate(SLOW_FIRST) if name.startswith(start)), len(SLOW_FIRST))

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def own_gpu_locks(tmp_path_factory):
    """Locks of GPUs that no other process knows, so that tests never wait for a GPU that somebody computes on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CM_GPU_LOCKS", str(tmp_path_factory.mktemp("gpu-locks")))
        yield


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Experiment files, prepared digits, and two classifiers and two teachers, trained for a moment."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "experiments" / "digits").mkdir(parents=True)
    for name, document in FILES.items():
        (folder / "experiments" / "digits" / f"{name}.yaml").write_text(yaml.safe_dump(document))
    data.prepare("digits", folder / "data")
    for run in ("classifier/default/seed0", "classifier/default/seed1", "edm/default/seed0", "ect/default/seed0"):
        train(plan_of(folder, f"digits/{run}"))
    return folder


@pytest.fixture
def judge(place):
    """The classifier that scores."""
    return place / "models/digits/classifier/default/seed0/100.safetensors"


def plan_of(place: Path, name: str, out: Path | None = None, **changes) -> Plan:
    experiments = Experiments(place / "experiments")
    run = experiments.run(name)
    models = {
        role: place / "models" / other.name / "100.safetensors" for role, other in experiments.inputs(run).items()
    }
    out = out or place / "models" / name
    plan = build.plan_training(run, data=place / "data", out=out, keep=[50, 100], inputs=models, device="cpu")
    return dataclasses.replace(plan, **changes)


def measured(folder: Path) -> list[dict]:
    """The lines of `metrics.jsonl`, but for what differs from start to start."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("images_per_second", "seconds", "memory")}
        for line in lines
    ]
