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

    def step(self, wants_to_save: bool = False) -> Tensor:
        """Do one step; returns [2]: the mean loss of the global batch, and how many processes want to save."""
        state = self.state
        state.optimiser.clear_gradients()
        loss = self._backward()
        numbers = torch.stack([loss, torch.full_like(loss, wants_to_save)])
        numbers = self.plan.processes.sum_gradients(state.optimiser.parameters, numbers)
        self._update(state.step)
        state.step += 1
        return numbers

    def close(self) -> None:
        """End the thread that loads the batches."""
        self._batches.close()

    def _backward(self) -> Tensor:
        """Add up the gradients of the mean loss over the microbatches; returns the part of the loss of this process."""
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

    Of several processes the first one writes the files. Raises UserError when the loss or a weight becomes non-finite,
    and when the weights of two processes differ; the state before that stays on disk.
    """
    trainer = Trainer(plan)
    with contextlib.closing(trainer):
        _resume(trainer.state)
        _train(trainer)


def _resume(state: TrainingState) -> None:
    """Continue from the saved state: first the first process, which sets aside what cannot be continued."""
    processes = state.plan.processes
    if processes.is_first:
        state.resume()
    processes.wait()
    if not processes.is_first:
        state.resume()


def _train(trainer: Trainer) -> None:
    plan, state = trainer.plan, trainer.state
    total, processes = plan.training.total_steps, plan.processes
    progress, saved = ProgressBar(plan.name, total, start=state.step, shown=processes.is_first), time.monotonic()
    check_every, first_step, wanted = 1 if plan.device == "cpu" else 50, state.step + 1, 0.0
    while state.step < (plan.stop_at or total):
        numbers = trainer.step(wants_to_save=processes.is_first and time.monotonic() - saved > plan.save_seconds)
        due = plan.due(state.step)
        if state.step == first_step:
            state.check_equal()
        if state.step % check_every == 0 or due:
            loss, wanted = numbers.tolist()
            if not np.isfinite(loss):
                raise state.diverged(f"the loss is {loss}")
            progress.update(state.step - progress.done, loss=loss)
        for percentage in due:
            state.keep(percentage)
        if state.step < total and (due or wanted):
            state.save()
            saved, wanted = time.monotonic(), 0.0
    progress.close()
    if plan.stop_at is None:
        state.finish()
    else:
        state.save()
