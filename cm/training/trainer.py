"""The training loop, the same for every method. It knows no objective, data set or network by name."""

from __future__ import annotations

import contextlib
import time
from functools import partial

import numpy as np
import torch
from torch import Tensor

from cm.diffusion.sampling import autocast, to_device
from cm.methods.base import Batch, Networks
from cm.networks.base import set_activation_checkpointing
from cm.training.batches import Batches
from cm.training.plan import Plan
from cm.training.state import TrainingState, freeze
from cm.training.update import Update, compile_mode
from cm.utils.progress_bar import ProgressBar


class Trainer:
    """Trains the student of a plan, one step at a time; `state` holds everything that a step changes."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.state, self._batches = plan, TrainingState(plan), Batches(plan)
        self.teacher = freeze(to_device(plan.teacher, plan.device)) if plan.teacher is not None else None
        self._device, self._update = torch.device(plan.device), Update(plan, self.state)
        set_activation_checkpointing(self.state.student, plan.training.checkpointing)
        for module in (self.state.student, self.state.target, self.teacher):
            if plan.training.compile and module is not None:
                module.compile(mode=compile_mode(plan.training))

    def step(self) -> Tensor:
        """Do one step; returns the mean loss of the batch, a scalar on the device."""
        state = self.state
        state.optimiser.clear_gradients()
        loss = self._backward()
        self._update(state.step)
        state.step += 1
        return loss

    def close(self) -> None:
        """End the thread that loads the batches."""
        self._batches.close()

    def _backward(self) -> Tensor:
        """Add up the gradients of the mean loss over the microbatches; returns that loss."""
        plan, total = self.plan, torch.zeros((), device=self._device)
        for batch in self._batches.microbatches(self.state.step):
            if plan.training.cuda_graphs:
                torch.compiler.cudagraph_mark_step_begin()
            with autocast(self._device, plan.training.precision):
                losses = plan.objective.loss(self._networks(batch), batch)
            loss = losses.float().sum() / plan.training.batch
            self.state.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _networks(self, batch: Batch) -> Networks:
        """The networks with the dropout of this batch: student and target have the same masks, the teacher has none."""
        seeds = torch.from_numpy(batch.seeds).to(self._device)
        student, target = self.state.student, self.state.target
        return Networks(
            student=partial(student, dropout_seeds=seeds),
            target=partial(target, dropout_seeds=seeds) if target is not None else None,
            teacher=self.teacher,
        )


def train(plan: Plan) -> None:
    """Train from the saved state, or from the start, to the end, and leave one model for each kept percentage.

    Raises UserError when the loss or a weight becomes non-finite; the state before that stays on disk.
    """
    trainer = Trainer(plan)
    with contextlib.closing(trainer):
        _train(trainer)


def _train(trainer: Trainer) -> None:
    plan, state = trainer.plan, trainer.state
    total = plan.training.total_steps
    state.resume()
    progress, saved = ProgressBar(plan.name, total, start=state.step), time.monotonic()
    check_every = 1 if plan.device == "cpu" else 50
    while state.step < (plan.stop_at or total):
        loss = trainer.step()
        due = plan.due(state.step)
        if state.step % check_every == 0 or due:
            value = loss.item()
            if not np.isfinite(value):
                raise state.diverged(f"the loss is {value}")
            progress.update(state.step - progress.done, loss=value)
        for percentage in due:
            state.keep(percentage)
        if state.step < total and (due or time.monotonic() - saved > plan.save_seconds):
            state.save()
            saved = time.monotonic()
    progress.close()
    if plan.stop_at is None:
        state.finish()
    else:
        state.save()
