"""The training loop, one for every method. It knows no objective, data set or network by name.

All randomness of iteration k comes from (seed, k), so a training that is killed and started again goes on as if nothing
had happened: its state is the weights, the optimiser and k.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cm.checkpoints import native
from cm.config import Training
from cm.diffusion.noise import KarrasNoise
from cm.diffusion.sampling import autocast, placed
from cm.errors import UserError
from cm.methods.base import Batch, Networks, Objective
from cm.networks.modules.unet import checkpointing
from cm.utils.progress_bar import ProgressBar

OPTIMISERS = {"adam": torch.optim.Adam, "radam": torch.optim.RAdam}


@dataclass
class Plan:
    """A training. `keep`: percentages of it at which the averaged weights become `out`/<percentage>.safetensors.

    `images` uint8 [N, H, W, C]; `labels` [N] or None; `description` is stored with the weights. `save_seconds`: time
    between saved states. `stop_at`: pause after that many iterations, with the state saved.
    """

    name: str
    seed: int
    objective: Objective
    training: Training
    noise: KarrasNoise
    student: nn.Module
    images: np.ndarray
    labels: np.ndarray | None
    keep: list[int]
    out: Path
    description: dict[str, Any]
    teacher: nn.Module | None = None
    device: str = "cpu"
    save_seconds: float = 60.0
    stop_at: int | None = None

    @property
    def partial(self) -> Path:
        """Where a training that is not finished keeps its state and the models written so far."""
        return self.out / "partial"

    def mark(self, percentage: int) -> int:
        """The iteration after which the model of that percentage is kept."""
        return max(1, round(self.training.total_steps * percentage / 100))


class Trainer:
    """The state of a training: student, target, averaged student, optimiser, and the number of iterations done."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.k = plan, 0
        self.student = placed(plan.student, plan.device).train()
        self.average = _frozen_copy(self.student)
        self.target = _frozen_copy(self.student) if plan.objective.has_target else None
        self.teacher = _frozen(placed(plan.teacher, plan.device)) if plan.teacher is not None else None
        checkpointing(self.student, plan.training.checkpointing)
        self.optimiser = _optimiser(plan.training, self.student)
        self._scaler = torch.amp.GradScaler(
            torch.device(plan.device).type, enabled=plan.training.precision == "float16"
        )
        self._generator = torch.Generator(plan.device)
        self._generators = [self._generator, _default_generator(plan.device)]
        self._batches = _Batches(plan)
        for module in filter(None, (self.student, self.target, self.teacher) if plan.training.compile else ()):
            module.compile()

    def step(self) -> Tensor:
        """One iteration; gives the mean loss, a scalar on the device."""
        training = self.plan.training
        self._set_rate(learning_rate(training, self.k))
        self.optimiser.zero_grad(set_to_none=True)
        loss = self._backward()
        if training.clip is not None:
            self._scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.student.parameters(), training.clip)
        self._scaler.step(self.optimiser)
        self._scaler.update()
        self._follow()
        self.k += 1
        return loss

    def _backward(self) -> Tensor:
        """Gradients of the mean loss, added up over parts of the batch; gives that loss."""
        plan, total = self.plan, 0.0
        seed = int(np.random.SeedSequence([plan.seed, self.k]).generate_state(1, np.uint64)[0] >> 1)
        for generator in self._generators:
            generator.manual_seed(seed)
        x, labels = self._batches.at(self.k)
        nets, size = Networks(self.student, self.target, self.teacher), plan.training.microbatch or len(x)
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            own = None if labels is None else labels[part]
            with autocast(torch.device(plan.device), plan.training.precision):
                terms = plan.objective.loss(
                    nets, Batch(x[part], own, plan.noise, self.k, plan.training.total_steps, self._generator)
                )
            loss = terms.float().sum() / len(x)
            self._scaler.scale(loss).backward()
            total = total + loss.detach()
        return total

    def _set_rate(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    @torch.no_grad()
    def _follow(self) -> None:
        _average(self.average, self.student, self.plan.training.ema_decay)
        if self.target is not None:
            mu = self.plan.objective.mu_at(self.k, self.plan.training.total_steps)
            _average(self.target, self.student, mu)

    # ---- files ----

    def save(self) -> None:
        """Write the state, unless a weight is not finite."""
        self._must_be_finite()
        tensors = {f"{part}.{name}": tensor for part, name, tensor in self._tensors()}
        about = {"k": self.k, "of": self.plan.description, "scaler": self._scaler.state_dict()}
        native.save(self._state_path, tensors, about)

    def resume(self) -> None:
        """Take up the state that an earlier start left, if it is one of this very run with all its models so far."""
        if not self._state_path.exists():
            return
        tensors, description = native.load(self._state_path)
        if description["of"]["run"] != self.plan.name:
            raise UserError(f"{self._state_path} belongs to {description['of']['run']}, not to {self.plan.name}")
        if _settings(description["of"]) != _settings(self.plan.description) or self._lacks_models(description["k"]):
            self._set_aside()
            return
        self._materialise_optimiser(tensors)
        for part, name, tensor in self._tensors():
            tensor.copy_(tensors[f"{part}.{name}"])
        self.k = description["k"]
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(description["scaler"])

    def keep(self, percentage: int) -> None:
        """Write the averaged weights as the model at that percentage."""
        self._must_be_finite()
        description = {**self.plan.description, "progress": percentage, "iteration": self.k}
        native.save(self.plan.partial / f"{percentage}.safetensors", self.average.state_dict(), description)

    def finish(self) -> None:
        """Move the models to their places and remove the state."""
        for percentage in self.plan.keep:
            name = f"{percentage}.safetensors"
            (self.plan.partial / name).replace(self.plan.out / name)
        shutil.rmtree(self.plan.partial)

    @property
    def _state_path(self) -> Path:
        return self.plan.partial / "state.safetensors"

    def _set_aside(self) -> None:
        aside = self.plan.out / "superseded"
        print(f"{self.plan.partial} is of other settings or inputs: starting anew, that is kept in {aside}", flush=True)
        shutil.rmtree(aside, ignore_errors=True)
        self.plan.partial.replace(aside)

    def _lacks_models(self, k: int) -> bool:
        passed = [percentage for percentage in self.plan.keep if self.plan.mark(percentage) <= k]
        return not all((self.plan.partial / f"{percentage}.safetensors").exists() for percentage in passed)

    def _tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        modules = {"student": self.student, "average": self.average, "target": self.target}
        for part, module in modules.items():
            for name, tensor in module.state_dict().items() if module is not None else ():
                yield part, name, tensor
        for index, parameter in enumerate(self.student.parameters()):
            for name, value in sorted(self.optimiser.state[parameter].items()):
                yield f"optimiser.{index}", name, value

    def _materialise_optimiser(self, stored: Mapping[str, Tensor]) -> None:
        """Make the optimiser's buffers of the parameters that have `stored` ones, to copy those into them."""
        self._set_rate(0.0)
        for index, parameter in enumerate(self.student.parameters()):
            parameter.grad = torch.zeros_like(parameter) if f"optimiser.{index}.step" in stored else None
        self.optimiser.step()

    def _must_be_finite(self) -> None:
        if not all(bool(p.isfinite().all()) for p in self.average.parameters()):
            raise self.diverged("a weight is not finite")

    def diverged(self, what: str) -> UserError:
        """The error for a training that has become non-finite; what was saved before stays."""
        kept = f"the last good state is {self._state_path}" if self._state_path.exists() else "no state was saved yet"
        return UserError(f"{self.plan.name}: {what} at iteration {self.k}: no model is written; {kept}")


def run(plan: Plan) -> None:
    """Train from wherever an earlier start got to, and leave one model for each kept percentage.

    Raises UserError when the loss or a weight becomes non-finite; the state before that stays on disk.
    """
    trainer = Trainer(plan)
    trainer.resume()
    total = plan.training.total_steps
    progress, saved = ProgressBar(plan.name, total, start=trainer.k), time.monotonic()
    check_every = 1 if plan.device == "cpu" else 50
    while trainer.k < (plan.stop_at or total):
        loss = trainer.step()
        due = [percentage for percentage in plan.keep if plan.mark(percentage) == trainer.k]
        if trainer.k % check_every == 0 or due:
            value = loss.item()
            if not np.isfinite(value):
                raise trainer.diverged(f"the loss is {value}")
            progress.update(trainer.k - progress.done, loss=value)
        for percentage in due:
            trainer.keep(percentage)
        if trainer.k < total and (due or time.monotonic() - saved > plan.save_seconds):
            trainer.save()
            saved = time.monotonic()
    progress.close()
    if plan.stop_at is None:
        trainer.finish()
    else:
        trainer.save()


def learning_rate(training: Training, k: int) -> float:
    """The rate of iteration k: a linear rise from 0 over `warmup`, then constant or linear to 0 at the end."""
    rise = min(1.0, k / training.warmup) if training.warmup else 1.0
    fall = 1.0 - k / training.total_steps if training.lr_decay == "linear" else 1.0
    return training.lr * rise * fall


def _settings(description: dict[str, Any]) -> dict[str, Any]:
    """A description without what may differ between two starts of one training."""
    return {key: value for key, value in description.items() if key not in ("commit", "version")}


class _Batches:
    """Batches in an order that depends on the seed and the iteration only: a new permutation for every epoch."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._orders = plan, {}

    def at(self, k: int) -> tuple[Tensor, Tensor | None]:
        """Images [B, C, H, W] in [-1, 1] and labels [B] of iteration k, on the device."""
        plan, size = self._plan, self._plan.training.batch
        places = np.array([self._place(position) for position in range(k * size, (k + 1) * size)])
        x = torch.from_numpy(plan.images[places]).to(plan.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        if plan.training.flip:
            flipped = np.random.default_rng([plan.seed, k]).random((size, 1, 1, 1)) < 0.5
            x = torch.where(torch.from_numpy(flipped).to(plan.device), x.flip(3), x)
        labels = None if plan.labels is None else torch.from_numpy(plan.labels[places]).to(plan.device)
        return x, labels

    def _place(self, position: int) -> int:
        epoch, offset = divmod(position, len(self._plan.images))
        if epoch not in self._orders:
            order = np.random.default_rng([self._plan.seed, epoch]).permutation(len(self._plan.images))
            self._orders = {old: kept for old, kept in self._orders.items() if old >= epoch - 1} | {epoch: order}
        return self._orders[epoch][offset]


def _optimiser(training: Training, module: nn.Module) -> torch.optim.Optimizer:
    extra = {"fused": True} if training.optimiser == "adam" else {"foreach": True}
    return OPTIMISERS[training.optimiser](module.parameters(), lr=training.lr, betas=(0.9, 0.999), eps=1e-8, **extra)


def _default_generator(device: str) -> torch.Generator:
    """The source of dropout on that device (seeding it alone is much cheaper than `torch.manual_seed`)."""
    place = torch.device(device)
    if place.type != "cuda":
        return torch.default_generator
    torch.cuda.init()
    return torch.cuda.default_generators[torch.cuda.current_device() if place.index is None else place.index]


def _average(followers: nn.Module, leader: nn.Module, decay: float) -> None:
    get_ema_multi_avg_fn(decay)(list(followers.parameters()), list(leader.parameters()), 0)


def _frozen_copy(module: nn.Module) -> nn.Module:
    return _frozen(copy.deepcopy(module))


def _frozen(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False)
